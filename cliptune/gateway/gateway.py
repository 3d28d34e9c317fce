"""The gateway of both Flows: gRPC and HTTP at once, and errors that are fit for clients."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import cliptune.serving  # (first: it keeps Jina from calling home)
from docarray import DocList
from jina.proto import jina_pb2
from jina.serve.runtimes.gateway.gateway import BaseGateway
from jina.serve.runtimes.gateway.request_handling import GatewayRequestHandler
from jina.serve.runtimes.servers.composite import CompositeBaseServer
from jina.serve.runtimes.servers.grpc import GRPCServer
from jina.serve.runtimes.servers.http import FastAPIBaseServer
from jina.types.request.data import DataRequest, SingleDocumentRequest

from cliptune.errors import (
    BadInput,
    CliptuneError,
    ModelSwitched,
    NotFound,
    Unavailable,
    near_matches,
)
from cliptune import settings
from cliptune.gateway import middleware
from cliptune.observability import logs, metrics, request_ids, tracing
from cliptune.protocol import errors, jina_compat, jina_counters, redaction
from cliptune.serving import startup
from cliptune.gateway.admission import EVERYBODY, PRESENTED, Admission
from cliptune.gateway.dispatch import Calls
from cliptune.gateway.clip_service.adapter import Adapter
from cliptune.gateway.clip_service.grpc_server import ClipServiceServer
from cliptune.gateway.auth import GrpcDoor, abort, until_ended, until_ending
from cliptune.gateway.ordered import in_order
from cliptune.gateway.messages import check_single, checked, choose_executors, unpack
from cliptune.observability.request_log import OTHER, observe_app, observed, send_along
from cliptune.protocol.parameters import MAX_BODY

jina_compat.agree_on_pings()
WINDOW = 16
"""Requests of one stream that are worked on at once."""
SWITCH_WAITS = (0.05, 0.2, 1.0, 3.0)
"""Seconds before a write is made again that a switch of the model has overtaken."""


UNDER_WAY: ContextVar[list[Any] | None] = ContextVar("calls under way", default=None)
"""gRPC calls to executors of the request that is being worked on."""


def remember_calls() -> None:
    """Have Jina's calls to executors noted in `UNDER_WAY`.

    It awaits a call's trailing metadata first, and giving that up does not cancel the call.
    """
    from jina.serve.networking.connection_stub import _ConnectionStubs

    make = _ConnectionStubs._init_stubs

    async def make_noting(self: _ConnectionStubs) -> None:
        await make(self)
        if (stub := self.single_data_stub) is not None:
            ask = stub.process_single_data

            def noted(*args: Any, **kwargs: Any) -> Any:
                call = ask(*args, **kwargs)
                if (calls := UNDER_WAY.get()) is not None:
                    calls.append(call)
                return call

            stub.process_single_data = noted

    _ConnectionStubs._init_stubs = make_noting


class RequestHandler(GatewayRequestHandler):
    """Sends requests to the executors, and takes tracebacks out of their answers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take Jina's own arguments; the API keys come from the environment."""
        remember_calls()
        super().__init__(*args, **kwargs)
        self.admission = Admission.from_environment()

    async def process_single_data(self, request: DataRequest, context: Any = None) -> DataRequest:
        """One request; an error becomes the gRPC status that matches it."""
        told = dict(context.invocation_metadata() or ()) if context is not None else {}
        request, refused = await self._unpack(request)
        given_id = told.get(request_ids.HEADER) or self._header(request).request_id
        with observed("grpc", given_id, told.get(tracing.HEADER)) as call:
            call.endpoint, call.status = self._endpoint(request), "OK"
            if context is not None:
                returned = ((request_ids.HEADER, request_ids.current.get()),)
                await context.send_initial_metadata(returned)
            try:
                if refused is not None:
                    raise refused
                return await self.ask(request)
            except CliptuneError as error:
                call.status = errors.grpc_code(error).name
                if context is None:
                    raise
                await abort(context, error)
                raise

    async def ask(self, request: DataRequest) -> DataRequest:
        """One request; raises the `CliptuneError` that a client is told of."""
        documents = await checked(request)
        endpoint = request.header.exec_endpoint
        with self.admission.admit(PRESENTED.get(), endpoint, documents) as key:
            redaction.OPERATOR.set(key is not EVERYBODY and key.role == "admin")
            try:
                self._check_endpoint(endpoint, streams=False)
                send_along(request)
                choose_executors(request)
                for wait in (*SWITCH_WAITS, None):
                    response = await self._send(request)
                    refused = errors.from_status(response.header.status)
                    if wait is None or not isinstance(refused, ModelSwitched):
                        break
                    # Embedded by the model from before a switch: once more, by the new one.
                    await asyncio.sleep(wait)
            except Exception as error:
                raise errors.from_exception(error) from None
            if refused is not None:
                raise refused
            return response

    async def _send(self, request: DataRequest) -> DataRequest:
        """Send a request through the executors; if whoever asked goes, they are told to stop.

        Jina's own way waits for a queue: cancelled, it would leave the calls under way.
        """
        calls: list[Any] = []
        UNDER_WAY.set(calls)
        handle = self.streamer._streamer._request_handler
        responses, _ = handle(request=request, return_type=DocList)
        try:
            # Shielded, so that it is cancelled once: what runs a request may cancel it again and
            # again until it ends, which would cut off how the calls are cancelled.
            return self.streamer._streamer._result_handler(await asyncio.shield(responses))
        except asyncio.CancelledError:
            for call in calls:
                call.cancel()
            responses.cancel()
            raise

    async def stream(
        self, request_iterator: Any, context: Any = None, *args: Any, **kwargs: Any
    ) -> AsyncIterator[DataRequest]:
        """A stream of requests, answered in order; an error is in the status of its own response.

        `WINDOW` of them are worked on at once; those after them wait at the client's.
        """
        try:
            requests = until_ended(self.admission, request_iterator)
            async for response in in_order(requests, self._answer, WINDOW):
                yield response
            if self.admission.ending.is_set():
                raise Unavailable("this service is ending")
        except Exception as failure:
            told = errors.from_exception(failure)
            if context is None:
                raise told from None
            await abort(context, told)

    Call = stream

    async def _unpack(self, request: DataRequest) -> tuple[DataRequest, CliptuneError | None]:
        """The request, parsed; or an empty one in its place, and what is wrong with it."""
        try:
            await unpack(request)
        except CliptuneError as error:
            return DataRequest(), error
        return request, None

    async def _answer(self, request: DataRequest) -> DataRequest:
        request, refused = await self._unpack(request)
        with observed("grpc", self._header(request).request_id) as call:
            call.endpoint, call.status = self._endpoint(request), "OK"
            try:
                if refused is not None:
                    raise refused
                return await self.ask(request)
            except CliptuneError as error:
                call.status = errors.grpc_code(error).name
                return errors.refusal(request, error)

    async def stream_doc(
        self, request: SingleDocumentRequest, context: Any
    ) -> AsyncIterator[SingleDocumentRequest]:
        """One document in, many out."""
        try:
            await unpack(request)
            endpoint = check_single(request)
            with self.admission.admit_stream(PRESENTED.get(), endpoint):
                self._check_endpoint(endpoint, streams=True)
                responses = self.streamer.rpc_stream_doc(request=request)
                with suppress(StopAsyncIteration):
                    while True:
                        response = await until_ending(self.admission, anext(responses))
                        refused = errors.from_status(response.header.status)
                        if refused is not None:
                            raise refused
                        yield response
        except Exception as failure:
            told = errors.from_exception(failure)
            if context is None:
                raise told from None
            await abort(context, told)

    async def _status(self, empty: Any, context: Any) -> jina_pb2.JinaInfoProto:
        """Jina's call for versions; its own answer holds the machine's environment too."""
        found = jina_pb2.JinaInfoProto()
        found.jina["cliptune"] = cliptune.__version__
        return found

    def _header(self, request: Any) -> Any:
        """The header; an empty one of what is no message."""
        try:
            return request.header
        except Exception:
            return jina_pb2.HeaderProto()

    def _endpoint(self, request: Any) -> str:
        """The endpoint as metrics name it."""
        asked = self._header(request).exec_endpoint
        return str(asked) if asked in (self.streamer._endpoints_models_map or ()) else OTHER

    def _check_endpoint(self, endpoint: str, streams: bool) -> None:
        models = self.streamer._endpoints_models_map or {}
        known = [name for name in models if name[:2] != "_j"]
        shown = sorted(name for name in known if not name.startswith("_"))
        asked = endpoint[:100]
        if known and endpoint not in known:
            raise NotFound(f"no endpoint {asked!r}: {near_matches(asked, shown)}")
        if known and bool(models[endpoint]["is_generator"]) != streams:
            raise BadInput(f"{asked!r} is no endpoint of this kind of call")


