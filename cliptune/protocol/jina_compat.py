"""Jina, as cliptune uses it: what is taken of it, what of it is changed, and why.

No other module imports Jina, so that each is mended before it is used, and a new version of Jina is
a matter of this file. `tests/protocol/test_jina_compat.py` fails where Jina differs from what these
changes were made for.

Each change may be asked for again: it is made once in a process, and is inherited by forks.
"""

from __future__ import annotations

import asyncio
import logging
import os
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc

from cliptune.documents import ClipDoc
from cliptune.errors import BadInput, Unavailable
from cliptune.protocol import grpc_options, wire_errors

# Jina would report usage to its makers and print a survey.
os.environ["JINA_OPTOUT_TELEMETRY"] = "1"
os.environ["JINA_HIDE_SURVEY"] = "1"
# It imports pkg_resources, which then warns every user of what they can do nothing about.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")


def _make_its_folder() -> None:
    """Make the folder that Jina makes when it is imported, with an error that says what to do.

    Raises:
        Unavailable: the home directory can't be written.
    """
    try:
        (Path.home() / ".cache" / "jina").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(
            f"Jina keeps a folder in the home directory, and {error.filename} can't be made "
            f"({error.strerror}): set HOME to a folder that can be written, such as /tmp"
        ) from None


_make_its_folder()

from docarray import BaseDoc, DocList
from jina import Flow
from jina._docarray import LegacyDocumentJina
from jina.logging import formatter
from jina.orchestrate.pods import Pod
from jina.proto import jina_pb2, jina_pb2_grpc, serializer
from jina.serve import helper
from jina.serve.executors import __dry_run_endpoint__ as _DRY_RUN
from jina.serve.networking.connection_stub import _ConnectionStubs
from jina.serve.runtimes.asyncio import AsyncNewLoopRuntime
from jina.serve.runtimes.gateway.graph.topology_graph import TopologyGraph
from jina.serve.runtimes.worker.request_handling import WorkerRequestHandler

if TYPE_CHECKING:
    import grpc

    from cliptune.protocol import jina_types
    from cliptune.protocol.endpoints import Endpoint
    from cliptune.protocol.jina_types import (
        BaseGateway,
        Call,
        CompositeBaseServer,
        ConnectionStubs,
        DataRequest,
        Executor,
        FastAPIBaseServer,
        GatewayRequestHandler,
        GatewayStreamer,
        GraphNode,
        GRPCServer,
        Part,
        Request,
        SingleDocumentRequest,
        requests,
        send_health_check_async,
    )
else:
    from jina import Executor, requests
    from jina.serve.networking.utils import send_health_check_async
    from jina.serve.runtimes.gateway.gateway import BaseGateway
    from jina.serve.runtimes.gateway.request_handling import GatewayRequestHandler
    from jina.serve.runtimes.servers.composite import CompositeBaseServer
    from jina.serve.runtimes.servers.grpc import GRPCServer
    from jina.serve.runtimes.servers.http import FastAPIBaseServer
    from jina.types.request import Request
    from jina.types.request.data import DataRequest, SingleDocumentRequest

__all__ = [
    "BaseGateway",
    "CompositeBaseServer",
    "DataRequest",
    "Executor",
    "FastAPIBaseServer",
    "Flow",
    "GRPCServer",
    "GatewayRequestHandler",
    "SingleDocumentRequest",
    "jina_pb2",
    "jina_pb2_grpc",
    "requests",
    "send_health_check_async",
]


