"""The gateway of both Flows: gRPC and HTTP at once, and errors that are fit for clients."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import cliptune.serving  # noqa: F401  (first: it keeps Jina from calling home)
from jina.serve.runtimes.gateway.gateway import BaseGateway
from jina.serve.runtimes.gateway.request_handling import GatewayRequestHandler
from jina.serve.runtimes.servers.composite import CompositeBaseServer
from jina.serve.runtimes.servers.grpc import GRPCServer
from jina.serve.runtimes.servers.http import FastAPIBaseServer
from jina.types.request.data import DataRequest, SingleDocumentRequest

from cliptune.errors import CliptuneError, ModelSwitched, NotFound, near_matches
from cliptune.serving import logs, metrics, request_ids, tracing, wire
from cliptune.serving.calls import Calls
from cliptune.serving.clip_service.adapter import Adapter
from cliptune.serving.clip_service.grpc_server import ClipServiceServer
from cliptune.serving.observed import OTHER, Stream, observe_app, observed, send_along
from cliptune.serving.requests import MAX_BODY

SWITCH_WAITS = (0.05, 0.2, 1.0, 3.0)
"""Seconds before a write is made again that a switch of the model has overtaken."""


class RequestHandler(GatewayRequestHandler):
    """Sends requests to the executors, and takes tracebacks out of their answers."""

    async def process_single_data(self, request: DataRequest, context: Any = None) -> DataRequest:
        """One request; an error becomes the gRPC status that matches it."""
        told = dict(context.invocation_metadata() or ()) if context is not None else {}
        given_id = told.get(request_ids.HEADER) or request.header.request_id
        with observed("grpc", given_id, told.get(tracing.HEADER)) as call:
            call.endpoint, call.status = self._endpoint(request), "OK"
            if context is not None:
                returned = ((request_ids.HEADER, request_ids.current.get()),)
                await context.send_initial_metadata(returned)
            try:
                return await self.ask(request)
            except CliptuneError as error:
                call.status = wire.grpc_code(error).name
                if context is None:
                    raise
                await context.abort(wire.grpc_code(error), wire.to_text(error))
                raise

    async def ask(self, request: DataRequest) -> DataRequest:
        """One request; raises the `CliptuneError` that a client is told of."""
        try:
            if (unknown := self._unknown_endpoint(request)) is not None:
                raise unknown
            send_along(request)
            for wait in (*SWITCH_WAITS, None):
                response = await self.streamer.process_single_data(request)
                refused = wire.from_status(response.header.status)
                if wait is None or not isinstance(refused, ModelSwitched):
                    break
                # Embedded by the model from before a switch: once more, by the new one.
                await asyncio.sleep(wait)
        except Exception as error:
            raise wire.from_exception(error) from None
        if refused is not None:
            raise refused
        return response

    async def stream(
        self, request_iterator: Any, context: Any = None, *args: Any, **kwargs: Any
    ) -> AsyncIterator[DataRequest]:
        """A stream of requests; an error is in the status of its own response.

        Each request of a stream has the id in its own header.
        """
        stream = Stream(request_iterator)
        try:
            async for response in super().stream(aiter(stream), None, *args, **kwargs):
                error = wire.from_status(response.header.status)
                if error is None:
                    error = self._unknown_endpoint(response)
                if error is not None:
                    wire.set_error(response, error)
                status = wire.grpc_code(error).name if error else "OK"
                stream.answered(response.header.request_id, self._endpoint(response), status)
                yield response
        except Exception as failure:
            told = wire.from_exception(failure)
            if context is None:
                raise told from None
            await context.abort(wire.grpc_code(told), wire.to_text(told))

    Call = stream

    async def stream_doc(
        self, request: SingleDocumentRequest, context: Any
    ) -> AsyncIterator[SingleDocumentRequest]:
        """One document in, many out."""
        try:
            if (unknown := self._unknown_endpoint(request)) is not None:
                raise unknown
            async for response in self.streamer.rpc_stream_doc(request=request):
                refused = wire.from_status(response.header.status)
                if refused is not None:
                    raise refused
                yield response
        except Exception as failure:
            told = wire.from_exception(failure)
            if context is None:
                raise told from None
            await context.abort(wire.grpc_code(told), wire.to_text(told))

    def _endpoint(self, request: Any) -> str:
        """The endpoint as metrics name it."""
        unknown = self._unknown_endpoint(request) is not None
        return OTHER if unknown else str(request.header.exec_endpoint)

    def _unknown_endpoint(self, request: Any) -> NotFound | None:
        known = [name for name in self.streamer._endpoints_models_map or () if name[:2] != "_j"]
        endpoint = request.header.exec_endpoint
        if known and endpoint not in known:
            shown = sorted(name for name in known if not name.startswith("_"))
            return NotFound(f"no endpoint {endpoint!r}: {near_matches(endpoint, shown)}")
        return None


class AppServer(FastAPIBaseServer):
    """The HTTP side."""

    @property
    def app(self) -> Any:
        """The FastAPI application of this Flow."""
        handler = self._request_handler
        if "/fit" in (handler.streamer._endpoints_models_map or {}):
            from cliptune.serving.train_app import make_app
        else:
            from cliptune.serving.app import make_app
        return observe_app(make_app(handler))


class ClipGateway(CompositeBaseServer, BaseGateway):
    """gRPC and HTTP on one port each, as the Flow's `protocol` and `port` list them.

    With `clip_service_port`, clip-as-service's clients are answered there over gRPC too.
    """

    def __init__(self, clip_service_port: int = 0, **kwargs: Any) -> None:
        """Take the port for clip-as-service's clients (0: none), and Jina's own arguments."""
        super().__init__(**kwargs)
        logs.setup("gateway")
        tracing.setup("gateway")
        metrics.serve_metrics(self.host)
        self.servers = []
        for options in self._server_kwargs:
            if str(options["runtime_args"]["protocol"]).lower() == "http":
                uvicorn = {"timeout_keep_alive": 30, "ws_max_size": MAX_BODY}
                server: Any = AppServer(**options, uvicorn_kwargs=uvicorn)
            else:
                limit = {"grpc.max_receive_message_length": MAX_BODY + 65_536}
                server = GRPCServer(**{**options, "grpc_server_options": limit})
            self.servers.append(server)
        self.gateways = self.servers  # Jina's older name for them
        self._clip_service_port = clip_service_port

    async def setup_server(self) -> None:
        """Begin to serve; clip-as-service's clients last, when the executors are there."""
        await super().setup_server()
        if self._clip_service_port:
            adapter = Adapter(Calls(self._request_handler))
            server = ClipServiceServer(adapter, self.host, self._clip_service_port)
            await server.setup_server()
            self.servers.append(server)

    def _get_request_handler(self) -> RequestHandler:
        self.req_handler_cls = RequestHandler
        handler = super()._get_request_handler()
        # Jina wants each executor of a chain to bind the endpoints of those before it. Ours don't
        # need to: an executor is left out where it doesn't bind an endpoint.
        handler.streamer._validate_flow_docarray_compatibility = lambda: None
        return handler
