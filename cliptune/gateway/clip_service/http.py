"""The HTTP and WebSocket side for clip-as-service's clients."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TypeGuard

import numpy as np
from fastapi import FastAPI, Response, WebSocket, WebSocketDisconnect
from google.protobuf.json_format import MessageToDict

from cliptune.errors import BadInput, CliptuneError, Forbidden, near_matches
from cliptune.gateway.base_app import check_origin
from cliptune.gateway.clip_service.adapter import Adapter, set_error
from cliptune.gateway.clip_service.clip_service_pb2 import Document, Request
from cliptune.gateway.clip_service.documents import read_array, write_array
from cliptune.gateway.clip_service.grpc_server import WINDOW, answer_to
from cliptune.gateway.http.errors import error_response
from cliptune.gateway.http.schemas import (
    from_base64,
    json_response,
    numbers_in,
    to_json,
)
from cliptune.gateway.streams import map_ordered, open_socket, until_ended
from cliptune.protocol import wire_errors
from cliptune.protocol.endpoints import ROOT
from cliptune.protocol.limits import Limits, Tally, check_depth, count_inside

_TEXTS = ("id", "parent_id", "uri", "modality", "mime_type")
_FIELDS = set(Document.DESCRIPTOR.fields_by_name)
_END = b"\0"
"""What Jina's WebSocket client sends after its last request."""


def is_request(body: object) -> TypeGuard[dict[str, object]]:
    """Whether a JSON body is one of Jina 3's clients, wherever it was posted to."""
    return isinstance(body, dict) and bool(
        body.keys() & {"header", "exec_endpoint", "execEndpoint"}
    )


async def answer_json(adapter: Adapter, body: dict[str, object]) -> Response:
    """The answer to a JSON body in Jina 3's form, documents below `data`; errors likewise."""
    content, error = await answer_body(adapter, body)
    if error is None:
        return json_response(content)
    response = error_response(error)
    response.body = to_json(content)
    response.headers["Content-Length"] = str(len(response.body))
    return response


async def answer_body(
    adapter: Adapter, body: dict[str, object]
) -> tuple[dict[str, object], CliptuneError | None]:
    """The content of the answer, and the error that it tells of."""
    request = Request()
    error: CliptuneError | None = None
    try:
        await asyncio.to_thread(read_request, body, request, adapter.limits)
        await adapter.run(request)
    except CliptuneError as refused:
        error = refused
    except Exception as unexpected:
        error = wire_errors.from_exception(unexpected)
    if error is None:
        return await asyncio.to_thread(as_json, request), None
    set_error(request, error)
    return as_json(request) | {"error": wire_errors.ErrorBody.of(error).to_json()}, error


def read_request(body: dict[str, object], request: Request, limits: Limits) -> None:
    """Fill `request` from a body: `{"data": […], "execEndpoint": …, "parameters": {}}`.

    Names may be in camelCase or with underscores. `data` may be `{"docs": […]}` too.

    Raises:
        BadInput: something has the wrong type; the message names the place.
    """
    header = body.get("header") or {}
    if not isinstance(header, dict):
        raise BadInput(f"header: expected an object, got {header!r:.80}")
    for target, name in (("request_id", "requestId"), ("exec_endpoint", "execEndpoint")):
        given = body.get(name) or body.get(target) or header.get(name) or header.get(target)
        if given is not None:
            setattr(request.header, target, _text(given, name))
    parameters = body.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise BadInput(f"parameters: expected an object, got {parameters!r:.80}")
    limits.check_parameters(parameters)
    request.parameters.update(parameters)
    data = body.get("data") or []
    if isinstance(data, dict):
        data = data.get("docs") or []
    if not isinstance(data, list):
        raise BadInput(f"data: expected a list, got {data!r:.80}")
    limits.check_count(len(data))
    tally = limits.tally()
    for position, item in enumerate(data):
        _read_document(item, request.data.docs.docs.add(), f"data.{position}", 0, tally)


