"""Jina's messages, made and read: requests to an endpoint, and the documents of its answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from docarray import BaseDoc, DocList

from cliptune.documents import ClipDoc
from cliptune.protocol import tags
from cliptune.protocol.jina_compat import DataRequest, SingleDocumentRequest

D = TypeVar("D", bound=BaseDoc)


def data_request(
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


def documents_of(response: DataRequest, kind: type[D]) -> DocList[D]:
    """The documents of an answer."""
    response.document_array_cls = DocList.__class_getitem__(kind)
    docs = cast(DocList[D], response.docs)
    tags.unpack(docs)
    return docs


def document_request(path: str, doc: BaseDoc) -> SingleDocumentRequest:
    """A request of one document, which is answered by a stream of them."""
    request = SingleDocumentRequest()
    request.header.exec_endpoint = path
    request.document_cls = type(doc)
    request.data.doc = doc
    return request


def document_of(response: SingleDocumentRequest, kind: type[D]) -> D:
    """The document of one answer of such a stream."""
    response.document_cls = kind
    return cast(D, response.data.doc)
