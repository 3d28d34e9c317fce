"""Each request at the gateway: its id, its metrics, its line in the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import FastAPI, Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cliptune.observability import metrics, request_ids, tracing
from cliptune.observability.logs import log_call
from cliptune.protocol import redaction
from cliptune.protocol.endpoints import HEALTHZ, PROMETHEUS, READYZ
from cliptune.settings import Settings

if TYPE_CHECKING:
    from cliptune.protocol.jina_compat import DataRequest

OTHER = "other"
"""The endpoint of requests to what there is not: a client can't make up new time series."""
_UNOBSERVED = (PROMETHEUS, HEALTHZ, READYZ)


@dataclass
class Call:
    """One request, as far as it is known."""

    protocol: str
    endpoint: str = OTHER
    status: str = ""
    """An HTTP status, or the name of a gRPC one."""
    client: str | None = None
    """The address that asks, where it is known."""


@contextmanager
def observed(
    protocol: str, given_id: str | bytes | None = None, traceparent: str | None = None
) -> Iterator[Call]:
    """Count, time, trace and log the request that the block answers; the block fills in the rest.

    Within the block, `request_ids.current` is the request's id: `given_id` if it is fit to be one.
    """
    call = Call(protocol)
    identity = request_ids.accept(given_id)
    token = request_ids.current.set(identity)
    in_progress = metrics.IN_PROGRESS.labels(protocol)
    in_progress.inc()
    start = time.perf_counter()
    try:
        with tracing.span(protocol, traceparent, request_id=identity) as span:
            try:
                yield call
            finally:
                span.update_name(f"{protocol} {call.endpoint}")
                tracing.note_status(span, call.status)
    finally:
        finish(call, time.perf_counter() - start)
        in_progress.dec()  # last: what is not in progress any more is counted
        request_ids.current.reset(token)


def finish(call: Call, seconds: float) -> None:
    """Count and log a request that took `seconds`."""
    metrics.REQUESTS.labels(call.protocol, call.endpoint, call.status).inc()
    metrics.REQUEST_SECONDS.labels(call.protocol, call.endpoint).observe(seconds)
    log_call(
        f"{call.protocol} {call.endpoint} {call.status}",
        protocol=call.protocol,
        endpoint=call.endpoint,
        status=call.status,
        client=call.client,
        seconds=round(seconds, 6),
    )


def send_along(request: DataRequest, settings: Settings) -> None:
    """Let the executors know a Jina `request`'s id, and the span that it belongs to.

    Both are this context's; where it has no id, the one in the request's header.
    """
    identity = request_ids.current.get() or request_ids.accept(request.header.request_id)
    request.header.request_id = identity
    parameters = {**(request.parameters or {}), request_ids.PARAMETER: identity}
    # Over what a client may have sent: who asks, and by which address, is ours to say.
    parameters[redaction.OPERATOR_PARAMETER] = redaction.OPERATOR.get()
    parameters[redaction.BASE_PARAMETER] = (
        settings.public_url or redaction.PREFIX.get() or settings.root_path
    )
    tracing.send_along(parameters)
    request.parameters = parameters


class ObservedApp:
    """An ASGI application with a request's id in its answer's headers, counted and logged."""

    def __init__(self, app: ASGIApp) -> None:
        """Around `app`; to be the outermost, so that what others refuse is counted too."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] in _UNOBSERVED:
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given_id = headers.get(request_ids.HEADER.encode())
        traceparent = headers.get(tracing.HEADER.encode(), b"").decode("latin-1")
        with observed("http", given_id, traceparent) as call:
            call.status = "500"  # unless it is answered
            call.client = (scope.get("client") or (None,))[0]

            async def send_with_id(message: Message) -> None:
                if message["type"] == "http.response.start":
                    call.status = str(message["status"])
                    MutableHeaders(scope=message)["X-Request-ID"] = request_ids.current.get()
                await send(message)

            try:
                await self.app(scope, receive, send_with_id)
            finally:
                call.endpoint = getattr(scope.get("route"), "path", OTHER)


def observe_app(app: FastAPI, settings: Settings) -> FastAPI:
    """Count, trace and log the requests to `app`, and offer `/metrics`."""
    if settings.metrics_port is None:

        @app.get(PROMETHEUS, tags=["health"])
        async def prometheus() -> Response:
            """Figures for Prometheus."""
            body, kind = await asyncio.to_thread(metrics.exposition)
            return Response(body, headers={"Content-Type": kind})

    app.add_middleware(ObservedApp)
    return app
