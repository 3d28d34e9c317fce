"""gRPC requests as they come in: what nobody has checked is refused before it is passed on."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from cliptune.errors import BadInput
from cliptune.serving.requests import MAX_DOCS, TooLarge
from cliptune.serving.wire import UNREADABLE

MAX_ENDPOINT = 256
ALL_BUT_VISION = "(?!vision$)"
"""The executors to go through, as Jina's regular expression over their names."""
_EMBEDDING = ("/", "/encode", "/search")
_TYPES = ("", "id", "ndarray")
_NUMBERS = re.compile(r"[<=|]?(u?int(8|16|32|64)|float(16|32|64)|[ui][1248]|f[248])")


def check_request(request: Any) -> int:
    """Check a `DataRequest`, and take out what clients have no say in; returns its documents.

    Raises:
        BadInput: it is no message, or asks for what isn't offered.
        TooLarge: it has too many documents.
    """
    proto = _read(request)
    if proto.data.WhichOneof("documents") == "docs_bytes":
        raise BadInput("docs_bytes: send the documents as messages (docs)")
    docs = proto.data.docs.docs
    if len(docs) > MAX_DOCS:
        raise TooLarge(f"{len(docs)} documents in one request, the limit is {MAX_DOCS}")
    for position, doc in enumerate(docs):
        _check_doc(doc, f"document {position}")
    return len(docs)


def choose_executors(request: Any) -> None:
    """Let a checked `DataRequest` of nothing but texts pass the vision executor by."""
    docs = request.proto_with_data.data.docs.docs
    if request.header.exec_endpoint in _EMBEDDING and docs and all(map(_is_text, docs)):
        request.header.target_executor = ALL_BUT_VISION


def check_single(request: Any) -> str:
    """Check a `SingleDocumentRequest` likewise; returns its endpoint."""
    proto = _read(request)
    _check_doc(proto.document, "the document")
    return proto.header.exec_endpoint


def _read(request: Any) -> Any:
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
    try:
        names = request.parameters
    except Exception as error:  # infinite numbers, of which protobuf's own JSON form has none
        raise BadInput(f"parameters: {error}") from None
    for name in names:
        if "__" in name:  # Jina's form for one executor alone
            raise BadInput(f"parameters: {name[:100]} is unknown")
    return proto


def _is_text(doc: Any) -> bool:
    # Not by [ ], which would add what is missing.
    text, *others = (doc.data.get(name) for name in ("text", "image", "uri"))
    if text is None or not text.text.strip():
        return False
    return all(node is None or node.WhichOneof("content") is None for node in others)


def _check_doc(doc: Any, what: str) -> None:
    for name, node in doc.data.items():
        # DocArray would make an object of any class that it has a name for.
        if node.type not in _TYPES:
            raise BadInput(f"{what}: {name[:100]}: {node.type[:40]!r} is no type of ours")
        content = node.WhichOneof("content")
        if content == "doc_array":  # matches
            for position, inner in enumerate(node.doc_array.docs):
                _check_doc(inner, f"{what}: {name[:100]}.{position}")
        if content != "ndarray":
            continue
        # DocArray would make an array of any type, of the shape that it is told.
        dense = node.ndarray.dense
        if not _NUMBERS.fullmatch(dense.dtype):
            raise BadInput(f"{what}: {name[:100]}: dtype {dense.dtype[:40]!r}: use float32")
        size = 1
        for length in dense.shape:
            size *= length
        if size * np.dtype(dense.dtype).itemsize != len(dense.buffer):
            raise BadInput(
                f"{what}: {name[:100]}: {len(dense.buffer)} bytes don't fill the shape "
                f"{list(dense.shape)[:8]} of {dense.dtype}"
            )
