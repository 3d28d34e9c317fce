"""The routes of HTTP and what OpenAPI says of them, made from the table of endpoints."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import UnionType
from typing import Annotated, TypeVar, Union, get_args, get_origin

import orjson
from docarray import BaseDoc, DocList
from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, JsonValue

from cliptune.documents import ClipDoc, QueryDoc, RankDoc
from cliptune.errors import BadInput
from cliptune.gateway.clip_service.adapter import Adapter
from cliptune.gateway.clip_service.http import answer_json, is_request
from cliptune.gateway.dispatch import Dispatcher, Docs
from cliptune.gateway.http.schemas import (
    DataBody,
    EncodingFormat,
    QueryBody,
    RankBody,
    doc_fields,
    fit,
    json_response,
    read_json,
    to_docs,
    to_query_docs,
    to_rank_docs,
)
from cliptune.protocol.documents import FileChunk, LogItem, TrainRequest
from cliptune.protocol.endpoints import Endpoint
from cliptune.protocol.limits import Limits

T = TypeVar("T")
Asked = dict[str, object]
"""What stands in an address behind the `?`."""


class Arguments(BaseModel):
    """The arguments of a call of the SDK, by name."""

    model_config = ConfigDict(extra="allow")


BODIES: dict[type[BaseDoc] | None, type[BaseModel]] = {
    ClipDoc: DataBody,
    QueryDoc: QueryBody,
    RankDoc: RankBody,
    TrainRequest: Arguments,
}
"""The body that stands for an endpoint's documents; of one without, it is the parameters."""


def add_routes(
    app: FastAPI,
    dispatcher: Dispatcher,
    endpoints: Mapping[str, Endpoint[BaseDoc]],
    adapter: Adapter | None = None,
) -> None:
    """Offer `endpoints` at their paths; requests of clip-as-service's clients go to `adapter`."""
    for endpoint in endpoints.values():
        name = endpoint.name
        plain = endpoint.takes is None and "GET" in endpoint.methods
        for method in endpoint.methods:
            about, answer = endpoint.about, _of_body(dispatcher, endpoint, adapter)
            if plain:
                answer = _of_nothing(dispatcher, endpoint)
            elif method == "GET" and endpoint.streams:
                answer = _InAddress(endpoint, _stream(dispatcher, endpoint))
            elif method == "GET":
                about = (
                    f"As POST {endpoint.path}, of one text `q`, for the browser's address bar and "
                    "for curl."
                )
                answer = _InAddress(endpoint, _of_one_text(dispatcher, endpoint))
            beside = method == "GET" and "POST" in endpoint.methods and not plain
            app.add_api_route(
                endpoint.path,
                answer,
                methods=[method],
                name=f"{name}_one" if beside else name,
                description=about,
                tags=[endpoint.group],
                responses=_responses(endpoint),
                openapi_extra=_body_schema(endpoint) if method == "POST" and not plain else None,
                operation_id=f"post_{name}" if plain and method == "POST" else None,
            )


def _of_body(
    dispatcher: Dispatcher, endpoint: Endpoint[BaseDoc], adapter: Adapter | None
) -> Callable[..., Awaitable[Response]]:
    """A body, and its answer."""
    form = tuple(endpoint.parameters.model_fields) if endpoint.takes_forms else None
    # Where all may be left out, the body may be too.
    default: Asked | None = {} if endpoint.takes in (None, TrainRequest) else None

    async def answer(request: Request) -> Response:
        body = await read_json(request, dispatcher.handler.limits, default, form)
        if adapter is not None and is_request(body):  # they post to any endpoint that they see
            return await answer_json(adapter, {"execEndpoint": endpoint.path} | body)
        docs, parameters, encoding = await asyncio.to_thread(
            _read, endpoint, body, dispatcher.handler.limits
        )
        answered, _ = await dispatcher.call(endpoint, docs, parameters)
        return await asyncio.to_thread(_respond, endpoint, answered, encoding)

    return answer


def _read(
    endpoint: Endpoint[BaseDoc], body: object, limits: Limits
) -> tuple[Docs, Asked, EncodingFormat]:
    """The documents of a body, the parameters, and how the answer has embeddings."""
    if endpoint.takes is None:
        limits.check_parameters(body if isinstance(body, dict) else {})
        given = fit(body, endpoint.parameters, limits)
        return DocList[ClipDoc](), given.model_dump(exclude_none=True), "float"
    if endpoint.takes is TrainRequest:
        arguments = fit(body, Arguments, limits).model_dump()
        return DocList[TrainRequest]([_train_request(arguments)]), {}, "float"
    if endpoint.takes is RankDoc:
        compared = fit(body, RankBody, limits)
        return to_rank_docs(compared.data), compared.parameters, compared.encoding_format
    if endpoint.takes is QueryDoc:
        asked = fit(body, QueryBody, limits)
        return to_query_docs(asked.data), asked.parameters, asked.encoding_format
    read = fit(body, DataBody, limits)
    return to_docs(read.data), read.parameters, read.encoding_format


def _respond(
    endpoint: Endpoint[BaseDoc], docs: DocList[BaseDoc], encoding: EncodingFormat
) -> Response:
    return json_response(endpoint.answer(docs), 200, encoding)


