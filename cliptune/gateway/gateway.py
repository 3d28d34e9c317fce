"""The gateway of both Flows: gRPC and HTTP at once, and errors that are fit for clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import grpc
from docarray import BaseDoc
from fastapi import FastAPI

from cliptune.errors import (
    BadInput,
    CliptuneError,
    ModelSwitched,
    NotFound,
    Unavailable,
    near_matches,
)
from cliptune.gateway.access.admission import EVERYBODY, PRESENTED, Admission
from cliptune.gateway.access.auth import AuthInterceptor, text_metadata
from cliptune.gateway.access.certificate import Certificate
from cliptune.gateway.clip_service.adapter import Adapter
from cliptune.gateway.clip_service.grpc_server import ClipServiceServer
from cliptune.gateway.dispatch import Addresses, Dispatcher
from cliptune.gateway.grpc_requests import check_single, checked, choose_executors, unpack
from cliptune.gateway.http.middleware import EdgeMiddleware
from cliptune.gateway.streams import map_ordered, until_ended, until_ending
from cliptune.observability import logs, metrics, request_ids, startup, tracing
from cliptune.observability.request_log import OTHER, observe_app, observed, send_along
from cliptune.protocol import jina_compat, redaction, wire_errors
from cliptune.protocol.endpoints import TRAIN_FLOW, Endpoint, answered_by, flow_of
from cliptune.protocol.jina_compat import (
    BaseGateway,
    CompositeBaseServer,
    DataRequest,
    FastAPIBaseServer,
    GatewayRequestHandler,
    GRPCServer,
    SingleDocumentRequest,
    jina_pb2,
)
from cliptune.protocol.limits import Limits
from cliptune.settings import Settings, bracketed
from cliptune.version import __version__

if TYPE_CHECKING:
    from cliptune.protocol.jina_types import HeaderProto, JinaInfoProto, ServicerContext

WINDOW = 16
"""Requests of one stream that are worked on at once."""
SWITCH_WAITS = (0.05, 0.2, 1.0, 3.0)
"""Seconds before a write is made again that a switch of the model has overtaken."""


class RequestHandler(GatewayRequestHandler):
    """Sends requests to the executors, and takes tracebacks out of their answers."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Take Jina's own arguments; all else comes from the environment."""
        jina_compat.note_calls()
        jina_compat.name_who_is_away()
        super().__init__(*args, **kwargs)
        self.settings = Settings.read()
        self.limits = Limits(self.settings)
        self.addresses: Mapping[str, Addresses] = json.loads(
            self.runtime_args.deployments_addresses
        )
        flow = flow_of(self.addresses)
        self.admission = Admission.of(self.settings, flow)
        self.endpoints = answered_by(self.addresses, flow)
        jina_compat.tell_endpoints(self.streamer, self.endpoints)

    async def process_single_data(
        self, request: DataRequest, context: ServicerContext | None = None
    ) -> DataRequest:
        """One request; an error becomes the gRPC status that matches it."""
        metadata = text_metadata(context.invocation_metadata() if context is not None else None)
        request, refused = await self._unpack(request)
        given_id = metadata.get(request_ids.HEADER) or self._header(request).request_id
        with observed("grpc", given_id, metadata.get(tracing.HEADER)) as call:
            call.endpoint, call.status = self._shown(request), "OK"
            if context is not None:
                returned = ((request_ids.HEADER, request_ids.current.get()),)
                await context.send_initial_metadata(returned)
            try:
                if refused is not None:
                    raise refused
                return await self.ask(request)
            except CliptuneError as error:
                call.status = wire_errors.grpc_code(error).name
                if context is None:
                    raise
                await wire_errors.abort(context, error)
                raise

    async def ask(self, request: DataRequest) -> DataRequest:
        """One request; raises the `CliptuneError` that a client is told of."""
        documents = await checked(request, self.limits)
        endpoint = request.header.exec_endpoint
        with self.admission.admit(PRESENTED.get(), endpoint, documents) as key:
            redaction.OPERATOR.set(key is not EVERYBODY and key.role == "admin")
            try:
                asked = self._endpoint(endpoint, streams=False)
                self.limits.check_asked(asked, documents, request.parameters)
                send_along(request, self.settings)
                choose_executors(request, self.admission.endpoints)
                for wait in (*SWITCH_WAITS, None):
                    response = await jina_compat.ask_executors(self.streamer, request)
                    refused = wire_errors.from_status(response.header.status)
                    if wait is None or not isinstance(refused, ModelSwitched):
                        break
                    # Embedded by the model from before a switch: once more, by the new one.
                    await asyncio.sleep(wait)
            except Exception as error:
                raise wire_errors.from_exception(error) from None
            if refused is not None:
                raise refused
            return response

    async def stream(
        self,
        request_iterator: AsyncIterable[DataRequest],
        context: ServicerContext | None = None,
        *args: object,
        **kwargs: object,
    ) -> AsyncIterator[DataRequest]:
        """A stream of requests, answered in order; an error is in the status of its own response.

        `WINDOW` of them are worked on at once; those after them wait at the client's.
        """
        try:
            requests = until_ended(self.admission, request_iterator)
            async for response in map_ordered(requests, self._answer, WINDOW):
                yield response
            if self.admission.ending.is_set():
                raise Unavailable("this service is ending")
        except Exception as failure:
            error = wire_errors.from_exception(failure)
            if context is None:
                raise error from None
            await wire_errors.abort(context, error)

    Call = stream

    async def _unpack(self, request: DataRequest) -> tuple[DataRequest, CliptuneError | None]:
        """The request, parsed; or an empty one in its place, and what is wrong with it."""
        try:
            await unpack(request, self.limits)
        except CliptuneError as error:
            return DataRequest(), error
        return request, None

    async def _answer(self, request: DataRequest) -> DataRequest:
        request, refused = await self._unpack(request)
        with observed("grpc", self._header(request).request_id) as call:
            call.endpoint, call.status = self._shown(request), "OK"
            try:
                if refused is not None:
                    raise refused
                return await self.ask(request)
            except CliptuneError as error:
                call.status = wire_errors.grpc_code(error).name
                return self._refusal(request, error)

    def _refusal(self, request: DataRequest, error: CliptuneError) -> DataRequest:
        """The answer of a stream to a request that failed: its id, and the error as status."""
        response, asked = DataRequest(), self._header(request)
        response.header.request_id = asked.request_id
        response.header.exec_endpoint = asked.exec_endpoint
        wire_errors.set_status(response.header.status, error)
        return response

    async def stream_doc(
        self, request: SingleDocumentRequest, context: ServicerContext | None
    ) -> AsyncIterator[SingleDocumentRequest]:
        """One document in, many out."""
        try:
            await unpack(request, self.limits)
            endpoint = check_single(request, self.limits)
            with self.admission.admit_stream(PRESENTED.get(), endpoint):
                self._endpoint(endpoint, streams=True)
                responses = jina_compat.stream_from_executors(self.streamer, request)
                with suppress(StopAsyncIteration):
                    while True:
                        response = await until_ending(self.admission, anext(responses))
                        refused = wire_errors.from_status(response.header.status)
                        if refused is not None:
                            raise refused
                        yield response
        except Exception as failure:
            error = wire_errors.from_exception(failure)
            if context is None:
                raise error from None
            await wire_errors.abort(context, error)

    async def _status(self, empty: object, context: ServicerContext) -> JinaInfoProto:
        """Jina's call for versions; its own answer holds the machine's environment too."""
        info: JinaInfoProto = jina_pb2.JinaInfoProto()
        info.jina["cliptune"] = __version__
        return info

    def _header(self, request: DataRequest) -> HeaderProto:
        """The header; an empty one of what is no message."""
        try:
            return request.header
        except Exception:
            empty: HeaderProto = jina_pb2.HeaderProto()
            return empty

    def _shown(self, request: DataRequest) -> str:
        """The endpoint as metrics name it."""
        asked = self._header(request).exec_endpoint
        return asked if asked in self.endpoints else OTHER

    def _endpoint(self, path: str, streams: bool) -> Endpoint[BaseDoc]:
        """The endpoint that is asked for.

        Raises:
            NotFound: there is none.
            BadInput: it streams, or doesn't, other than the call.
        """
        shown = path[:100]
        if (endpoint := self.endpoints.get(path)) is None:
            raise NotFound(f"no endpoint {shown!r}: {near_matches(shown, sorted(self.endpoints))}")
        if endpoint.streams != streams:
            raise BadInput(f"{shown!r} is no endpoint of this kind of call")
        return endpoint


