"""The HTTP side of a search Flow: encode, index, search, and the search page."""

from __future__ import annotations

import hashlib

from docarray import DocList
from fastapi import FastAPI, Request, Response
from pydantic import JsonValue

from cliptune.documents import ClipDoc
from cliptune.errors import BadInput, NotFound
from cliptune.gateway.base_app import new_app
from cliptune.gateway.clip_service.adapter import Adapter
from cliptune.gateway.clip_service.http import add_websocket, answer_json
from cliptune.gateway.dispatch import Dispatcher
from cliptune.gateway.foreign.routes import add_foreign
from cliptune.gateway.http.schemas import CallBody, read_json
from cliptune.gateway.page.files import add_page
from cliptune.gateway.routes import add_routes, body_schema
from cliptune.gateway.websocket import add_socket
from cliptune.protocol.endpoints import DRY_RUN, GET, PICTURES, POST, ROOT, SEARCH_FLOW

DESCRIPTION = """Text-to-image search by a CLIP model of your own.

Pictures travel as base64 (standard or URL-safe) or as `data:` URIs; other URIs are read only
where the operator allows them. Where there are API keys, send yours as `Authorization: Bearer …`.
Errors are `{"error": {"type": …, "message": …}}`."""


def make_app(dispatcher: Dispatcher) -> FastAPI:
    """The application over a gateway."""
    adapter = Adapter(dispatcher)
    app = new_app("cliptune search", DESCRIPTION, dispatcher)
    add_routes(app, dispatcher, SEARCH_FLOW, adapter)
    add_clip_service(app, adapter)
    add_socket(app, adapter)
    add_foreign(app, dispatcher)
    add_page(app)
    add_pictures(app, dispatcher)
    return app


def add_clip_service(app: FastAPI, adapter: Adapter) -> None:
    """What clip-as-service's clients ask for by names of its own."""
    example: JsonValue = {"data": [{"text": "red rain boots"}], "execEndpoint": ROOT.path}

    @app.post(POST, openapi_extra=body_schema(CallBody, example), tags=["encode"])
    async def post(request: Request) -> Response:
        """clip-as-service's form of a call: any endpoint, `/` is `/encode`."""
        body = await read_json(request, adapter.limits)
        if not isinstance(body, dict):
            raise BadInput(f"the body must be a JSON object, got {body!r:.80}")
        return await answer_json(adapter, body)

    @app.get(DRY_RUN, include_in_schema=False)
    async def dry_run() -> dict[str, JsonValue]:
        """Whether it lives, as Jina's clients ask."""
        return {"code": 0, "description": "", "exception": None}

    add_websocket(app, adapter)


def add_pictures(app: FastAPI, dispatcher: Dispatcher) -> None:
    """The indexed pictures, for the search page and other browsers."""

    @app.get(PICTURES + "{identity:path}", tags=["search"])
    async def picture(identity: str, request: Request) -> Response:
        """An indexed picture."""
        docs = DocList[ClipDoc]([ClipDoc(id=identity)])
        stored, _ = await dispatcher.call(GET, docs, {"include_image": True})
        if not stored or stored[0].image is None:
            raise NotFound(f"no picture of a document {identity[:100]!r}")
        data = stored[0].image
        tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
        headers = {"ETag": tag, "Cache-Control": "max-age=60", "Content-Security-Policy": "sandbox"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=picture_type(data), headers=headers)


def picture_type(data: bytes) -> str:
    """The media type by the first bytes: pictures only, all else is a download."""
    for start, kind in (
        (b"\xff\xd8\xff", "jpeg"),
        (b"\x89PNG", "png"),
        (b"GIF8", "gif"),
        (b"BM", "bmp"),
        (b"II*\0", "tiff"),
        (b"MM\0*", "tiff"),
    ):
        if data.startswith(start):
            return f"image/{kind}"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "image/avif"
    return "application/octet-stream"
