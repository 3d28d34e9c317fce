"""From the HTTP side of the gateway into the Flow, and what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from docarray import BaseDoc, DocList

from cliptune.documents import ClipDoc, QueryDoc, RankDoc
from cliptune.gateway.access.admission import Admission
from cliptune.protocol import tags, wire_errors
from cliptune.protocol.documents import FileChunk, LogItem, TrainRequest
from cliptune.protocol.endpoints import Endpoint
from cliptune.protocol.jina_compat import (
    DataRequest,
    SingleDocumentRequest,
    send_health_check_async,
)
from cliptune.protocol.limits import Limits
from cliptune.settings import Settings

if TYPE_CHECKING:
    from cliptune.protocol.jina_types import RouteProto, ServicerContext

D = TypeVar("D", bound=BaseDoc)


Docs = DocList[ClipDoc] | DocList[QueryDoc] | DocList[RankDoc] | DocList[TrainRequest]
"""What requests are made of."""
Addresses = dict[str, list[str]] | list[str]
"""Where an executor's replicas are; by protocol, or with the one that there is."""


class Handler(Protocol):
    """What requests go through: the gateway's `RequestHandler`."""

    admission: Admission
    settings: Settings
    limits: Limits
    addresses: Mapping[str, Addresses]
    """By the executors' names."""

    async def ask(self, request: DataRequest) -> DataRequest:
        """One request, and its answer."""

    def stream_doc(
        self, request: SingleDocumentRequest, context: ServicerContext | None
    ) -> AsyncIterator[SingleDocumentRequest]:
        """One request, and its answers."""


class Dispatcher:
    """The executors of a Flow, behind one gateway."""

    def __init__(self, handler: Handler) -> None:
        """Take what requests go through."""
        self.handler = handler

    async def call(
        self,
        endpoint: Endpoint[D],
        docs: Docs | None = None,
        parameters: Mapping[str, object] | None = None,
    ) -> tuple[DocList[D], Sequence[RouteProto]]:
        """Send `docs` to an endpoint.

        Returns: the documents of its answer, and Jina's routes: when each executor began and ended.

        Raises:
            CliptuneError: what a client is told.
        """
        sent: Docs = DocList[ClipDoc]() if docs is None else docs

        def check_and_pack() -> DataRequest:
            # What `ask` refuses of messages, before there is one.
            self.handler.limits.check_parameters(parameters or {})
            self.handler.limits.check_docs([doc for doc in sent if isinstance(doc, ClipDoc)])
            return _data_request(endpoint.path, sent, parameters)

        # Beside the event loop: a request may hold many documents, and an answer many matches.
        request = await asyncio.to_thread(check_and_pack)
        response = await self.handler.ask(request)
        answered = await asyncio.to_thread(_documents_of, response, endpoint.gives)
        return answered, list(response.routes)

    async def stream(self, endpoint: Endpoint[D], doc: BaseDoc) -> AsyncIterator[D]:
        """Send one document to an endpoint that streams; gives the documents of its answers.

        Raises:
            CliptuneError: what a client is told.
        """
        request = _document_request(endpoint.path, doc)
        async for response in self.handler.stream_doc(request, None):
            item = _document_of(response, endpoint.gives)
            if isinstance(item, LogItem | FileChunk) and item.error:
                raise wire_errors.from_text(item.error)
            yield item

    async def ready(self, timeout: float = 2.0) -> dict[str, bool]:
        """Which executors' servers answer; a busy one does too."""
        addresses = self.handler.addresses

        async def alive(address: str) -> bool:
            try:
                await send_health_check_async(address.split("//")[-1], timeout=timeout)
            except Exception:
                return False
            return True

        async def any_alive(given: Addresses) -> bool:
            listed = given.get("GRPC", given.get("grpc")) if isinstance(given, dict) else given
            return any(await asyncio.gather(*(alive(address) for address in listed or [])))

        names = list(addresses)
        answers = await asyncio.gather(*(any_alive(addresses[name]) for name in names))
        return dict(zip(names, answers, strict=True))


def _data_request(
    path: str, docs: DocList[Any], parameters: Mapping[str, object] | None = None
) -> DataRequest:
    """A request of many documents, whose tags are made fit to be sent in place.

    Raises:
        BadInput: a tag isn't fit to be sent; document and tag are named.
        TypeError, ValueError: a parameter isn't.
    """
    tags.pack(docs)
    request = DataRequest()
    request.header.exec_endpoint = path
    request.document_array_cls = DocList.__class_getitem__(docs.doc_type or ClipDoc)
    request.data.docs = docs
    if parameters:
        request.parameters = dict(parameters)
    return request


def _documents_of(response: DataRequest, kind: type[D]) -> DocList[D]:
    """The documents of an answer."""
    response.document_array_cls = DocList.__class_getitem__(kind)
    docs = cast(DocList[D], response.docs)
    tags.unpack(docs)
    return docs


def _document_request(path: str, doc: BaseDoc) -> SingleDocumentRequest:
    """A request of one document, which is answered by a stream of them."""
    request = SingleDocumentRequest()
    request.header.exec_endpoint = path
    request.document_cls = type(doc)
    request.data.doc = doc
    return request


def _document_of(response: SingleDocumentRequest, kind: type[D]) -> D:
    """The document of one answer of such a stream."""
    response.document_cls = kind
    return cast(D, response.data.doc)