def _replace(
    owner: object, name: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    """Put `around(what is there)` in the place of `owner.name`, once."""
    usual = getattr(owner, name)
    if not hasattr(usual, "__wrapped__"):
        setattr(owner, name, wraps(usual)(around(usual)))


# In every process that imports Jina.


def _agree_on_pings() -> None:
    """Give Jina's channels and servers the gRPC options of `grpc_options`.

    Jina has one list for both ends, with pings every 10 s, and means servers to allow them: but
    the names of those options are wrong (`grpc.http1.…`), so that servers allow one in five
    minutes, and close the gateway's connections to its executors every now and then.
    """
    _replace(helper, "get_default_grpc_options", lambda _: lambda: list(grpc_options.SERVER))


def _count_apart() -> None:
    """Let Jina count what it sends and receives in a dict of its own.

    It adds each message's bytes to JINA_GRPC_SEND_BYTES and JINA_GRPC_RECV_BYTES in `os.environ`,
    which nobody reads. The C library never frees a variable's former values (`setenv` of glibc):
    a gateway grew by 1.4 KB with every request.
    """
    setattr(serializer, "os", SimpleNamespace(environ={}))  # noqa: B010 - it has no such name


def _tell_errors() -> None:
    """Have exceptions told as `wire_errors` tells them.

    Jina would send the traceback along, with whatever the exception's own message holds.
    """

    def around(_: Callable[..., None]) -> Callable[..., None]:
        def add(self: Request, ex: BaseException, executor: object = None) -> None:
            wire_errors.set_status(self.header.status, wire_errors.from_exception(ex))

        return add

    _replace(Request, "add_exception", around)


_agree_on_pings()
_count_apart()
_tell_errors()


# In a Flow's process, before it starts its parts.


def report_failed_starts(reporting: Callable[[str], AbstractContextManager[None]]) -> None:
    """Have each part of a Flow start within `reporting(its name)`.

    Jina catches a part's error and logs it, or with `quiet_error` an empty line; the Flow's process
    learns no more than that one of its children has ended.
    """

    def around(setup: Callable[[Part], Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def reporting_setup(self: Part) -> None:
            with reporting(self.args.name):
                await setup(self)

        return reporting_setup

    _replace(AsyncNewLoopRuntime, "async_setup", around)


def find_part_at(part: str, host: str) -> None:
    """Have Jina ask there whether `part` is ready: it would on 127.0.0.1 always."""

    def around(usual: Callable[[Part], str]) -> Callable[[Part], str]:
        def address(self: Part) -> str:
            local = usual(self)
            is_it = self.args.name.split("/")[0] == part
            return f"{host}:{local.rpartition(':')[2]}" if is_it else local

        return address

    _replace(Pod, "_get_control_address", around)


# In every process with logs as JSON.


def format_logs_with(ours: logging.Formatter) -> None:
    """Have the loggers that Jina makes from now on write by the `logging.Formatter` `ours`."""
    os.environ["JINA_LOG_CONFIG"] = "json"
    setattr(formatter, "JsonFormatter", lambda *_: ours)  # noqa: B010 - of another type there


# In an executor's process.


def answer_before_ending(grace: float) -> None:
    """Have a server told to end take nothing new, and answer what it has, in `grace` seconds.

    Jina drops the requests that are being served.
    """

    def around(shutdown: Callable[[GRPCServer], Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def answer_first(self: GRPCServer) -> None:
            await stop_serving(self, grace)
            await shutdown(self)

        return answer_first

    _replace(GRPCServer, "shutdown", around)


async def stop_serving(server: GRPCServer, grace: float) -> None:
    """Have a gRPC server of Jina's take nothing new, and answer what it has, in `grace` seconds."""
    await server.health_servicer.enter_graceful_shutdown()
    await server.server.stop(grace=grace)


def bind_with(server: grpc.aio.Server, credentials: grpc.ServerCredentials) -> None:
    """Have a gRPC server that Jina is about to bind take these credentials.

    Jina's own are those of the files as they were at the start.
    """
    bind = server.add_secure_port

    def bind_securely(address: str, _: grpc.ServerCredentials) -> int:
        port: int = bind(address, credentials)
        return port

    setattr(server, "add_secure_port", bind_securely)  # noqa: B010 - of this one alone


def read_documents_first(large: int) -> None:
    """Have Jina find a request's documents ready: what can't be read is then known to be that.

    Those of `large` bytes are parsed beside the event loop, which would answer nobody meanwhile.
    """

    def around(handle: Callable[..., Awaitable[DataRequest]]) -> Callable[..., object]:
        async def read_first(
            self: jina_types.WorkerRequestHandler, requests: list[DataRequest], **kwargs: object
        ) -> DataRequest:
            endpoint = requests[0].header.exec_endpoint
            if endpoint in self._executor.requests:
                self._setup_req_doc_array_cls(requests, endpoint)
                size = sum(request.proto_with_data.ByteSize() for request in requests)
                if size >= large:
                    await asyncio.to_thread(_read_documents, requests)
                else:
                    _read_documents(requests)
            return await handle(self, requests, **kwargs)

        return read_first

    _replace(WorkerRequestHandler, "handle", around)


def _read_documents(requests: list[DataRequest]) -> None:
    try:
        for request in requests:
            _ = request.data.docs  # it keeps them
    except Exception as error:
        reason = ", ".join(str(one) for one in error.args) or type(error).__name__
        raise BadInput(f"a document can't be read: {reason}"[: wire_errors.MAX_MESSAGE]) from error


# In a gateway's process.

_UNDER_WAY: ContextVar[list[Call] | None] = ContextVar("calls under way", default=None)
"""gRPC calls to executors of the request that is being worked on."""


def note_calls() -> None:
    """Have calls to executors noted, so that `ask_executors` can cancel them.

    Jina awaits a call's trailing metadata first, and giving that up does not cancel the call.
    """

    def around(
        make: Callable[[ConnectionStubs], Awaitable[None]],
    ) -> Callable[..., Awaitable[None]]:
        async def make_noting(self: ConnectionStubs) -> None:
            await make(self)
            if (stub := self.single_data_stub) is not None:
                ask: Callable[..., Call] = stub.process_single_data

                def noted(*args: object, **kwargs: object) -> Call:
                    call = ask(*args, **kwargs)
                    if (calls := _UNDER_WAY.get()) is not None:
                        calls.append(call)
                    return call

                stub.process_single_data = noted

        return make_noting

    _replace(_ConnectionStubs, "_init_stubs", around)


async def ask_executors(streamer: GatewayStreamer, request: DataRequest) -> DataRequest:
    """Send a request through the executors; if whoever asked goes, they are told to stop.

    Jina's own way waits for a queue: cancelled, it would leave the calls under way.
    """
    calls: list[Call] = []
    _UNDER_WAY.set(calls)
    inner = streamer._streamer
    responses, _ = inner._request_handler(request=request, return_type=DocList)
    try:
        # Shielded, so that it is cancelled once: what runs a request may cancel it again and
        # again until it ends, which would cut off how the calls are cancelled.
        answer = inner._result_handler(await asyncio.shield(responses))
    except asyncio.CancelledError:
        for call in calls:
            call.cancel()
        responses.cancel()
        raise
    return answer


def stream_from_executors(
    streamer: GatewayStreamer, request: SingleDocumentRequest
) -> AsyncIterator[SingleDocumentRequest]:
    """Send one document to the executor that streams an answer."""
    return streamer.rpc_stream_doc(request=request)


def tell_endpoints(streamer: GatewayStreamer, flow: Mapping[str, Endpoint[BaseDoc]]) -> None:
    """Tell the gateway which of the endpoints of `flow` each executor binds.

    Jina would ask the executors, and not serve before all of them have answered: with one that is
    away there would be no gateway. It would also want each executor of a chain to bind the
    endpoints of those before it; ours are left out where they don't bind one. An executor that
    `flow` doesn't know is sent everything, and leaves alone what it doesn't bind.
    """
    for node in streamer.topology_graph.all_nodes:
        bound = {path: one for path, one in flow.items() if node.name in one.executors}
        if bound:
            node._pydantic_models_by_endpoint = {
                **{path: _models(one) for path, one in bound.items()},
                _DRY_RUN: {"input": LegacyDocumentJina, "output": LegacyDocumentJina},
            }
            node.endpoints = list(node._pydantic_models_by_endpoint)
    streamer.topology_graph._all_endpoints = set(flow)
    streamer._endpoints_models_map = {path: _models(one) for path, one in flow.items()}
    streamer._get_endpoints_input_output_models = _nothing
    streamer._validate_flow_docarray_compatibility = lambda: None


def _models(endpoint: Endpoint[BaseDoc]) -> dict[str, object]:
    return {
        "input": endpoint.takes or ClipDoc,
        "output": endpoint.gives,
        "is_generator": endpoint.streams,
        "is_singleton_doc": endpoint.streams,
    }


async def _nothing(is_cancel: object) -> None:
    """Nobody is asked."""


def name_who_is_away() -> None:
    """Have an executor that can't be reached called by its name; its addresses are for the log."""

    def around(_: Callable[..., None]) -> Callable[..., None]:
        def tell(self: GraphNode, err: grpc.aio.AioRpcError) -> None:
            raise wire_errors.no_answer(err, f"the executor {self.name!r}") from None

        return tell

    _replace(TopologyGraph._ReqReplyNode, "_handle_internalnetworkerror", around)