class HttpServer(FastAPIBaseServer):
    """The HTTP side."""

    _request_handler: RequestHandler

    def __init__(self, certificate: Certificate | None, **kwargs: object) -> None:
        """Take the certificate (None: no TLS), and Jina's own arguments."""
        super().__init__(**kwargs)
        self.certificate = certificate

    @property
    def host(self) -> str | None:
        """Where to bind; None is everywhere: `::` alone would leave out IPv4 here."""
        host = self._request_handler.settings.host or super().host
        return None if host == "::" else host

    @property
    def app(self) -> FastAPI:
        """The FastAPI application of this Flow."""
        handler = self._request_handler
        if handler.admission.endpoints is TRAIN_FLOW:
            from cliptune.gateway.train_app import make_app
        else:
            from cliptune.gateway.search_app import make_app
        app = observe_app(make_app(Dispatcher(handler)), handler.settings)
        app.add_middleware(EdgeMiddleware, settings=handler.settings)
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
        if self.certificate is not None:
            self.certificate.renew(self.server.config.ssl)

    async def shutdown(self) -> None:
        """Close the door, and answer what came in."""
        for listener in self.server.servers:
            listener.close()
        # uvicorn would cut WebSockets off: they end by themselves once their answers are sent.
        sockets = self._request_handler.admission.sockets
        if sockets:
            await asyncio.wait(sockets, timeout=self._request_handler.settings.drain)
        await super().shutdown()


