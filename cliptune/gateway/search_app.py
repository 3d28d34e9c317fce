"""The HTTP side of a search Flow: encode, index, search, and the search page."""

import asyncio
import base64
import hashlib
from importlib import resources
from typing import Any

from docarray import DocList
from fastapi import FastAPI, Query, Request, Response

from cliptune.documents import ClipDoc, RankDoc, SearchResult
from cliptune.errors import BadInput, NotFound, near_matches
from cliptune.gateway.base_app import body_schema, new_app
from cliptune.gateway.clip_service.adapter import Adapter
from cliptune.gateway.clip_service.http import add_websocket, answer_json, is_request
from cliptune.gateway.dispatch import Calls
from cliptune.gateway.schemas import (
    CallBody,
    DataBody,
    RankBody,
    doc_fields,
    fit,
    json_response,
    read_body,
    read_json,
    to_docs,
    to_rank_docs,
)
from cliptune.gateway.websocket import add_socket
from cliptune.protocol.limits import (
    DeleteParameters,
    GetParameters,
    IdsParameters,
    IndexParameters,
    NoParameters,
    SearchParameters,
    check_docs,
    check_matches,
    check_parameters,
    read_parameters,
)
from cliptune.protocol.status import status_of

PAGE_POLICY = (
    "default-src 'none'; script-src {script}; style-src {style}; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
DESCRIPTION = """Text-to-image search by a CLIP model of your own.

Pictures travel as base64 (standard or URL-safe) or as `data:` URIs; other URIs are read only
where the operator allows them. Where there are API keys, send yours as `Authorization: Bearer …`.
Errors are `{"error": {"type": …, "message": …}}`."""
ENDPOINTS = (
    "/", "/encode", "/rank", "/index", "/index_texts", "/update", "/search", "/delete", "/clear",
    "/status", "/get", "/ids",
)  # fmt: skip

FORMS: dict[str, tuple[str, ...]] = {
    "/encode": (),
    "/index": tuple(IndexParameters.model_fields),
    "/search": tuple(SearchParameters.model_fields),
    "/update": (),
}
"""What takes a picture as a form too, and the parameters that may be fields of it."""


WARNED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer, with `warnings` beside it.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "warnings": {
                            "type": "array",
                            "items": {"type": "string"},
                            "description": "Sentences about what of the filter can never hold: "
                            "tags that no document has, or never of the type compared with, with "
                            "near matches. Or that the index is empty. Empty, if there is nothing "
                            "to say.",
                        }
                    },
                    "required": ["warnings"],
                }
            }
        },
    }
}
"""What OpenAPI is told of answers that depend on a filter."""


def make_app(handler: Any) -> FastAPI:
    """The application over a gateway's `RequestHandler`."""
    calls = Calls(handler)
    app = new_app("cliptune search", DESCRIPTION, calls)
    add_endpoints(app, calls)
    add_page(app, calls)
    return app


async def answer(
    calls: Calls, endpoint: str, docs: DocList[Any], parameters: dict[str, Any]
) -> dict[str, Any]:
    """One call, and the body of its answer."""
    check_parameters(parameters)
    if endpoint in ("/", "/encode"):
        check_docs(docs)
        read_parameters(NoParameters, parameters)
        found = await calls.post(endpoint, docs, None, ClipDoc)
    elif endpoint == "/rank":
        check_docs(docs)
        read_parameters(NoParameters, parameters)
        found = await calls.post(endpoint, docs, None, RankDoc)
    elif endpoint in ("/index", "/index_texts"):
        check_docs(docs)
        read_parameters(IndexParameters, parameters)
        found = await calls.post(endpoint, docs, parameters, ClipDoc)
        return {"indexed": len(found), "data": await asyncio.to_thread(all_fields, found)}
    elif endpoint == "/update":
        check_docs(docs)
        read_parameters(NoParameters, parameters)
        return (await calls.report(endpoint, docs, None))["indexer"]
    elif endpoint == "/search":
        check_docs(docs)
        check_matches(len(docs), read_parameters(SearchParameters, parameters))
        found = await calls.post(endpoint, docs, parameters, SearchResult)
        # All queries of a request have one filter; what is said of it is said once.
        warnings = list(dict.fromkeys(one for result in found for one in result.warnings))
        return {"data": [doc_fields(doc) for doc in found], "warnings": warnings}
    elif endpoint == "/get":
        read_parameters(GetParameters, parameters)
        found = await calls.post(endpoint, docs, parameters, ClipDoc)
    elif endpoint == "/ids":
        read_parameters(IdsParameters, parameters)
        found = await calls.post(endpoint, docs, parameters, ClipDoc)
        return {"ids": [str(doc.id) for doc in found]}
    elif endpoint in ("/delete", "/clear"):
        return (await calls.report(endpoint, docs, parameters))["indexer"]
    elif endpoint == "/status":
        return status_of(await calls.report(endpoint))
    else:
        raise NotFound(f"no endpoint {endpoint[:100]!r}: {near_matches(endpoint, ENDPOINTS)}")
    return {"data": await asyncio.to_thread(all_fields, found)}


