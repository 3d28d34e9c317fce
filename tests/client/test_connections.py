"""Connections: pings that both ends agree on, and servers that go away and come back."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack

import grpc
import pytest
from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.errors import Unavailable
from cliptune.protocol import grpc_options
from cliptune.protocol.endpoints import ENCODE
from cliptune.serving import Client
from tests.ports import free_port

JINAS_CLIENT = [
    ("grpc.keepalive_time_ms", 9_999),
    ("grpc.keepalive_timeout_ms", 4_999),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
"""What clients of Jina have, clip-as-service's among them."""
ECHO = """
import sys
from concurrent import futures
import grpc

methods = {"process_single_data": grpc.unary_unary_rpc_method_handler(lambda raw, context: raw)}
service = grpc.method_handlers_generic_handler("jina.JinaSingleDataRequestRPC", methods)
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((service,))
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
print("up", flush=True)
server.wait_for_termination()
"""


def faster(options: grpc_options.Options) -> grpc_options.Options:
    """The same options with all times shortened alike: gRPC pings no more than once a second.

    Connections don't age: it is pings that may end them here.
    """
    factor = grpc_options.PING_EVERY_MS // 1000
    return [
        (name, value // factor if isinstance(value, int) and name.endswith("_ms") else value)
        for name, value in options
        if name != "grpc.max_connection_age_ms"
    ]


def test_nobody_is_told_of_too_many_pings() -> None:
    """In long calls, and where there are none, a connection stays the one that it was."""
    release = futures.Future[None]()

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        if request == b"long":
            release.result(30)
        return context.peer().encode()

    # As strict as a server can be: without it, the third ping too many closes the connection.
    strict = [*faster(grpc_options.SERVER), ("grpc.http2.max_ping_strikes", 1)]
    server = grpc.server(futures.ThreadPoolExecutor(8), options=strict)
    methods = {"Ask": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    kinds = {
        "gateway to executor": grpc_options.SERVER,
        "client": grpc_options.CLIENT,
        "Jina's client": JINAS_CLIENT,
    }
    with ExitStack() as stack:
        before: dict[str, bytes] = {}
        asks: dict[str, grpc.UnaryUnaryMultiCallable] = {}
        calls: dict[str, grpc.Future] = {}
        for name, options in kinds.items():
            for state in ("busy", "silent"):
                # A pool of its own: channels of the same options would share a connection.
                own = [*faster(options), ("grpc.use_local_subchannel_pool", 1)]
                channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", own))
                # Its thread keeps the channel at work between calls, as asyncio's the gateway's.
                channel.subscribe(lambda _: None)
                one = f"{name}, {state}"
                asks[one] = channel.unary_unary("/test/Ask")
                before[one] = asks[one](b"short", timeout=30)
                if state == "busy":
                    calls[one] = asks[one].future(b"long", timeout=30)
        time.sleep(4.5)  # four pings
        release.set_result(None)
        for one, call in calls.items():
            assert call.result() == before[one], one
        for one, ask in asks.items():
            assert ask(b"short", timeout=30) == before[one], f"{one}: the server had closed it"
    server.stop(None)


def test_pings_are_rarer_than_servers_allow() -> None:
    allowed = dict(grpc_options.SERVER)["grpc.http2.min_ping_interval_without_data_ms"]
    for ours in (grpc_options.SERVER, grpc_options.CLIENT, JINAS_CLIENT):
        assert dict(ours)["grpc.keepalive_time_ms"] > allowed


def test_jinas_servers_and_channels_have_our_options() -> None:
    """Fails where Jina takes its options from elsewhere."""
    from jina.serve.networking import utils
    from jina.serve.runtimes.servers import grpc as servers

    import cliptune.protocol.jina_compat  # noqa: F401

    for module in (utils, servers):
        assert dict(module.get_server_side_grpc_options()) == dict(grpc_options.SERVER)
        more = module.get_server_side_grpc_options({"grpc.so_reuseport": 1})
        assert dict(more) == {**dict(grpc_options.SERVER), "grpc.so_reuseport": 1}


class Echo:
    """A server that answers each request with itself, and may be away."""

    def __init__(self) -> None:
        self.port = free_port()
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [sys.executable, "-c", ECHO, str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout
        assert self.process.stdout.readline() == b"up\n"

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    server.start()
    yield server
    server.stop()


def asking(client: Client) -> Callable[[], str]:
    docs = DocList[ClipDoc]([ClipDoc(id="one", text="a")])
    return lambda: str(client._transport.post(ENCODE, docs)[0].id)


def test_a_server_that_is_back_is_found_at_once(echo: Echo) -> None:
    with Client(f"grpc://127.0.0.1:{echo.port}", timeout=60, retries=0) as client:
        ask = asking(client)
        assert ask() == "one"
        echo.stop()
        for _ in range(10):  # gRPC's own pauses grow with each
            with pytest.raises(Unavailable, match=r"can't be reached: Connection refused$"):
                ask()
            time.sleep(0.1)
        echo.start()
        assert ask() == "one", "the first call, without a repetition"


def test_what_must_not_be_repeated_finds_a_server_that_was_started_anew(echo: Echo) -> None:
    with Client(f"grpc://127.0.0.1:{echo.port}", timeout=60, retries=0) as client:
        ask = asking(client)
        for _ in range(3):
            ask()
            echo.stop()
            echo.start()
            client._transport.touch()
            assert ask() == "one"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_client_after_a_fork(echo: Echo) -> None:
    with Client(f"grpc://127.0.0.1:{echo.port}", timeout=20, retries=0) as client:
        ask = asking(client)
        ask()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 7 if ask() == "one" else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert ask() == "one"