def _read_document(item: object, doc: Document, place: str, depth: int, tally: Tally) -> None:
    if not isinstance(item, dict):
        raise BadInput(f"{place}: expected an object, got {item!r:.80}")
    if depth > 4:
        raise BadInput(f"{place} is nested deeper than 4 levels")
    given = {name: value for name, value in item.items() if value is not None}
    if unknown := sorted(given.keys() - _FIELDS):
        raise BadInput(f"{place}.{unknown[0][:50]}: {near_matches(unknown[0], _FIELDS)}")
    for name in _TEXTS:
        if name in given:
            setattr(doc, name, _text(given[name], f"{place}.{name}"))
    contents = [name for name in ("text", "blob", "tensor") if name in given]
    if len(contents) > 1:
        contents = [name for name in contents if given[name]]
    if len(contents) > 1:
        raise BadInput(f"{place} has {' and '.join(contents)}: a document has one content")
    for name in contents:
        value = given[name]
        if name == "text":
            doc.text = _text(value, f"{place}.text")
        elif name == "blob":
            doc.blob = from_base64(_text(value, f"{place}.blob"), place)
        else:
            write_array(doc.tensor, numbers_in(value, f"{place}.tensor"))
    tags = given.get("tags", {})
    if not isinstance(tags, dict):
        raise BadInput(f"{place}.tags: expected an object, got {tags!r:.80}")
    check_depth(tags, f"{place}.tags")
    tally.add(doc.text, count_inside(tags), place)
    doc.tags.update(tags)
    for name in ("matches", "chunks"):
        inner = given.get(name, [])
        if not isinstance(inner, list):
            raise BadInput(f"{place}.{name}: expected a list, got {inner!r:.80}")
        for number, one in enumerate(inner):
            inner_place = f"{place}.{name}.{number}"
            _read_document(one, getattr(doc, name).add(), inner_place, depth + 1, tally)


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise BadInput(f"{place}: expected a text, got {value!r:.80}")
    return value


def as_json(request: Request) -> dict[str, object]:
    """A request as Jina 3's HTTP gateway gives it, fit for `json_response`."""
    return {
        "header": MessageToDict(request.header, use_integers_for_enums=True),
        "parameters": MessageToDict(request.parameters),
        "routes": [MessageToDict(route) for route in request.routes],
        "data": [_document(doc) for doc in request.data.docs.docs],
    }


def _document(doc: Document) -> dict[str, object]:
    fields: dict[str, object] = {name: getattr(doc, name) or None for name in _TEXTS}
    content = doc.WhichOneof("content")
    fields["text"] = doc.text if content == "text" else None
    fields["blob"] = base64.b64encode(doc.blob).decode() if content == "blob" else None
    fields["tensor"] = read_array(doc.tensor) if content == "tensor" else None
    embedded = doc.HasField("embedding")
    fields["embedding"] = np.ascontiguousarray(read_array(doc.embedding)) if embedded else None
    fields["tags"] = MessageToDict(doc.tags) or None
    scores = {
        name: {"value": score.value, "op_name": score.op_name or None}
        for name, score in doc.scores.items()
    }
    fields["scores"] = scores or None
    for name in ("matches", "chunks"):
        fields[name] = [_document(one) for one in getattr(doc, name)] or None
    return fields


def add_websocket(app: FastAPI, adapter: Adapter) -> None:
    """Answer binary requests at `/`, as Jina's WebSocket client sends them."""
    handler = adapter.dispatcher.handler

    @app.websocket(ROOT.path)
    async def talk(socket: WebSocket) -> None:
        try:
            check_origin(socket.headers, handler.settings)
        except Forbidden:
            await socket.close(code=1008)
            return
        await socket.accept(
            subprotocol="bytes" if "bytes" in socket.scope.get("subprotocols", ()) else None
        )

        async def requests() -> AsyncIterator[bytes]:
            while (raw := await _next_message(socket, stop)) is not None:
                yield raw

        failed = ""
        try:
            with open_socket(handler.admission) as stop:
                taken = until_ended(handler.admission, requests())
                answer_each = partial(answer_to, adapter, protocol="websocket")
                async for answer in map_ordered(taken, answer_each, WINDOW):
                    failed = failed or answer.header.status.description
                    await socket.send_bytes(answer.SerializeToString())
            # Jina's client forgets an error if the connection then ends as if all were well.
            code = 1011 if failed else 1012 if handler.admission.ending.is_set() else 1000
            await socket.close(code=code, reason=_cut(failed))
        except BadInput as error:
            await socket.close(code=1007, reason=_cut(str(error)))
        except (WebSocketDisconnect, RuntimeError):  # it has gone, and needs no answer
            return


def _cut(reason: str) -> str:
    """What fits into a closing message: 123 bytes."""
    return reason.encode()[:123].decode(errors="ignore")


async def _next_message(socket: WebSocket, stop: Callable[[], None]) -> bytes | None:
    """The next request; None after the last, and `stop` is called if the client has gone."""
    message = await socket.receive()
    raw: bytes | None = message.get("bytes")
    if message["type"] == "websocket.disconnect":
        stop()
        return None
    if raw is None or raw == _END:
        return None
    return raw