def all_fields(docs: DocList[Any]) -> list[dict[str, Any]]:
    """The documents of an answer as JSON has them."""
    return [doc_fields(doc) for doc in docs]


def add_endpoints(app: FastAPI, calls: Calls) -> None:
    """The calls that change or ask the index."""
    texts = {"data": [{"text": "red rain boots"}]}
    picture = {
        "data": [
            {
                "id": "1234",
                "text": "red rain boots",
                "image": "…base64…",
                "tags": {"price": 29.9, "brand": "Nordvik"},
            }
        ]
    }
    found = {"data": [{"text": "red rain boots"}], "parameters": {"limit": 5}}
    changed = {"data": [{"id": "1234", "tags": {"price": 19.9}}]}
    compared = {"data": [{"image": "…base64…", "matches": [{"text": "boots"}, {"text": "a hat"}]}]}

    adapter = Adapter(calls)

    async def respond(request: Request, endpoint: str) -> Response:
        body = await read_json(request, form=FORMS.get(endpoint))
        if is_request(body):  # clip-as-service's client posts its form to any endpoint it sees
            return await answer_json(adapter, {"execEndpoint": endpoint} | body)
        given = await asyncio.to_thread(fit, body, DataBody)
        docs = await asyncio.to_thread(to_docs, given.data)
        found = await answer(calls, endpoint, docs, given.parameters)
        return await asyncio.to_thread(json_response, found, 200, given.encoding_format)

    @app.post("/encode", openapi_extra=body_schema(DataBody, texts), tags=["encode"])
    async def encode(request: Request) -> Response:
        """Embed texts and pictures, mixed as you like; answers in the order asked."""
        return await respond(request, "/encode")

    @app.post("/index", openapi_extra=body_schema(DataBody, picture), tags=["index"])
    async def index(request: Request) -> Response:
        """Embed pictures and store them with titles and tags; the same id replaces."""
        return await respond(request, "/index")

    @app.post("/index_texts", openapi_extra=body_schema(DataBody, texts), tags=["index"])
    async def index_texts(request: Request) -> Response:
        """Embed texts and store them, to be found by pictures or texts."""
        return await respond(request, "/index_texts")

    @app.post("/update", openapi_extra=body_schema(DataBody, changed), tags=["index"])
    async def update(request: Request) -> Response:
        """Change stored documents: picture, title, label, or single tags (null removes one)."""
        return await respond(request, "/update")

    @app.post("/rank", openapi_extra=body_schema(RankBody, compared), tags=["encode"])
    async def rank(request: Request) -> Response:
        """Compare each document with its own matches; they come back best first."""
        body = await read_json(request)
        if is_request(body):
            return await answer_json(adapter, {"execEndpoint": "/rank"} | body)
        given = await asyncio.to_thread(fit, body, RankBody)
        docs = await asyncio.to_thread(to_rank_docs, given.data)
        found = await answer(calls, "/rank", docs, given.parameters)
        return await asyncio.to_thread(json_response, found, 200, given.encoding_format)

    @app.post("/search", openapi_extra=body_schema(DataBody, found), tags=["search"],
              responses=WARNED)  # fmt: skip
    async def search(request: Request) -> Response:
        """The nearest pictures of texts or pictures. Parameters: see GET /search.

        `warnings` beside `data` are sentences about a filter that can never hold: tags that no
        document has, or never of the type compared with.
        """
        return await respond(request, "/search")

    @app.get("/search", tags=["search"], responses=WARNED)
    async def search_one(
        request: Request,
        q: str = Query("", description="The text."),
        limit: int = Query(10, ge=1, le=1000),
        offset: int = Query(0, ge=0, le=9000),
        filter: str | None = Query(None, description="Over tags: `price < 30`."),
        score_threshold: float | None = Query(None, ge=-1, le=1),
        include_total: bool = Query(False, description="Say how many the filter leaves: `total`."),
        model: str | None = Query(None, description="`current`, `previous` or `next` of a swap."),
    ) -> Response:
        """The nearest pictures of one text, for the browser's address bar and for curl.

        `warnings` beside `matches`: as POST /search has them.
        """
        if not q.strip():
            raise BadInput("q is empty: /search?q=red+rain+boots")
        parameters: dict[str, Any] = {"limit": limit, "offset": offset}
        if include_total:
            parameters["include_total"] = True
        given = {"filter": filter, "score_threshold": score_threshold, "model": model}
        parameters |= {name: value for name, value in given.items() if value is not None}
        docs = DocList[ClipDoc]([ClipDoc(text=q)])
        body = await answer(calls, "/search", docs, parameters)
        return json_response(body["data"][0] | {"warnings": body["warnings"]})

    @app.post("/get", openapi_extra=body_schema(DataBody, {"data": [{"id": "1234"}]}),
              tags=["index"])  # fmt: skip
    async def get(request: Request) -> Response:
        """The stored documents with the ids given; those that aren't there are left out."""
        body = await read_body(request, DataBody)
        docs = await asyncio.to_thread(to_docs, body.data)
        found = await answer(calls, "/get", docs, body.parameters)
        return await asyncio.to_thread(json_response, found, 200, body.encoding_format)

    @app.post("/delete", openapi_extra=body_schema(DeleteParameters), tags=["index"],
              responses=WARNED)  # fmt: skip
    async def delete(request: Request) -> Response:
        """Delete documents by `ids`, or those that a `filter` holds for: `deleted` says how many.

        With `dry_run` nothing is deleted, and `matched` says how many would be. `warnings` are
        sentences about a filter that can never hold.
        """
        body = await read_json(request)
        if is_request(body):
            return await answer_json(adapter, {"execEndpoint": "/delete"} | body)
        if isinstance(body, dict):
            check_parameters(body)
        parameters = fit(body, DeleteParameters).model_dump(exclude_none=True)
        return json_response(await answer(calls, "/delete", DocList[ClipDoc](), parameters))

    @app.post("/ids", openapi_extra=body_schema(IdsParameters), tags=["index"])
    async def ids(request: Request) -> Response:
        """The ids of the stored documents in ascending order, `limit` after the id `after`."""
        parameters = fit(await read_json(request, default={}), IdsParameters)
        given = parameters.model_dump(exclude_none=True)
        return json_response(await answer(calls, "/ids", DocList[ClipDoc](), given))

    @app.post("/clear", tags=["index"])
    async def clear(request: Request) -> Response:
        """Delete everything in the index."""
        body = await read_json(request, default={})
        if is_request(body):
            return await answer_json(adapter, {"execEndpoint": "/clear"} | body)
        fit(body, NoParameters)
        return json_response(await answer(calls, "/clear", DocList[ClipDoc](), {}))

    @app.get("/status", tags=["health"])
    @app.post("/status", tags=["health"], operation_id="post_status")
    async def status() -> Response:
        """The model served, and the state of the index."""
        return json_response(await answer(calls, "/status", DocList[ClipDoc](), {}))

    @app.post("/post", openapi_extra=body_schema(CallBody, {**texts, "execEndpoint": "/"}),
              tags=["encode"])  # fmt: skip
    async def post(request: Request) -> Response:
        """clip-as-service's form of a call: any endpoint, `/` is `/encode`."""
        body = await read_json(request)
        if not isinstance(body, dict):
            raise BadInput(f"the body must be a JSON object, got {body!r:.80}")
        return await answer_json(adapter, body)

    @app.get("/dry_run", include_in_schema=False)
    async def dry_run() -> dict[str, Any]:
        """Whether it lives, as Jina's clients ask."""
        return {"code": 0, "description": "", "exception": None}

    add_websocket(app, adapter)
    add_socket(app, adapter)


def add_page(app: FastAPI, calls: Calls) -> None:
    """The search page and its pictures."""
    page = resources.files("cliptune.gateway").joinpath("page/index.html").read_text("utf-8")
    # Only the page's own script and style run, whatever else gets into it.
    policy = PAGE_POLICY.format(script=_hash_of("script", page), style=_hash_of("style", page))

    @app.get("/", include_in_schema=False)
    async def search_page() -> Response:
        headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
        return Response(page, media_type="text/html; charset=utf-8", headers=headers)

    @app.get("/pictures/{identity:path}", tags=["search"])
    async def picture(identity: str, request: Request) -> Response:
        """An indexed picture."""
        docs = DocList[ClipDoc]([ClipDoc(id=identity)])
        found = await calls.post("/get", docs, {"include_image": True}, ClipDoc)
        if not found or found[0].image is None:
            raise NotFound(f"no picture of a document {identity[:100]!r}")
        data = found[0].image
        tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
        headers = {"ETag": tag, "Cache-Control": "max-age=60", "Content-Security-Policy": "sandbox"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=picture_type(data), headers=headers)


def _hash_of(element: str, page: str) -> str:
    content = page.split(f"<{element}>", 1)[1].split(f"</{element}>", 1)[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


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
