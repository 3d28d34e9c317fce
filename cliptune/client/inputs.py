"""What a client may be given, as documents: texts, paths, URIs, bytes, arrays; and in batches."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from os import PathLike, fsdecode
from typing import Any

import numpy as np
from PIL import Image

from cliptune.data.pictures.images import SUFFIXES, image_bytes, png_of_pixels
from cliptune.documents import ClipDoc, RankDoc, RankMatch
from cliptune.errors import BadImage, BadInput, CliptuneError
from cliptune.protocol.limits import has_text, name
from cliptune.settings import current

MAX_BATCH_BYTES = 16 * 1024 * 1024
"""Bytes of pictures in one request: batches are cut shorter where pictures are large."""


def to_doc(item: Any, position: int) -> ClipDoc:
    """The document of an item.

    A document is itself. Bytes are an encoded picture, an array (uint8 [H, W, 3]) its pixels, a
    PIL image the picture as it is; a `pathlib.Path` is a picture's path. A text is a picture's
    URI if it begins with `data:image/`, or a picture's path if it ends as those do (`.jpg`,
    `.png`, …); else it is a text. `ClipDoc(text=…)` and `ClipDoc(uri=…)` say it outright.

    Raises:
        BadInput: it is of another type.
        BadImage: an array or an image that isn't a picture.
    """
    if isinstance(item, ClipDoc):
        return item
    if isinstance(item, str):
        if item.startswith("data:image/") or item.lower().endswith(SUFFIXES):
            return ClipDoc(uri=str(item))
        return ClipDoc(text=str(item))
    if isinstance(item, bytes | bytearray | memoryview):
        return ClipDoc(image=bytes(item))
    if isinstance(item, PathLike):
        return ClipDoc(uri=fsdecode(item))
    try:
        if isinstance(item, np.ndarray):
            return ClipDoc(image=png_of_pixels(item))
        if isinstance(item, Image.Image):
            return ClipDoc(image=lossless(item))
    except BadImage as error:
        raise BadImage(f"item {position}: {error}") from None
    raise BadInput(
        f"item {position} is a {type(item).__name__}: expected a text, a path, bytes, a PIL image, "
        "an array of pixels or a ClipDoc"
    )


def lossless(image: Image.Image) -> bytes:
    """A PIL image as a PNG, or a TIFF where PNG doesn't know its mode.

    Orientation (EXIF) and transparency go along: what reads it decides what they mean.

    Raises:
        BadImage: it can't be read or written.
    """
    kind = "PNG" if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else "TIFF"
    options: dict[str, Any] = {"compress_level": 1} if kind == "PNG" else {}
    buffer = io.BytesIO()
    try:
        image.save(buffer, kind, exif=image.getexif(), **options)
    except Exception as error:
        raise BadImage(f"the image of mode {image.mode} can't be used: {error}") from error
    return buffer.getvalue()


def plain(value: Any) -> Any:
    """Parameters and tags without NumPy's types: numbers, texts, lists and dicts."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {plain(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    return value


def id_list(ids: Any) -> list[str]:
    """One id, or several: texts or whole numbers."""
    if isinstance(ids, np.ndarray):
        ids = ids.tolist()
    one = isinstance(ids, str) or not isinstance(ids, Iterable)
    return [str(plain(each)) for each in ([ids] if one else ids)]


def is_single(data: Any) -> bool:
    """Whether `data` is one item, not several."""
    return isinstance(
        data, str | bytes | bytearray | memoryview | ClipDoc | PathLike | Image.Image
    ) or (isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim <= 3)


def checked(data: Any, what: str) -> Iterator[Any]:
    """An iterator over items; raises `BadInput` if `data` is a single one."""
    if is_single(data) or not isinstance(data, Iterable):
        raise BadInput(f"{what} takes a list or another iterable: put the one item into [ ]")
    return iter(data)


@dataclass
class Item:
    """One of the things that a client was given."""

    position: int
    """Its place among them, from 0."""
    doc: ClipDoc
    """Its document; without content, where it is none."""
    sent: Any = None
    """What is sent of it."""
    error: CliptuneError | None = None
    """Why nothing can be."""


def to_items(
    data: Iterable[Any], prepare: Callable[[ClipDoc], ClipDoc], *, keep_errors: bool
) -> Iterator[Item]:
    """Each thing that was given, as it is to be sent.

    Args:
        data: items, see `to_doc`.
        prepare: makes of a document what is sent of it.
        keep_errors: give an item that can't be sent its error.

    Raises:
        BadInput, BadImage: an item can't be sent, without `keep_errors`; `position` says which.
    """
    for position, given in enumerate(data):
        item = Item(position, given if isinstance(given, ClipDoc) else ClipDoc())
        try:
            item.doc = to_doc(given, position)
            item.sent = prepared(item, prepare)
        except CliptuneError as error:
            error.position = position
            item.error = error
            if not keep_errors:
                raise
        yield item


def prepared(item: Item, prepare: Callable[[ClipDoc], ClipDoc]) -> ClipDoc:
    """What is sent of an item; an error names it as the server would."""
    try:
        return prepare(item.doc)
    except CliptuneError as error:
        error.args = (f"{name(item.position, item.doc)}: {error}",)
        raise


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
        tags=plain(doc.tags),
    )


def to_change(doc: ClipDoc) -> ClipDoc:
    """What the server needs of a document to change the stored one."""
    local = doc.image is not None or (doc.uri or "").startswith("data:")
    return to_store(doc) if local else doc.model_copy(update={"tags": plain(doc.tags)})


def to_rank(doc: ClipDoc) -> RankDoc:
    """What the server needs of a document and its matches to compare them.

    Raises:
        BadInput: it isn't a `RankDoc`.
    """
    if not isinstance(doc, RankDoc):
        raise BadInput(f"rank takes RankDocs with matches, not a {type(doc).__name__}")
    matches = [RankMatch(**_content(match), tags=plain(match.tags)) for match in doc.matches]
    return RankDoc(**_content(doc), tags=plain(doc.tags), matches=matches)


def _content(doc: ClipDoc) -> dict[str, Any]:
    ready = to_encode(doc)
    return {"id": ready.id, "text": ready.text, "image": ready.image}


def batches(items: Iterable[Item], batch_size: int) -> Iterator[list[Item]]:
    """Items in batches within the server's limits; those that aren't sent count for nothing.

    Raises:
        BadInput: `batch_size` is out of range.
    """
    if not 1 <= batch_size <= current().max_docs:
        raise BadInput(f"batch_size is {batch_size}: expected 1 to {current().max_docs}")
    batch: list[Item] = []
    size = count = 0
    for item in items:
        ready = item.sent
        held: list[Any] = [ready, *ready.matches] if isinstance(ready, RankDoc) else [ready]
        held = [one for one in held if one is not None]
        weight = sum(len(one.image or b"") for one in held)
        full = len(batch) >= batch_size or count + len(held) > current().max_docs
        if batch and (full or size + weight > MAX_BATCH_BYTES):
            yield batch
            batch, size, count = [], 0, 0
        batch.append(item)
        size += weight
        count += len(held)
    if batch:
        yield batch
