"""gRPC requests as they come in: what nobody has checked is refused before it is passed on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from docarray import BaseDoc
from google.protobuf.json_format import MessageToDict, SerializeToJsonError
from google.protobuf.message import DecodeError

from cliptune.documents import MAX_DEPTH
from cliptune.errors import BadInput, TooLarge
from cliptune.protocol.endpoints import Endpoint
from cliptune.protocol.jina_compat import SingleDocumentRequest, jina_pb2
from cliptune.protocol.limits import (
    LARGE,
    TOGETHER,
    Limits,
    Tally,
    count_messages,
)
from cliptune.protocol.wire_errors import UNREADABLE

if TYPE_CHECKING:
    from google.protobuf.struct_pb2 import Struct

    from cliptune.protocol.jina_types import DataRequest, DocProto, NodeProto

_NO_JSON = (ValueError, SerializeToJsonError)
"""What protobuf's versions raise for numbers of which JSON has no form."""
MAX_ENDPOINT = 256
MAX_DIMENSIONS = 8
ALL_BUT_VISION = "(?!vision$)"
"""The executors to go through, as Jina's regular expression over their names."""
_TYPES = ("", "id", "ndarray")
_NUMBERS = re.compile(r"[<=|]?(u?int(8|16|32|64)|float(16|32|64)|[ui][1248]|f[248])")


async def unpack(request: DataRequest | SingleDocumentRequest, limits: Limits) -> None:
    """Parse a `DataRequest`'s or a `SingleDocumentRequest`'s bytes, the large ones elsewhere.

    Raises:
        TooLarge: it holds too many values.
        BadInput: it is no message.
    """
    raw = request.buffer
    if not isinstance(raw, bytes):
        return
    if len(raw) < LARGE:
        _parse(request, raw, limits)
    else:
        await asyncio.to_thread(_parse, request, raw, limits)


def _parse(request: DataRequest | SingleDocumentRequest, raw: bytes, limits: Limits) -> None:
    single = isinstance(request, SingleDocumentRequest)
    kind = jina_pb2.SingleDocumentRequestProto if single else jina_pb2.DataRequestProto
    limits.check_message(raw, kind.DESCRIPTOR)
    try:
        _ = request.proto_with_data
    except (DecodeError, ValueError):  # a ValueError for an empty message
        raise BadInput(UNREADABLE) from None


async def checked(request: DataRequest, limits: Limits) -> int:
    """`check_request`, of a large message beside the event loop."""
    if request.is_decompressed_with_data and request.proto_with_data.ByteSize() < LARGE:
        return check_request(request, limits)
    return await asyncio.to_thread(check_request, request, limits)


def check_request(request: DataRequest, limits: Limits) -> int:
    """Check a `DataRequest`, and take out what clients have no say in; returns its documents.

    Raises:
        BadInput: it is no message, or asks for what isn't offered.
        TooLarge: it has too many documents.
    """
    _check_message(request, limits)
    proto = request.proto_with_data
    if proto.data.WhichOneof("documents") == "docs_bytes":
        raise BadInput("docs_bytes: send the documents as messages (docs)")
    docs = proto.data.docs.docs
    limits.check_count(len(docs))
    tally = limits.tally()
    count = sum(_check_doc(doc, f"document {i}", tally) for i, doc in enumerate(docs))
    limits.check_count(count, TOGETHER)
    return len(docs)


def choose_executors(request: DataRequest, endpoints: Mapping[str, Endpoint[BaseDoc]]) -> None:
    """Let a checked `DataRequest` that has no pictures pass the vision executor by."""
    docs = request.proto_with_data.data.docs.docs
    endpoint = endpoints.get(request.header.exec_endpoint)
    if endpoint and endpoint.texts_skip_vision and docs and all(map(_has_no_picture, docs)):
        request.header.target_executor = ALL_BUT_VISION


def check_single(request: SingleDocumentRequest, limits: Limits) -> str:
    """Check a `SingleDocumentRequest` likewise; returns its endpoint."""
    _check_message(request, limits)
    proto = request.proto_with_data
    _check_doc(proto.document, "the document", limits.tally())
    return proto.header.exec_endpoint