def _of_nothing(
    dispatcher: Dispatcher, endpoint: Endpoint[BaseDoc]
) -> Callable[..., Awaitable[Response]]:
    """Whatever the body."""

    async def answer() -> Response:
        answered, _ = await dispatcher.call(endpoint)
        return _respond(endpoint, answered, "float")

    return answer


def _of_one_text(
    dispatcher: Dispatcher, endpoint: Endpoint[BaseDoc]
) -> Callable[[Asked], Awaitable[Response]]:
    """One text and the parameters: its document, and what is beside `data`."""

    async def answer(asked: Asked) -> Response:
        if not (text := str(asked.pop("q"))).strip():
            raise BadInput(f"q is empty: {endpoint.path}?q=red+rain+boots")
        query = DocList[QueryDoc]([QueryDoc(text=text)])
        answered, _ = await dispatcher.call(endpoint, query, asked)
        whole = endpoint.answer(answered)
        beside = whole if isinstance(whole, dict) else {}
        [one] = [doc_fields(doc) for doc in answered if isinstance(doc, ClipDoc)]
        return json_response(one | {k: v for k, v in beside.items() if k != "data"})

    return answer


def _stream(
    dispatcher: Dispatcher, endpoint: Endpoint[BaseDoc]
) -> Callable[[Asked], Awaitable[Response]]:
    """A log as text, or a file."""

    async def answer(asked: Asked) -> Response:
        items = await _begun(dispatcher.stream(endpoint, _train_request(asked)))
        if endpoint.gives is LogItem:
            return StreamingResponse(_lines(items), media_type="text/plain; charset=utf-8")
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in str(asked["name"]))
        headers = {"Content-Disposition": f'attachment; filename="{name}.zip"'}
        return StreamingResponse(_bytes(items), media_type="application/zip", headers=headers)

    return answer


async def _lines(items: AsyncIterator[BaseDoc]) -> AsyncIterator[bytes]:
    async for item in items:
        if isinstance(item, LogItem):
            yield (item.line or "").encode() + b"\n"


async def _bytes(chunks: AsyncIterator[BaseDoc]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        if isinstance(chunk, FileChunk):
            yield chunk.data or b""


def _train_request(arguments: Asked) -> TrainRequest:
    return TrainRequest(arguments=orjson.dumps(arguments).decode())


async def _begun(items: AsyncIterator[T]) -> AsyncIterator[T]:
    """`items`, after the first has come: an error before it is an answer of its own."""
    first = await anext(items, None)

    async def all_items() -> AsyncIterator[T]:
        if first is not None:
            yield first
        async for item in items:
            yield item

    return all_items()


class _InAddress:
    """A route whose query is an endpoint's parameters, and a text `q` if it takes documents."""

    def __init__(
        self, endpoint: Endpoint[BaseDoc], answer: Callable[[Asked], Awaitable[Response]]
    ) -> None:
        self._answer = answer
        query = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.is_required() else field.default,
                annotation=Annotated[
                    _without_objects(field.annotation),
                    *field.metadata,
                    Query(description=field.description),
                ],
            )
            for name, field in endpoint.parameters.model_fields.items()
        ]
        if endpoint.takes is QueryDoc:
            text = Annotated[str, Query(description="The text.")]
            kind = inspect.Parameter.KEYWORD_ONLY
            query.insert(0, inspect.Parameter("q", kind, default="", annotation=text))
        self.__signature__ = inspect.Signature(query)

    async def __call__(self, **asked: object) -> Response:
        return await self._answer({k: v for k, v in asked.items() if v is not None})


def _without_objects(annotation: object) -> object:
    """A parameter's type in an address, where there are no objects."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    kinds = tuple(one for one in get_args(annotation) if get_origin(one) is not dict)
    return Union[kinds]  # noqa: UP007 - of a tuple


def _responses(endpoint: Endpoint[BaseDoc]) -> dict[int | str, dict[str, JsonValue]] | None:
    return None if endpoint.answers_with is None else answer_schema(endpoint.answers_with)


def answer_schema(kind: type[BaseModel]) -> dict[int | str, dict[str, JsonValue]]:
    """What OpenAPI is told of an answer."""
    schema = _schema(kind)
    about = schema.pop("description", "")
    return {200: {"description": about, "content": {"application/json": {"schema": schema}}}}


def _body_schema(endpoint: Endpoint[BaseDoc]) -> dict[str, JsonValue] | None:
    kind = BODIES.get(endpoint.takes, endpoint.parameters)
    if kind is endpoint.parameters and not kind.model_fields:
        return None
    return body_schema(kind, endpoint.example)


def body_schema(kind: type[BaseModel], example: JsonValue = None) -> dict[str, JsonValue]:
    """What OpenAPI is told of a body."""
    content: dict[str, JsonValue] = {"schema": _schema(kind)}
    if example is not None:
        content["example"] = example
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def _schema(kind: type[BaseModel]) -> dict[str, JsonValue]:
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    whole = _inlined(schema, schema.pop("$defs", {}))
    return whole if isinstance(whole, dict) else {}


def _inlined(node: JsonValue, definitions: dict[str, JsonValue]) -> JsonValue:
    if isinstance(node, dict):
        if "$ref" in node:
            return _inlined(definitions[str(node["$ref"]).rsplit("/", 1)[-1]], definitions)
        return {key: _inlined(value, definitions) for key, value in node.items()}
    if isinstance(node, list):
        return [_inlined(value, definitions) for value in node]
    return node
