"""`POST /rerank`: documents in the order in which they fit a query, in Cohere's and Jina's form."""

from __future__ import annotations

import asyncio
from typing import Annotated

from docarray import DocList
from fastapi import Response
from pydantic import BaseModel, Field, JsonValue, WithJsonSchema

from cliptune.documents import ClipDoc, RankDoc, RankMatch
from cliptune.errors import BadInput
from cliptune.gateway.dispatch import Dispatcher
from cliptune.gateway.foreign.contents import ITEM, Body, Content, Usage, blamed_on
from cliptune.gateway.foreign.models import ABOUT_MODEL, ANY, ModelNames
from cliptune.gateway.http.schemas import fit, json_response
from cliptune.observability import request_ids
from cliptune.protocol.endpoints import RANK
from cliptune.protocol.limits import Limits

DOCUMENTS, QUERY = "documents", "query"
_Content = Annotated[Content, WithJsonSchema(ITEM)]


class RerankBody(Body):
    """A query and what is compared with it."""

    model: str = Field(ANY, description=ABOUT_MODEL)
    query: _Content = Field(description='A text or a picture: the text, or `{"image": …}`.')
    documents: list[_Content] = Field(
        description="Texts or pictures: texts, `data:` URIs, or objects as for `query`."
    )
    top_n: int | None = Field(None, ge=1, description="At most so many, the best; without: all.")
    return_documents: bool = Field(False, description="Tell each result's document, too.")
    max_tokens_per_doc: int | None = Field(
        None, description="Without effect: the model reads as many tokens as it was made for."
    )
    max_chunks_per_doc: int | None = Field(None, description="Likewise.")
    priority: int | None = Field(None, description="Without effect.")

    def doc(self) -> RankDoc:
        """The query with the documents as its matches, whose ids say where they stood.

        Raises:
            BadInput: there are no documents, or one of them or the query is empty.
            BadImage: a picture is neither a URI nor base64.
        """
        with blamed_on(DOCUMENTS):
            if not self.documents:
                raise BadInput("documents is empty")
            matches = DocList[RankMatch](
                [RankMatch(**one.fields(_place(i))) for i, one in enumerate(self.documents)]
            )
        with blamed_on(QUERY):
            return RankDoc(**self.query.fields(QUERY), matches=matches)


def _place(position: int) -> str:
    return f"{DOCUMENTS}[{position}]"


class Result(BaseModel):
    """How well one document fits."""

    index: int = Field(description="Which document, by its place in the request, from 0.")
    relevance_score: float = Field(description="Cosine similarity in [-1, 1].")
    document: dict[str, str] | None = Field(
        None, description="As it was sent, as an object; with `return_documents`."
    )


class Reranked(BaseModel):
    """The documents that fit best, best first."""

    id: str = Field(description="The request's id.")
    model: str
    results: list[Result]
    usage: Usage


async def answer(dispatcher: Dispatcher, models: ModelNames, body: object) -> Response:
    """Compare the documents of a body with its query.

    Raises:
        CliptuneError: what a client is told; `param` is the field at fault, if it is known.
    """
    asked, doc = await asyncio.to_thread(_read, body, dispatcher.handler.limits)
    model = await models.find(asked.model)
    with blamed_on(DOCUMENTS):
        answered, _ = await dispatcher.call(RANK, DocList[RankDoc]([doc]), {"include_tokens": True})
    ranked = answered[0]
    model = await models.checked(model, asked.model, ranked.model_digest)
    places = {_place(i): i for i in range(len(asked.documents))}
    results = []
    for match in ranked.matches[: asked.top_n]:
        result = Result(index=places[str(match.id)], relevance_score=match.clip_score_cosine)
        if asked.return_documents:
            result.document = asked.documents[result.index].model_dump(exclude_none=True)
        results.append(result)
    read: list[ClipDoc] = [ranked, *ranked.matches]
    response = Reranked(
        id=request_ids.current.get(), model=model.name, results=results, usage=Usage.of(read)
    )
    content: dict[str, JsonValue] = response.model_dump(exclude_none=True)
    return await asyncio.to_thread(json_response, content)


def _read(body: object, limits: Limits) -> tuple[RerankBody, RankDoc]:
    with blamed_on(DOCUMENTS):
        asked = fit(body, RerankBody, limits, DOCUMENTS)
        limits.check_count(1 + len(asked.documents), "documents, with the query,")
    return asked, asked.doc()
