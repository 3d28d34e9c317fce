"""`/ws`: the calls of `/post` over one WebSocket, answered in the order in which they came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from cliptune.errors import BadInput, BadJson, CliptuneError, Forbidden
from cliptune.gateway.access.auth import SUBPROTOCOL
from cliptune.gateway.base_app import check_origin
from cliptune.gateway.clip_service.adapter import Adapter
from cliptune.gateway.clip_service.http import answer_body
from cliptune.gateway.http.schemas import to_json
from cliptune.gateway.streams import map_ordered, open_socket, until_ended
from cliptune.observability.request_log import observed
from cliptune.protocol import wire_errors
from cliptune.protocol.endpoints import SOCKET

WINDOW = 8
"""Messages of one WebSocket that are worked on at once; those after them wait at the client's."""
POLICY, RESTART = 1008, 1012


def add_socket(app: FastAPI, adapter: Adapter) -> None:
    """Add `/ws`: what `adapter` answers at `/post`, a message each way for each call."""
    handler = adapter.dispatcher.handler

    async def reply(message: str | bytes) -> str:
        with observed("websocket") as call:
            try:
                body = await asyncio.to_thread(handler.limits.parse_json, message)
                if not isinstance(body, dict):
                    raise BadInput(f"a message must be a JSON object, got {body!r:.80}")
                content, error = await answer_body(adapter, body)
            except ValueError as problem:  # BadInput is one
                content, error = {}, _told(problem)
            if error is not None:
                refusal = wire_errors.ErrorBody.of(error)
                refusal = refusal.model_copy(update={"status": error.http_status})
                content["error"] = refusal.to_json()
            call.status = str(error.http_status if error else 200)
            return await asyncio.to_thread(lambda: to_json(content).decode())

    @app.websocket(SOCKET)
    async def socket(connection: WebSocket) -> None:
        """Each message a call; errors are answers, and the connection goes on."""
        try:
            check_origin(connection.headers, handler.settings)
        except Forbidden as error:
            await connection.close(POLICY, str(error)[:100])
            return
        offered = connection.scope.get("subprotocols") or ()
        await connection.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        try:
            with open_socket(handler.admission) as stop:
                taken = until_ended(handler.admission, _messages(connection, stop))
                async for answer in map_ordered(taken, reply, WINDOW):
                    await connection.send_text(answer)
            if handler.admission.ending.is_set():
                await connection.close(RESTART, "this service is ending")
        except (WebSocketDisconnect, RuntimeError):
            return  # the client has gone, and needs no answer


def _told(problem: ValueError) -> CliptuneError:
    if isinstance(problem, CliptuneError):
        return problem
    return BadJson(f"the message is not JSON: {problem}")


async def _messages(
    connection: WebSocket, gone: Callable[[], object]
) -> AsyncIterator[str | bytes]:
    while (message := await connection.receive())["type"] != "websocket.disconnect":
        text = message.get("text")
        yield text if text is not None else message.get("bytes") or b""
    gone()