class GrpcServer(GRPCServer):
    """The gRPC side."""

    _request_handler: RequestHandler

    @property
    def host(self) -> str:
        """Where to bind, as gRPC takes it."""
        return bracketed(self._request_handler.settings.host or super().host)

    def __init__(self, certificate: Certificate | None, **kwargs: object) -> None:
        """Take the certificate (None: no TLS), and Jina's own arguments."""
        self._credentials = certificate.grpc_credentials() if certificate else None
        super().__init__(**kwargs)
        interceptor = AuthInterceptor(self._request_handler.admission)
        traced = self.aio_tracing_server_interceptors() or []
        self.grpc_tracing_server_interceptors = [*traced, interceptor]

    @property
    def server(self) -> grpc.aio.Server:
        """gRPC's own, once Jina has made it."""
        return self._server

    @server.setter
    def server(self, server: grpc.aio.Server | None) -> None:
        if server is not None and self._credentials is not None:
            jina_compat.bind_with(server, self._credentials)
        self._server = server

    async def shutdown(self) -> None:
        """Close the door, and answer what came in."""
        await jina_compat.stop_serving(self, self._request_handler.settings.drain)


class ClipGateway(CompositeBaseServer, BaseGateway):
    """gRPC and HTTP on one port each, as the Flow's `protocol` and `port` list them.

    With `clip_service_port`, clip-as-service's clients are answered there over gRPC too. With TLS,
    if CLIPTUNE_SSL_CERTFILE and CLIPTUNE_SSL_KEYFILE name a certificate and its key.
    """

    _request_handler: RequestHandler

    @startup.reports_failure
    def __init__(self, clip_service_port: int = 0, **kwargs: object) -> None:
        """Take the port for clip-as-service's clients (0: none), and Jina's own arguments."""
        super().__init__(**kwargs)
        settings = self._request_handler.settings
        logs.setup("gateway", settings)
        tracing.setup("gateway", settings)
        metrics.serve_metrics(settings.host or self.host, settings)
        self._clip_service_port = Settings.read(
            clip_service_port=clip_service_port
        ).clip_service_port
        self._ended = False
        self.servers = []
        self._certificate = Certificate.of(settings)
        tls = {"certificate": self._certificate, **settings.tls_files()}
        for options in self._server_kwargs:
            options |= tls
            if str(options["runtime_args"]["protocol"]).lower() == "http":
                options |= {"uvicorn_kwargs": _uvicorn_options(settings)}
                self.servers.append(HttpServer(**options))
            else:
                limit = {"grpc.max_receive_message_length": settings.max_body + 65_536}
                self.servers.append(GrpcServer(**{**options, "grpc_server_options": limit}))
        self.gateways = self.servers  # Jina's older name for them

    async def setup_server(self) -> None:
        """Begin to serve; what an executor is needed for that isn't there yet is refused."""
        with startup.reporting("gateway"):
            await self._set_up()

    async def _set_up(self) -> None:
        handler = self._request_handler
        await super().setup_server()
        if self._clip_service_port:
            settings, certificate = handler.settings, self._certificate
            server = ClipServiceServer(
                Adapter(Dispatcher(handler)),
                settings.host or self.host,
                self._clip_service_port,
                credentials=certificate.grpc_credentials() if certificate else None,
                interceptors=(AuthInterceptor(handler.admission),),
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

    def _get_request_handler(self) -> RequestHandler:
        self.req_handler_cls = RequestHandler
        handler = super()._get_request_handler()
        assert isinstance(handler, RequestHandler)  # noqa: S101
        return handler


def _uvicorn_options(settings: Settings) -> dict[str, object]:
    return {
        "timeout_keep_alive": 30,
        "timeout_graceful_shutdown": settings.drain,
        "ws_max_size": settings.max_body,
        "ws_per_message_deflate": False,  # pictures don't shrink, bombs do
        "server_header": False,
        "proxy_headers": False,  # it trusts whoever is on this machine: see `edge`
    }
