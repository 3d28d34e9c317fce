"""`/ws`: the calls of `/post` over one WebSocket, answered in the order in which they came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import Field

from cliptune.errors import CliptuneError, Forbidden, Unavailable
from cliptune.serving import wire
from cliptune.serving.admission import Admission
from cliptune.serving.bodies import PostBody, parse, to_json
from cliptune.serving.doors import SUBPROTOCOL, until_ending
from cliptune.serving.in_order import in_order
from cliptune.serving.web import check_origin

WINDOW = 8
"""Messages of one WebSocket that are worked on at once; those after them wait at the client's."""
POLICY, RESTART = 1008, 1012


class SocketBody(PostBody):
    """A message: what `/post` takes, and a name for its answer."""

    request_id: Any = Field(None, alias="requestId", description="Comes back with the answer.")


def add_socket(
    app: FastAPI, admission: Admission, answer: Callable[[PostBody], Awaitable[dict[str, Any]]]
) -> None:
    """Add `/ws`.

    Args:
        app: the application.
        admission: counts the open WebSockets, and tells them to end.
        answer: what `/post` does.
    """

    async def reply(message: str | bytes) -> bytes:
        given: dict[str, Any] = {}
        try:
            body = await asyncio.to_thread(parse, message, SocketBody)
            if body.request_id is not None:
                given = {"requestId": body.request_id}
            return to_json({**await answer(body), **given})
        except CliptuneError as error:
            told = error
        except Exception as error:
            told = wire.from_exception(error)
        return to_json({"error": {**wire.as_dict(told), "status": told.http_status}, **given})

    @app.websocket("/ws")
    async def socket(connection: WebSocket) -> None:
        """Each message a call; errors are answers, and the connection goes on."""
        try:
            check_origin(connection.headers)
        except Forbidden as error:
            await connection.close(POLICY, str(error)[:100])
            return
        offered = connection.scope.get("subprotocols") or ()
        await connection.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        admission.sockets.add(task)
        try:
            async for text in in_order(_messages(connection, admission), reply, WINDOW):
                await connection.send_text(text.decode())
            if admission.ending.is_set():
                await connection.close(RESTART, "this service is ending")
        except (WebSocketDisconnect, RuntimeError):
            pass  # the client has gone, and needs no answer
        finally:
            admission.sockets.discard(task)


async def _messages(connection: WebSocket, admission: Admission) -> AsyncIterator[str | bytes]:
    with suppress(WebSocketDisconnect, Unavailable):
        while True:
            message = await until_ending(admission, connection.receive())
            if message["type"] == "websocket.disconnect":
                return
            found = message.get("text")
            yield found if found is not None else message.get("bytes") or b""
