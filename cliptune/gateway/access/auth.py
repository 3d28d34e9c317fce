"""API keys at gRPC and HTTP: a call's key is checked before its body is read."""

# gRPC has no types.
# mypy: disallow-subclassing-any=False

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

import grpc
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cliptune.errors import CliptuneError
from cliptune.gateway.access.admission import PRESENTED, Admission
from cliptune.gateway.http.errors import error_response
from cliptune.protocol import wire_errors
from cliptune.protocol.endpoints import OPEN_PATHS, PAGE_FILES, POST, answering

if TYPE_CHECKING:
    from cliptune.protocol.jina_types import HandlerCallDetails, ServicerContext

OPEN_SERVICE = "/grpc.health.v1.Health/"
SUBPROTOCOL = "cliptune"
BEARER = "bearer."
"""Before the key in a WebSocket's list of subprotocols: a browser can't send other headers."""


def bearer(value: str | None) -> str | None:
    """The key of an `Authorization` header."""
    scheme, _, key = (value or "").strip().partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """For any gRPC server of a gateway, as one of its `interceptors`.

    Keys are read from the metadata: `authorization: Bearer …`, or `x-api-key`.
    """

    def __init__(self, admission: Admission) -> None:
        """Take what decides."""
        self.admission = admission

    async def intercept_service(
        self,
        continuation: Callable[[HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """Go on to the handler, or to one that refuses without reading the request."""
        metadata = text_metadata(details.invocation_metadata)
        PRESENTED.set(bearer(metadata.get("authorization")) or metadata.get("x-api-key"))
        if not details.method.startswith(OPEN_SERVICE):
            try:
                self.admission.check(PRESENTED.get())
            except CliptuneError as error:
                return grpc.stream_stream_rpc_method_handler(_refusal(error))
        return await continuation(details)


def text_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    """What came with a gRPC call, by name, without what is binary."""
    return {name: value for name, value in metadata or () if isinstance(value, str)}


def _refusal(error: CliptuneError) -> Callable[[object, ServicerContext], Awaitable[None]]:
    async def refuse(_: object, context: ServicerContext) -> None:
        await wire_errors.abort(context, error)

    return refuse


class AuthMiddleware:
    """ASGI middleware, for HTTP and WebSockets.

    Keys are read from `Authorization: Bearer …` or `X-API-Key`; for a WebSocket in a browser from
    the subprotocol `bearer.KEY`, given along with `cliptune`.
    """

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        """Take the application, and what decides."""
        self.app = app
        self.admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        PRESENTED.set(presented(scope))
        path = scope["path"]
        is_open = path in OPEN_PATHS or path.startswith(PAGE_FILES)
        if scope["type"] == "websocket" or not is_open:
            try:
                free = scope["type"] == "websocket" or path == POST
                self.admission.check(PRESENTED.get(), None if free else answering(path))
            except CliptuneError as error:
                if scope["type"] == "websocket":
                    # Before it is accepted: the handshake is answered with 403.
                    await send(
                        {"type": "websocket.close", "code": 1008, "reason": str(error)[:100]}
                    )
                else:
                    await error_response(error, path)(scope, receive, send)
                return
        if scope["type"] == "websocket":
            await self.app(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what is held of the body, and stop when the client has gone."""
        held = 0
        begun: list[Message] = []
        gone: asyncio.Future[Message] | None = None
        answered = False
        this = asyncio.current_task()
        assert this is not None  # noqa: S101

        def watch() -> None:
            nonlocal gone
            gone = asyncio.ensure_future(receive())
            gone.add_done_callback(stop)

        def stop(done: asyncio.Future[Message]) -> None:
            if not answered and not done.cancelled():
                this.cancel()

        async def counted() -> Message:
            nonlocal held
            if begun:
                return begun.pop()
            if gone is not None:
                return await asyncio.shield(gone)
            message = await receive()
            if size := len(message.get("body", b"")):
                self.admission.hold(size)
                held += size
            if message["type"] == "http.request" and not message.get("more_body"):
                watch()
            return message

        async def answer(message: Message) -> None:
            nonlocal answered
            answered = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        try:
            headers = Headers(scope=scope)
            if "content-length" not in headers and "transfer-encoding" not in headers:
                begun.append(await counted())  # nobody may ask for the body that there isn't
            await self.app(scope, counted, answer)
        except asyncio.CancelledError:
            if gone is None or not gone.done() or answered:
                raise
            this.uncancel()
        finally:
            if gone is not None:
                gone.cancel()
            self.admission.hold(-held)


def presented(scope: Scope) -> str | None:
    """The key that came with an HTTP request or a WebSocket's handshake."""
    headers = Headers(scope=scope)
    if key := bearer(headers.get("authorization")) or headers.get("x-api-key"):
        return key.strip()
    offered: Iterable[str] = scope.get("subprotocols") or ()
    for protocol in offered:
        if protocol.startswith(BEARER):
            return protocol.removeprefix(BEARER)
    return None