class AppServer(FastAPIBaseServer):
    """The HTTP side."""

    @property
    def host(self) -> str | None:
        """Where to bind; None is everywhere: `::` alone would leave out IPv4 here."""
        host = settings.bind_host(super().host)
        return None if host == "::" else host

    @property
    def app(self) -> Any:
        """The FastAPI application of this Flow."""
        handler = self._request_handler
        if handler.admission.training:
            from cliptune.gateway.train_app import make_app
        else:
            from cliptune.gateway.search_app import make_app
        app = observe_app(make_app(handler))
        middleware.around(app)
        return app

    async def setup_server(self) -> None:
        """Begin to serve.

        Raises:
            Unavailable: the port can't be bound.
        """
        try:
            await super().setup_server()
        except SystemExit as error:  # uvicorn's way to say so, after it has logged why
            reason = startup.reason_of(error.__context__ or error)
            raise Unavailable(f"port {self.port} of {self.host} can't be bound: {reason}") from None

    async def shutdown(self) -> None:
        """Close the door, and answer what came in."""
        for listener in self.server.servers:
            listener.close()
        # uvicorn would cut WebSockets off: they end by themselves once their answers are sent.
        sockets = self._request_handler.admission.sockets
        if sockets:
            await asyncio.wait(sockets, timeout=settings.drain_seconds())
        await super().shutdown()


