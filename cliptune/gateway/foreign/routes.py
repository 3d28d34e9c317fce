"""The routes of others' interfaces."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, JsonValue

from cliptune.gateway.dispatch import Dispatcher
from cliptune.gateway.foreign import embeddings, rerank
from cliptune.gateway.foreign.models import ModelNames, Models
from cliptune.gateway.http.schemas import json_response, read_json
from cliptune.gateway.routes import answer_schema, body_schema
from cliptune.protocol.endpoints import EMBEDDINGS, MODELS, RERANK

GROUP = "as others have it"
EMBEDDED: JsonValue = {"model": "cliptune", "input": ["red rain boots", "data:image/png;base64,…"]}
RERANKED: JsonValue = {
    "model": "cliptune",
    "query": "red rain boots",
    "documents": ["rubber boots", {"image": "data:image/png;base64,…"}],
    "top_n": 1,
}
Answer = Callable[[Dispatcher, ModelNames, object], Awaitable[Response]]


def add_foreign(app: FastAPI, dispatcher: Dispatcher) -> None:
    """Offer OpenAI's embeddings and models, and Cohere's and Jina's reranking."""
    names = ModelNames(dispatcher)

    def add(
        path: str,
        about: str,
        answer: Answer,
        takes: type[BaseModel],
        gives: type[BaseModel],
        example: JsonValue,
    ) -> None:
        async def answer_body(request: Request) -> Response:
            return await answer(
                dispatcher, names, await read_json(request, dispatcher.handler.limits)
            )

        app.add_api_route(
            path,
            answer_body,
            methods=["POST"],
            name=path.strip("/"),
            description=about,
            tags=[GROUP],
            openapi_extra=body_schema(takes, example),
            responses=answer_schema(gives),
        )

    add(
        EMBEDDINGS,
        "Embed texts and pictures in OpenAI's form: as `/encode`, whose limits it has.",
        embeddings.answer,
        embeddings.EmbeddingsBody,
        embeddings.Embeddings,
        EMBEDDED,
    )
    for path in RERANK:
        add(
            path,
            "Sort texts and pictures by how well they fit a query, in Cohere's and Jina's form: as "
            "`/rank`, whose limits it has.",
            rerank.answer,
            rerank.RerankBody,
            rerank.Reranked,
            RERANKED,
        )

    @app.get(MODELS, tags=[GROUP], responses=answer_schema(Models))
    async def models() -> Response:
        """The model that is served, in OpenAI's form."""
        return json_response(Models.of(await names.served()).model_dump())
