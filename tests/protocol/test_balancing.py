"""Several servers behind one name each get their share, and connections that age lose nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest

from cliptune.protocol import grpc_options
from tests.ports import free_port

CLIENTS = 8


def start(address: str, age_ms: int) -> grpc.Server:
    """A server that says where it is, once or for as long as it is asked to."""

    def once(request: bytes, context: grpc.ServicerContext) -> bytes:
        return address.encode()

    def long(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        end = time.monotonic() + float(request)
        while time.monotonic() < end:
            yield address.encode()
            time.sleep(0.05)

    methods = {
        "Once": grpc.unary_unary_rpc_method_handler(once),
        "Long": grpc.unary_stream_rpc_method_handler(long),
    }
    options = {**dict(grpc_options.SERVER), "grpc.max_connection_age_ms": age_ms}
    server = grpc.server(futures.ThreadPoolExecutor(16), options=list(options.items()))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", methods),))
    assert server.add_insecure_port(address)
    server.start()
    return server


@pytest.fixture
def replicas() -> Iterator[str]:
    """Three servers whose connections get half a second old, as gRPC names them together."""
    port = free_port()
    addresses = [f"127.0.0.{number}:{port}" for number in (1, 2, 3)]
    servers = [start(address, age_ms=500) for address in addresses]
    yield f"ipv4:{','.join(addresses)}"
    for server in servers:
        server.stop(None)


def test_replicas_share_the_calls_while_connections_come_and_go(replicas: str) -> None:
    """With the options of the gateway's channels; with gRPC's own, one server gets all calls."""

    def ask(seconds: float) -> Counter[bytes]:
        answers: Counter[bytes] = Counter()
        with grpc.insecure_channel(replicas, grpc_options.SERVER) as channel:
            once = channel.unary_unary("/test/Once")
            long = channel.unary_stream("/test/Long")(str(seconds).encode(), timeout=30)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                answers[once(b"", timeout=10)] += 1  # an error would be raised
            stayed = set(long)
        assert len(stayed) == 1, "a stream goes on where it began, however old its connection"
        return answers

    with futures.ThreadPoolExecutor(CLIENTS) as pool:
        answers = sum(pool.map(ask, [3.0] * CLIENTS), Counter[bytes]())
    assert len(answers) == 3
    mean = answers.total() / 3
    assert all(0.7 * mean < count < 1.3 * mean for count in answers.values()), answers


def test_an_old_connection_is_given_up_for_a_new_one() -> None:
    port = free_port()
    server = start(f"127.0.0.1:{port}", age_ms=500)
    seen = []
    with grpc.insecure_channel(f"127.0.0.1:{port}", grpc_options.SERVER) as channel:
        channel.subscribe(seen.append)
        once = channel.unary_unary("/test/Once")
        end = time.monotonic() + 3
        while time.monotonic() < end:
            once(b"", timeout=10)
            time.sleep(0.01)
    server.stop(None)
    assert seen.count(grpc.ChannelConnectivity.READY) >= 3, seen
