"""What a client may be given, as documents: texts, paths, URIs, bytes, arrays; and in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from cliptune.data.images import SUFFIXES, image_bytes, png_of_pixels
from cliptune.documents import ClipDoc, RankDoc, RankMatch
from cliptune.errors import BadImage, BadInput
from cliptune.serving.requests import MAX_DOCS, has_text

MAX_BATCH_BYTES = 16 * 1024 * 1024
"""Bytes of pictures in one request: batches are cut shorter where pictures are large."""
D = TypeVar("D", bound=ClipDoc)


def to_doc(item: Any, position: int) -> ClipDoc:
    """The document of an item.

    A document is itself. Bytes are an encoded picture, an array (uint8 [H, W, 3]) its pixels. A
    text is a picture's URI if it begins with `data:image/`, or a picture's path if it ends as
    those do (`.jpg`, `.png`, …); else it is a text. `ClipDoc(text=…)` and `ClipDoc(uri=…)` say it
    outright.

    Raises:
        BadInput: it is of another type.
        BadImage: an array that isn't a picture.
    """
    if isinstance(item, ClipDoc):
        return item
    if isinstance(item, str):
        if item.startswith("data:image/") or item.lower().endswith(SUFFIXES):
            return ClipDoc(uri=item)
        return ClipDoc(text=item)
    if isinstance(item, bytes):
        return ClipDoc(image=item)
    if isinstance(item, np.ndarray):
        try:
            return ClipDoc(image=png_of_pixels(item))
        except BadImage as error:
            raise BadImage(f"item {position}: {error}") from None
    raise BadInput(
        f"item {position} is a {type(item).__name__}: expected a text, a path, bytes, an array "
        "of pixels or a ClipDoc"
    )


def to_docs(data: Any, what: str) -> Iterator[ClipDoc]:
    """The documents of an iterable.

    Raises:
        BadInput: it is a single item, or no iterable.
    """
    return (to_doc(item, position) for position, item in enumerate(checked(data, what)))


def checked(data: Any, what: str) -> Iterator[Any]:
    """An iterator over items; raises `BadInput` if `data` is a single one."""
    single = isinstance(data, str | bytes | ClipDoc) or (
        isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim <= 3
    )
    if single or not isinstance(data, Iterable):
        raise BadInput(f"{what} takes a list or another iterable: put the one item into [ ]")
    return iter(data)


def to_encode(doc: ClipDoc) -> ClipDoc:
    """What the server needs of a document to embed it."""
    if has_text(doc):
        return ClipDoc(id=doc.id, text=doc.text)
    has_image = doc.image is not None or doc.uri
    return ClipDoc(id=doc.id, image=image_bytes(doc, allow_files=True) if has_image else None)


def to_store(doc: ClipDoc) -> ClipDoc:
    """What the server needs of a document to store it; local pictures are read here."""
    has_image = doc.image is not None or doc.uri
    shown = doc.uri if doc.uri and not doc.uri.startswith("data:") else None
    return ClipDoc(
        id=doc.id,
        text=doc.text,
        image=image_bytes(doc, allow_files=True) if has_image else None,
        uri=shown,
        label=doc.label,
        tags=doc.tags,
    )


def to_change(doc: ClipDoc) -> ClipDoc:
    """What the server needs of a document to change the stored one."""
    local = doc.image is not None or (doc.uri or "").startswith("data:")
    return to_store(doc) if local else doc


def to_rank(doc: ClipDoc) -> RankDoc:
    """What the server needs of a document and its matches to compare them.

    Raises:
        BadInput: it isn't a `RankDoc`.
    """
    if not isinstance(doc, RankDoc):
        raise BadInput(f"rank takes RankDocs with matches, not a {type(doc).__name__}")
    matches = [RankMatch(**_content(match), tags=match.tags) for match in doc.matches]
    return RankDoc(**_content(doc), tags=doc.tags, matches=matches)


def _content(doc: ClipDoc) -> dict[str, Any]:
    ready = to_encode(doc)
    return {"id": ready.id, "text": ready.text, "image": ready.image}


def batches(
    docs: Iterable[ClipDoc], batch_size: int, prepare: Callable[[ClipDoc], D]
) -> Iterator[tuple[list[ClipDoc], list[D]]]:
    """Documents as they were given, and as they are sent, in batches within the server's limits.

    Raises:
        BadInput: `batch_size` is out of range. What `prepare` raises.
    """
    if not 1 <= batch_size <= MAX_DOCS:
        raise BadInput(f"batch_size is {batch_size}: expected 1 to {MAX_DOCS}")
    given: list[ClipDoc] = []
    sent: list[D] = []
    size = count = 0
    for doc in docs:
        ready = prepare(doc)
        held: list[Any] = [ready, *ready.matches] if isinstance(ready, RankDoc) else [ready]
        weight = sum(len(one.image or b"") for one in held)
        full = len(given) >= batch_size or count + len(held) > MAX_DOCS
        if given and (full or size + weight > MAX_BATCH_BYTES):
            yield given, sent
            given, sent, size, count = [], [], 0, 0
        given.append(doc)
        sent.append(ready)
        size += weight
        count += len(held)
    if given:
        yield given, sent
