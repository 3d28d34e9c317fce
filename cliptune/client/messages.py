"""One request to a server and how its answer is read: as gRPC's messages and as HTTP's JSON.

Nothing here reads or writes a connection, so that it is the same for `Client` and `AsyncClient`.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

import numpy as np
from docarray import BaseDoc, DocList
from docarray.proto import DocListProto, DocProto

from cliptune.documents import QueryDoc, QueryPart, RankDoc
from cliptune.errors import BadInput
from cliptune.protocol import tags, wire_errors
from cliptune.protocol.documents import Report
from cliptune.protocol.endpoints import IDS, STATUS, TAGS, Endpoint
from cliptune.protocol.jina_messages_pb2 import DocumentRequest, DocumentsRequest, Header
from cliptune.protocol.limits import check_depth, check_finite
from cliptune.protocol.status import FlowStatus

D = TypeVar("D", bound=BaseDoc)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Json = dict[str, object]


def doc_list(kind: type[D], docs: Iterable[D] = ()) -> DocList[D]:
    """A `DocList[kind]` of a kind that is known when it runs."""
    typed: type[DocList[D]] = DocList.__class_getitem__(kind)
    return typed(docs)


@dataclass(frozen=True)
class Call(Generic[R_co]):
    """A request, and how its answer is read."""

    endpoint: Endpoint[BaseDoc]
    read_message: Callable[[DocumentsRequest], R_co]
    """Reads the answer over gRPC."""
    read_json: Callable[[Json], R_co]
    """Reads the answer over HTTP."""
    docs: Sequence[BaseDoc] | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)
    repeatable: bool = True
    """Whether it may be made again where nobody knows what became of it."""
    over_http: tuple[str, Json] | None = None
    """The path and the body over HTTP, where they are others."""

    def message(self) -> DocumentsRequest:
        """As gRPC's message.

        Raises:
            BadInput: parameters or tags can't be sent.
        """
        sent = [doc.model_copy() for doc in self.docs or ()]
        tags.pack(sent)
        message = DocumentsRequest(header=_header(self.endpoint.path))
        message.data.docs = DocListProto(
            docs=[doc.to_protobuf() for doc in sent]
        ).SerializeToString()
        self._check_parameters()
        if self.parameters:
            try:
                message.parameters.update(self.parameters)
            except (TypeError, ValueError) as error:
                raise BadInput(f"parameters {self.parameters!r:.200}: {error}") from None
        return message

    def json(self) -> tuple[str, Json]:
        """The path and the body over HTTP.

        Raises:
            BadInput: parameters or tags can't be sent.
        """
        if self.over_http is not None:
            return self.over_http
        self._check_parameters()
        if self.docs is None:
            return self.endpoint.path, dict(self.parameters)
        tags.check(self.docs)
        body: Json = {"data": [to_item(doc) for doc in self.docs], "encoding_format": "base64"}
        if self.parameters:
            body["parameters"] = self.parameters
        return self.endpoint.path, body

    def _check_parameters(self) -> None:
        check_depth(self.parameters, "parameters")
        check_finite(self.parameters)

    def read(self, message: DocumentsRequest) -> R_co:
        """What a gRPC answer holds.

        Raises:
            CliptuneError: what the server says went wrong.
        """
        if (failure := wire_errors.from_status(message.header.status)) is not None:
            raise failure
        return self.read_message(message)


def documents(
    endpoint: Endpoint[D],
    docs: Sequence[BaseDoc],
    parameters: Mapping[str, object] | None = None,
) -> Call[DocList[D]]:
    """A call with documents, answered by those that the endpoint gives."""
    as_docs, as_json = partial(_docs_of_message, endpoint.gives), partial(_docs_of_json, endpoint)
    return Call(endpoint, as_docs, as_json, docs, parameters or {})


def report(
    endpoint: Endpoint[Report],
    read: Callable[[Json], R],
    parameters: Mapping[str, object] | None = None,
    docs: Sequence[BaseDoc] | None = None,
    *,
    repeatable: bool = True,
) -> Call[R]:
    """A call that one executor answers with what it did; `read` takes that."""

    def of_message(message: DocumentsRequest) -> R:
        return read(_docs_of_message(Report, message)[0].values)

    return Call(endpoint, of_message, read, docs, parameters or {}, repeatable)


def status() -> Call[Json]:
    """A call for the status of all executors together."""

    def joined(message: DocumentsRequest) -> Json:
        return FlowStatus.of(_docs_of_message(Report, message)).to_json()

    return Call(STATUS, joined, lambda body: body)


def tags_known() -> Call[Json]:
    """A call for the tags that stored documents have."""
    return report(TAGS, dict)


def ids(parameters: Mapping[str, object]) -> Call[list[str]]:
    """A call for a page of ids."""

    def of_message(message: DocumentsRequest) -> list[str]:
        listed = DocListProto.FromString(message.data.docs)
        return [str(doc.data["id"].text) for doc in listed.docs]

    def of_json(body: Json) -> list[str]:
        listed = body["ids"]
        return list(map(str, listed)) if isinstance(listed, list) else []

    return Call(IDS, of_message, of_json, None, parameters)


def one_document(endpoint: Endpoint[BaseDoc], doc: BaseDoc) -> DocumentRequest:
    """The message of a call that is answered by a stream."""
    document = doc.to_protobuf().SerializeToString()
    return DocumentRequest(header=_header(endpoint.path), document=document)


def document_of(endpoint: Endpoint[D], message: DocumentRequest) -> D:
    """One document of the stream."""
    return endpoint.gives.from_protobuf(DocProto.FromString(message.document))


def _header(path: str) -> Header:
    return Header(request_id=uuid.uuid4().hex, exec_endpoint=path)


def _docs_of_message(kind: type[D], message: DocumentsRequest) -> DocList[D]:
    listed = DocListProto.FromString(message.data.docs)
    docs = doc_list(kind, [kind.from_protobuf(one) for one in listed.docs])
    tags.unpack(docs)
    return docs


def _docs_of_json(endpoint: Endpoint[D], body: Json) -> DocList[D]:
    items = body["data"]
    # Of a search, said once of all queries.
    shared: Json = {name: body[name] for name in ("warnings", "facets") if name in body}
    listed = items if isinstance(items, list) else []
    return doc_list(endpoint.gives, [_doc(endpoint.gives, {**item, **shared}) for item in listed])


def to_item(doc: BaseDoc) -> Json:
    """A document as a body has it."""
    fields: Json = {"id": str(doc.id)}
    for name in ("text", "uri", "label", "tags"):
        if (value := getattr(doc, name)) is not None and value != {}:
            fields[name] = value
    if isinstance(doc, QueryPart):
        del fields["id"]  # not to be taken for the id of a stored document
        fields |= {"weight": doc.weight} | ({} if doc.like is None else {"like": doc.like})
    if isinstance(doc, QueryDoc) and doc.parts:
        fields["parts"] = [to_item(part) for part in doc.parts]
    if (image := getattr(doc, "image", None)) is not None:
        fields["image"] = base64.b64encode(image).decode()
    if isinstance(doc, RankDoc):
        fields["matches"] = [to_item(match) for match in doc.matches]
    return fields


def _doc(kind: type[D], item: Json) -> D:
    if isinstance(vector := item.get("embedding"), str):
        dtype = np.dtype(str(item.get("embedding_dtype", "<f4")))
        numbers = np.frombuffer(base64.b64decode(vector), dtype)
        item = {**item, "embedding": numbers.astype(dtype.newbyteorder("="))}
    if isinstance(image := item.get("image"), str):
        item = {**item, "image": base64.b64decode(image)}
    return kind(**item)
