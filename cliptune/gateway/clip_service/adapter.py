"""`Adapter`: a request of clip-as-service's clients, answered through the search Flow."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeGuard, TypeVar

from docarray import BaseDoc, DocList

from cliptune.documents import ClipDoc, RankDoc, RankMatch, SearchResult
from cliptune.errors import BadInput, CliptuneError, NotFound, near_matches
from cliptune.gateway.clip_service import documents as v1
from cliptune.gateway.clip_service.clip_service_pb2 import Document, Request
from cliptune.gateway.dispatch import Dispatcher, Docs
from cliptune.observability.request_log import OTHER, observed
from cliptune.protocol import wire_errors
from cliptune.protocol.endpoints import (
    ENCODE,
    INDEX,
    INDEX_TEXTS,
    ROOT,
    SEARCH_FLOW,
    STATUS,
    Endpoint,
)
from cliptune.protocol.limits import TOGETHER, Limits
from cliptune.protocol.parameters import NoParameters
from cliptune.protocol.status import FlowStatus

if TYPE_CHECKING:
    from cliptune.protocol.jina_types import RouteProto

D = TypeVar("D", bound=BaseDoc)
_OWN = ("drop_image_content", "access_paths", "traversal_paths", "model_name")
"""Parameters of clip-as-service's encoders, which mean something here alone."""