def _check_message(request: DataRequest | SingleDocumentRequest, limits: Limits) -> None:
    """Check what both kinds of messages have."""
    try:
        proto = request.proto_with_data
    except (DecodeError, ValueError):  # a ValueError for an empty message
        raise BadInput(UNREADABLE) from None
    if request.buffer:  # it was looked at before, and what could be read of it was kept
        raise BadInput(UNREADABLE)
    header = proto.header
    if len(header.exec_endpoint) > MAX_ENDPOINT or len(header.request_id) > MAX_ENDPOINT:
        raise BadInput(f"exec_endpoint and request_id: at most {MAX_ENDPOINT} characters")
    if header.target_executor:
        # A regular expression, matched on the event loop; and executors rely on those before them.
        raise BadInput("target_executor is not offered: requests go through the whole Flow")
    header.ClearField("status")
    del proto.routes[:]
    # Two messages for each value at most: a `Value`, and the entry of the map that it is in.
    allowed = limits.bounds.max_parameters
    most = 2 * allowed + 1
    raw = proto.parameters.SerializeToString()
    if count_messages(raw, proto.parameters.DESCRIPTOR, most) > most:
        raise TooLarge(f"parameters: more than {allowed} values, the limit")
    try:
        names = request.parameters
    except _NO_JSON:
        wrong = ", ".join(_not_finite(proto.parameters)) or "a number"
        raise BadInput(f"parameters: {wrong} is not finite; JSON has no such numbers") from None
    for name in names:
        if "__" in name:  # Jina's form for one executor alone
            raise BadInput(f"parameters: {name[:100]} is unknown")
    limits.check_parameters(names)


def _not_finite(parameters: Struct) -> list[str]:
    """The names of parameters that hold NaN or an infinity, of which JSON has no form."""
    names = []
    for name, value in parameters.fields.items():
        try:
            MessageToDict(value)
        except _NO_JSON:
            names.append(name[:100])
    return names[:10]


def _has_no_picture(doc: DocProto) -> bool:
    """Whether a document is a text, a stored document's id, or made of such parts."""
    # Not by [ ], which would add what is missing.
    text, like, parts, *others = (
        doc.data.get(name) for name in ("text", "like", "parts", "image", "uri")
    )
    if any(node is not None and node.WhichOneof("content") is not None for node in others):
        return False
    if parts is not None and parts.doc_array.docs:
        return all(map(_has_no_picture, parts.doc_array.docs))
    return any(node is not None and bool(node.text.strip()) for node in (text, like))


def _count(node: NodeProto, depth: int = 0) -> int:
    """The values inside a node, as `requests.count_inside` has it."""
    content = node.WhichOneof("content")
    if content not in ("dict", "list", "set", "tuple"):
        return 0
    if depth > MAX_DEPTH:
        raise BadInput(f"nested deeper than {MAX_DEPTH} levels")
    held = getattr(node, content).data
    inner = held.values() if content == "dict" else held
    return len(held) + sum(_count(one, depth + 1) for one in inner)


def _check_doc(doc: DocProto, what: str, tally: Tally) -> int:
    """Check a document, and what is in it; returns how many they are."""
    documents = 1
    fields = doc.data
    text = fields["text"].text if "text" in fields else None
    tally.add(text, _count(fields["tags"]) if "tags" in fields else 0, what)
    for name, node in fields.items():
        # DocArray would make an object of any class that it has a name for.
        if node.type not in _TYPES:
            raise BadInput(f"{what}: {name[:100]}: {node.type[:40]!r} is no type of ours")
        content = node.WhichOneof("content")
        if content == "doc_array":  # matches
            for position, inner in enumerate(node.doc_array.docs):
                documents += _check_doc(inner, f"{what}: {name[:100]}.{position}", tally)
        if content != "ndarray":
            continue
        # DocArray would make an array of any type, of the shape that it is told.
        dense = node.ndarray.dense
        if len(dense.shape) > MAX_DIMENSIONS:
            raise BadInput(f"{what}: {name[:100]}: {len(dense.shape)} dimensions are too many")
        if not _NUMBERS.fullmatch(dense.dtype):
            raise BadInput(f"{what}: {name[:100]}: dtype {dense.dtype[:40]!r}: use float32")
        size = 1
        for length in dense.shape:
            size *= length
        if size * np.dtype(dense.dtype).itemsize != len(dense.buffer):
            raise BadInput(
                f"{what}: {name[:100]}: {len(dense.buffer)} bytes don't fill the shape "
                f"{list(dense.shape)} of {dense.dtype}"
            )
    return documents