class RpcServer(GRPCServer):
    """The gRPC side."""

    @property
    def host(self) -> str:
        """Where to bind, as gRPC takes it."""
        return settings.bracketed(settings.bind_host(super().host))

    def __init__(self, **kwargs: Any) -> None:
        """Take Jina's own arguments."""
        super().__init__(**kwargs)
        door = GrpcDoor(self._request_handler.admission)
        traced: list[Any] = self.aio_tracing_server_interceptors() or []
        self.grpc_tracing_server_interceptors = [*traced, door]

    async def shutdown(self) -> None:
        """Close the door, and answer what came in."""
        await self.health_servicer.enter_graceful_shutdown()
        await self.server.stop(grace=settings.drain_seconds())


class ClipGateway(CompositeBaseServer, BaseGateway):
    """gRPC and HTTP on one port each, as the Flow's `protocol` and `port` list them.

    With `clip_service_port`, clip-as-service's clients are answered there over gRPC too. With TLS,
    if CLIPTUNE_SSL_CERTFILE and CLIPTUNE_SSL_KEYFILE name a certificate and its key.
    """

    @startup.reports_failure
    def __init__(self, clip_service_port: int = 0, **kwargs: Any) -> None:
        """Take the port for clip-as-service's clients (0: none), and Jina's own arguments."""
        super().__init__(**kwargs)
        jina_counters.keep_out_of_environment()
        logs.setup("gateway")
        tracing.setup("gateway")
        host = settings.bind_host(self.host)
        metrics.serve_metrics(host)
        self._clip_service_port = clip_service_port
        self._ended = False
        self.servers = []
        tls = settings.tls_files()
        for options in self._server_kwargs:
            options |= tls
            if str(options["runtime_args"]["protocol"]).lower() == "http":
                server: Any = AppServer(**options, uvicorn_kwargs=self._uvicorn_options())
            else:
                limit = {"grpc.max_receive_message_length": MAX_BODY + 65_536}
                server = RpcServer(**{**options, "grpc_server_options": limit})
            self.servers.append(server)
        self.gateways = self.servers  # Jina's older name for them

    async def setup_server(self) -> None:
        """Begin to serve; clip-as-service's clients last, when the executors are there."""
        with startup.reporting("gateway"):
            await self._set_up()

    async def _set_up(self) -> None:
        handler = self._request_handler
        await handler.streamer._get_endpoints_input_output_models(is_cancel=self.is_cancel)
        handler.admission.training = "/fit" in (handler.streamer._endpoints_models_map or {})
        await super().setup_server()
        if self._clip_service_port:
            server = ClipServiceServer(
                Adapter(Calls(handler)),
                settings.bind_host(self.host),
                self._clip_service_port,
                credentials=settings.grpc_credentials(),
                interceptors=(GrpcDoor(handler.admission),),
            )
            await server.setup_server()
            self.servers.append(server)

    async def shutdown(self) -> None:
        """End in order: nothing new is taken, what was taken is answered, executors are let go."""
        if self._ended:  # Jina calls this twice
            return
        self._ended = True
        self._request_handler.admission.ending.set()
        await super().shutdown()
        await self._request_handler.close()

    @staticmethod
    def _uvicorn_options() -> dict[str, Any]:
        return {
            "timeout_keep_alive": 30,
            "timeout_graceful_shutdown": settings.drain_seconds(),
            "ws_max_size": MAX_BODY,
            "ws_per_message_deflate": False,  # pictures don't shrink, bombs do
            "server_header": False,
            "proxy_headers": False,  # it trusts whoever is on this machine: see `edge`
        }

    def _get_request_handler(self) -> RequestHandler:
        self.req_handler_cls = RequestHandler
        handler = super()._get_request_handler()
        # Jina wants each executor of a chain to bind the endpoints of those before it. Ours don't
        # need to: an executor is left out where it doesn't bind an endpoint.
        handler.streamer._validate_flow_docarray_compatibility = lambda: None
        return handler