class Adapter:
    """Answers requests in place: a document comes back as it was sent, with what was asked for.

    As clip-as-service has it: a text wins over a picture; `drop_image_content` leaves pictures out
    of the answer; `/rank` sorts `matches` by their `clip_score`; an empty document to `/` measures
    the way to the executors and back.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        """Take the way into the Flow."""
        self.dispatcher = dispatcher
        self.limits: Limits = dispatcher.handler.limits

    async def answer(self, request: Request, protocol: str = "grpc") -> None:
        """Answer `request` in place; an error is told in its header, as Jina does."""
        with observed(protocol, request.header.request_id) as call:
            call.endpoint, call.status = endpoint_name(request), "OK"
            try:
                await asyncio.to_thread(v1.check_sizes, request.data.docs.docs, self.limits.tally())
                await self.run(request)
            except Exception as error:
                refusal = wire_errors.from_exception(error)
                call.status = wire_errors.grpc_code(refusal).name
                set_error(request, refusal)

    async def run(self, request: Request) -> None:
        """Answer `request` in place.

        Raises:
            CliptuneError: what the client is told.
        """
        del request.routes[:]
        gateway = request.routes.add(executor="gateway")
        gateway.start_time.GetCurrentTime()
        endpoint = _endpoint(request)
        parameters = await asyncio.to_thread(v1.plain, request.parameters, "parameters")
        self.limits.check_parameters(parameters)
        docs = list(request.data.docs.docs)
        if endpoint is STATUS:
            await self._status(request)
        elif _gives(endpoint, SearchResult):
            await self._search(request, endpoint, docs, parameters)
        elif _gives(endpoint, RankDoc):
            await self._rank(request, endpoint, docs)
        elif endpoint is INDEX:
            await self._index(request, docs)
        elif _gives(endpoint, ClipDoc):
            await self._encode(request, endpoint, docs, parameters)
        elif endpoint.takes is not None:
            sent = await asyncio.to_thread(_all_stored, enumerate(docs))
            await self._call(request, endpoint, sent)
        else:
            by_id = endpoint.parameters is not NoParameters
            named = [ClipDoc(id=doc.id) for doc in docs if by_id and doc.id]
            await self._call(request, endpoint, DocList[ClipDoc](named), _others(parameters))
        if parameters.get("drop_image_content"):
            for doc in v1.select(docs, "@r,m,c", self.limits):
                v1.drop_picture(doc)
        gateway.end_time.GetCurrentTime()
        # Clients divide by the whole milliseconds between the two.
        if gateway.end_time.ToMilliseconds() == gateway.start_time.ToMilliseconds():
            gateway.end_time.FromMilliseconds(gateway.start_time.ToMilliseconds() + 1)

    async def _encode(
        self,
        request: Request,
        endpoint: Endpoint[ClipDoc],
        docs: list[Document],
        parameters: dict[str, object],
    ) -> None:
        paths = parameters.get("access_paths", parameters.get("traversal_paths", "@r"))
        if not isinstance(paths, str):
            raise BadInput(f"access_paths is {paths!r:.100}: expected a text such as '@r'")
        chosen = v1.select(docs, paths, self.limits)
        if endpoint is ROOT and chosen and not any(v1.has_content(doc) for doc in chosen):
            await self._call(request, STATUS)
            return
        sent = await asyncio.to_thread(_all_given, chosen)
        embedded = await self._call(request, ENCODE if endpoint is ROOT else endpoint, sent)
        for doc, one in zip(chosen, embedded, strict=True):
            _set_embedding(doc, one)

    async def _rank(
        self, request: Request, endpoint: Endpoint[RankDoc], docs: list[Document]
    ) -> None:
        count = len(docs) + sum(len(doc.matches) for doc in docs)
        self.limits.check_count(count, TOGETHER)
        sent = await asyncio.to_thread(_to_rank_docs, docs)
        compared = await self._call(request, endpoint, sent)
        for doc, one in zip(docs, compared, strict=True):
            _set_embedding(doc, one)
            given = list(doc.matches)
            ranked = []
            for match in one.matches:
                held = Document()
                held.CopyFrom(given[int(str(match.id))])
                held.ClearField("embedding")
                held.scores["clip_score"].value = match.clip_score
                held.scores["clip_score"].op_name = "softmax"
                held.scores["clip_score_cosine"].value = match.clip_score_cosine
                held.scores["clip_score_cosine"].op_name = "cosine"
                ranked.append(held)
            del doc.matches[:]
            doc.matches.extend(ranked)

    async def _index(self, request: Request, docs: list[Document]) -> None:
        self.limits.check_count(len(docs))
        # Pictures first: what is refused most often is refused before anything is stored.
        for endpoint, texts in ((INDEX, False), (INDEX_TEXTS, True)):
            chosen = [(i, doc) for i, doc in enumerate(docs) if v1.has_text(doc) is texts]
            if not chosen and (texts or docs):
                continue
            sent = await asyncio.to_thread(_all_stored, chosen)
            stored = await self._call(request, endpoint, sent, {"include_embedding": True})
            for (_, doc), one in zip(chosen, stored, strict=True):
                _set_embedding(doc, one)

    async def _search(
        self,
        request: Request,
        endpoint: Endpoint[SearchResult],
        docs: list[Document],
        parameters: dict[str, object],
    ) -> None:
        sent = await asyncio.to_thread(_all_given, docs)
        results = await self._call(request, endpoint, sent, _others(parameters))
        await asyncio.to_thread(_add_matches, docs, results)

    async def _status(self, request: Request) -> None:
        status = FlowStatus.of(await self._call(request, STATUS))
        del request.data.docs.docs[:]
        request.data.docs.docs.add(id="status").tags.update(status.to_json())

    async def _call(
        self,
        request: Request,
        endpoint: Endpoint[D],
        docs: Docs | None = None,
        parameters: Mapping[str, object] | None = None,
    ) -> DocList[D]:
        """The documents of an endpoint's answer; its executors' times are added to `request`."""
        answered, routes = await self.dispatcher.call(endpoint, docs, parameters)
        executors = [route for route in routes if route.executor != "gateway"]
        # The first one is what clients show as the model's time: the one that had the work.
        executors.sort(key=lambda route: _nanoseconds(route), reverse=True)
        for route in executors:
            added = request.routes.add(executor=route.executor)
            added.start_time.CopyFrom(route.start_time)
            added.end_time.CopyFrom(route.end_time)
        return answered


def endpoint_name(request: Request) -> str:
    """The endpoint that a request asks for, as metrics name it."""
    try:
        return _endpoint(request).path
    except NotFound:
        return OTHER


def set_error(request: Request, error: CliptuneError) -> None:
    """Make `request` the answer that tells of an error; its documents are left out."""
    request.ClearField("data")
    del request.routes[:]
    status = request.header.status
    status.Clear()
    status.code = status.ERROR
    body = wire_errors.ErrorBody.of(error)
    status.description = f"{body.type}: {body.message}"
    status.exception.name = body.type
    status.exception.args.append(body.message)


def _set_embedding(doc: Document, answered: ClipDoc) -> None:
    if answered.embedding is not None:
        v1.set_embedding(doc, answered.embedding)


def _gives(endpoint: Endpoint[BaseDoc], kind: type[D]) -> TypeGuard[Endpoint[D]]:
    return endpoint.gives is kind


def _endpoint(request: Request) -> Endpoint[BaseDoc]:
    path = request.header.exec_endpoint or ROOT.path
    known = {one.path: one for one in SEARCH_FLOW.values() if one.for_clip_service}
    if path in known:
        return known[path]
    shown = path[:100]
    models = [one.path for one in known.values() if one.group == ENCODE.group]
    if any(path.startswith(f"{one}/") for one in models):  # `/encode/MODEL`, as theirs has it
        raise NotFound(f"no endpoint {shown!r}: this server has one model; leave model_name out")
    raise NotFound(f"no endpoint {shown!r}: {near_matches(path, known)}")


def _others(parameters: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in parameters.items() if name not in _OWN}


def _stored(doc: Document, position: int) -> ClipDoc:
    """A document for the index: its URI is shown beside the matches, if it has a picture too."""
    made = v1.to_clip_doc(doc, position, tags=v1.tags_of(doc, position))
    if made.uri is None and doc.uri and not doc.uri.startswith("data:"):
        made.uri = doc.uri
    return made


def _all_stored(docs: Iterable[tuple[int, Document]]) -> DocList[ClipDoc]:
    return DocList[ClipDoc]([_stored(doc, i) for i, doc in docs])


def _all_given(docs: list[Document]) -> DocList[ClipDoc]:
    return DocList[ClipDoc]([v1.to_clip_doc(doc, i) for i, doc in enumerate(docs)])


def _add_matches(docs: list[Document], results: DocList[SearchResult]) -> None:
    for doc, one in zip(docs, results, strict=True):
        del doc.matches[:]
        for match in one.matches:
            v1.add_match(doc, match)


def _to_rank_docs(docs: list[Document]) -> DocList[RankDoc]:
    sent = DocList[RankDoc]()
    for position, doc in enumerate(docs):
        place = v1.name_of(position, doc)
        matches = DocList[RankMatch]()
        for number, match in enumerate(doc.matches):
            try:
                # The id says which one it was, when they come back sorted.
                held = v1.to_clip_doc(match, number, id=str(number))
            except BadInput as error:
                raise type(error)(f"{place}: match {error}") from None
            matches.append(RankMatch(**_fields(held)))
        sent.append(RankDoc(**_fields(v1.to_clip_doc(doc, position)), matches=matches))
    return sent


def _fields(doc: ClipDoc) -> dict[str, object]:
    return {"id": doc.id, "text": doc.text, "image": doc.image, "uri": doc.uri}


def _nanoseconds(route: RouteProto) -> int:
    return route.end_time.ToNanoseconds() - route.start_time.ToNanoseconds()
