"""The gRPC side for clip-as-service's clients: a server of its own beside the gateway's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import grpc
from google.protobuf.empty_pb2 import Empty
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from cliptune.errors import BadInput, TooLarge
from cliptune.gateway.clip_service.adapter import Adapter, endpoint_name, set_error
from cliptune.gateway.clip_service.clip_service_pb2 import Request
from cliptune.gateway.streams import map_ordered, until_ended
from cliptune.observability.request_log import observed
from cliptune.protocol import grpc_options
from cliptune.protocol.jina_messages_pb2 import Status
from cliptune.protocol.limits import LARGE, Limits
from cliptune.settings import bracketed

if TYPE_CHECKING:
    from cliptune.protocol.jina_types import ServicerContext

WINDOW = 16
"""Requests of one stream that are worked on at once; its client is read no faster than that."""


class ClipServiceServer:
    """Answers `/jina.JinaRPC/Call`, a stream of requests, and its unary sibling.

    It has the methods that Jina's composite gateway calls of its servers.
    """

    should_exit = True  # nothing is left to wait for once `shutdown` has returned

    def __init__(
        self,
        adapter: Adapter,
        host: str,
        port: int,
        *,
        credentials: grpc.ServerCredentials | None = None,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    ) -> None:
        """Take what answers, and where to listen.

        Args:
            adapter: answers each request.
            host: the address to bind.
            port: likewise.
            credentials: TLS; None: none.
            interceptors: gRPC's, as `grpc.aio.server` takes them.
        """
        self.adapter, self.address, self.credentials = (
            adapter,
            f"{bracketed(host)}:{port}",
            credentials,
        )
        self.interceptors = interceptors
        self.server: grpc.aio.Server | None = None

    async def setup_server(self) -> None:
        """Bind the port and begin to answer.

        Raises:
            BadInput: the port can't be bound.
        """
        limit = {"grpc.max_receive_message_length": self.adapter.limits.bounds.max_body + 65_536}
        server = grpc.aio.server(
            interceptors=self.interceptors,
            options=list((dict(grpc_options.SERVER) | limit).items()),
        )
        server.add_generic_rpc_handlers(handlers(self.adapter))
        healthy = health.aio.HealthServicer()
        await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
        try:
            if self.credentials is not None:
                server.add_secure_port(self.address, self.credentials)
            else:
                server.add_insecure_port(self.address)
        except RuntimeError as error:
            raise BadInput(f"{self.address} can't be bound: {error}") from None
        await server.start()
        self.server = server

    async def run_server(self) -> None:
        """Serve until `shutdown`."""
        if self.server is not None:
            await self.server.wait_for_termination()

    async def shutdown(self) -> None:
        """Finish what was taken, and end."""
        if self.server is not None:
            await self.server.stop(grace=self.adapter.dispatcher.handler.settings.drain)


def handlers(adapter: Adapter) -> tuple[grpc.GenericRpcHandler, ...]:
    """What is answered, by service: the calls of Jina 3's clients."""

    async def call(
        requests: AsyncIterator[bytes], context: ServicerContext
    ) -> AsyncIterator[bytes]:
        admission = adapter.dispatcher.handler.admission
        try:
            taken = until_ended(admission, requests)
            async for answer in map_ordered(taken, partial(answer_to, adapter), WINDOW):
                yield _bytes(answer)
        except BadInput as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if admission.ending.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this service is ending")

    async def single(raw: bytes, context: ServicerContext) -> bytes:
        try:
            return _bytes(await answer_to(adapter, raw))
        except BadInput as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise

    async def dry_run(_: Empty, __: ServicerContext) -> bytes:
        return _bytes(Status(code=Status.SUCCESS))

    unary = grpc.unary_unary_rpc_method_handler
    return (
        grpc.method_handlers_generic_handler(
            "jina.JinaRPC", {"Call": grpc.stream_stream_rpc_method_handler(call)}
        ),
        grpc.method_handlers_generic_handler(
            "jina.JinaSingleDataRequestRPC", {"process_single_data": unary(single)}
        ),
        grpc.method_handlers_generic_handler(
            "jina.JinaGatewayDryRunRPC",
            {"dry_run": unary(dry_run, request_deserializer=Empty.FromString)},
        ),
    )


def _bytes(message: Request | Status) -> bytes:
    raw: bytes = message.SerializeToString()
    return raw


def _parse(raw: bytes, limits: Limits) -> Request:
    limits.check_message(raw, Request.DESCRIPTOR)
    try:
        request: Request = Request.FromString(raw)
    except Exception:  # protobuf's DecodeError, or what it makes of bad UTF-8
        raise BadInput("the message is not a request of Jina 3 with DocArray 0.21") from None
    return request


async def answer_to(adapter: Adapter, raw: bytes, protocol: str = "grpc") -> Request:
    """The answer to one message.

    Raises:
        BadInput: it isn't a request.
    """
    # Large messages are parsed beside the loop, which others' answers need.
    try:
        if len(raw) < LARGE:
            request = _parse(raw, adapter.limits)
        else:
            request = await asyncio.to_thread(_parse, raw, adapter.limits)
    except TooLarge as error:
        request = Request()
        set_error(request, error)
        return request
    with observed("clip-as-service", request.header.request_id) as call:
        call.endpoint = endpoint_name(request)
        await adapter.answer(request, protocol)
        status = request.header.status
        call.status = status.exception.name if status.code == status.ERROR else "OK"
    return request
