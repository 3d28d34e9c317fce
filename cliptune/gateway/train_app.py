"""The HTTP side of a train Flow: the Trainer's calls as JSON, logs and artifacts as streams."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
from docarray import BaseDoc, DocList
from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict

from cliptune.gateway.base_app import body_schema, new_app
from cliptune.gateway.dispatch import Calls
from cliptune.gateway.schemas import json_response, read_body
from cliptune.protocol import wire_errors
from cliptune.protocol.documents import Answer, Ask, Chunk, LogItem
from cliptune.protocol.jina_compat import SingleDocumentRequest

DESCRIPTION = """Fine-tune CLIP on this machine, from another one.

Data sets, models and runs are given by name; `cliptune.connect("grpc://…")` in Python sends
documents too. Errors are `{"error": {"type": …, "message": …}}`."""


class Arguments(BaseModel):
    """The arguments of a call of the SDK, by name."""

    model_config = ConfigDict(extra="allow")


CALLS = {
    "/fit": ("Start a run; arguments as `cliptune.fit`.", {"model": "builtin", "epochs": 5,
                                                           "train_data": "catalogue-train"}),
    "/runs": ("`action`: list (the default), get, resume, delete, or delete_all (of "
              "`experiment_name`).", {"action": "list"}),
    "/experiments": ("`action`: list (the default), create, get, delete or delete_all.",
                     {"action": "list"}),
    "/status": ("A run's status, progress and history.", {"name": "brave-otter-3f2a"}),
    "/metrics": ("A finished run's metrics before and after.", {"name": "brave-otter-3f2a"}),
    "/evaluate": ("The metrics of a model or a run's artifact.", {"model": "builtin",
                  "query_data": "catalogue-queries", "index_data": "catalogue-index"}),
    "/cancel": ("Stop a run after a checkpoint.", {"name": "brave-otter-3f2a"}),
}  # fmt: skip


def make_app(handler: Any) -> FastAPI:
    """The application over a gateway's `RequestHandler`."""
    calls = Calls(handler)
    app = new_app("cliptune training", DESCRIPTION, calls)
    for endpoint, (summary, example) in CALLS.items():
        _add_call(app, calls, endpoint, summary, example)
    _add_streams(app, handler)

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return json_response({"service": "cliptune training", "calls": sorted(CALLS)})

    return app


def _add_call(app: FastAPI, calls: Calls, endpoint: str, summary: str, example: Any) -> None:
    @app.post(endpoint, summary=summary, operation_id=endpoint[1:], tags=["training"],
              openapi_extra=body_schema(Arguments, example))  # fmt: skip
    async def call(request: Request) -> Response:
        arguments = (await read_body(request, Arguments, default={})).model_dump()
        docs = DocList[Ask]([Ask(arguments=orjson.dumps(arguments).decode())])
        found = await calls.post(endpoint, docs, None, Answer)
        return Response(found[0].result, media_type="application/json")


def _add_streams(app: FastAPI, handler: Any) -> None:
    @app.get("/logs", tags=["training"])
    async def logs(
        name: str = Query(description="The run."),
        experiment_name: str | None = None,
        follow: bool = Query(False, description="Each line as it comes, until the run ends."),
        start: int = Query(0, ge=0, description="Leave out so many lines: those you have."),
    ) -> Response:
        """A run's log as text."""
        arguments = {
            "name": name,
            "experiment_name": experiment_name,
            "follow": follow,
            "start": start,
        }
        items = _stream(handler, "/logs", arguments, LogItem)
        lines = ((item.line or "").encode() + b"\n" async for item in await _begun(items))
        return StreamingResponse(lines, media_type="text/plain; charset=utf-8")

    @app.get("/artifact", tags=["training"])
    async def artifact(
        name: str = Query(description="The run."), experiment_name: str | None = None
    ) -> Response:
        """A finished run's tuned model, a zip."""
        arguments = {"name": name, "experiment_name": experiment_name}
        items = await _begun(_stream(handler, "/artifact", arguments, Chunk))
        file_name = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
        headers = {"Content-Disposition": f'attachment; filename="{file_name}.zip"'}
        chunks = (item.data or b"" async for item in items)
        return StreamingResponse(chunks, media_type="application/zip", headers=headers)


async def _stream(
    handler: Any, endpoint: str, arguments: dict[str, Any], kind: type[BaseDoc]
) -> AsyncIterator[Any]:
    request = SingleDocumentRequest()
    request.header.exec_endpoint = endpoint
    request.document_cls = Ask
    request.data.doc = Ask(
        arguments=orjson.dumps({k: v for k, v in arguments.items() if v is not None}).decode()
    )
    async for response in handler.stream_doc(request, None):
        response.document_cls = kind
        item: Any = response.data.doc
        if item.error:
            raise wire_errors.from_text(item.error)
        yield item


async def _begun(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """`items`, after the first has come: an error before it is an answer of its own."""
    first = await anext(items, None)

    async def all_items() -> AsyncIterator[Any]:
        if first is not None:
            yield first
        async for item in items:
            yield item

    return all_items()
