"""What a client may be given, as documents: texts, paths, URIs, bytes, arrays; and in batches."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from os import PathLike, fsdecode
from typing import TypeVar

import numpy as np
from docarray import DocList
from numpy.typing import NDArray
from PIL import ExifTags, Image

from cliptune.data.pictures.images import SUFFIXES, image_bytes, png_of_pixels
from cliptune.data.pictures.slices import place_of
from cliptune.documents import ClipDoc, QueryDoc, QueryPart, RankDoc, RankMatch
from cliptune.errors import BadImage, BadInput, CliptuneError
from cliptune.protocol.limits import documents_in, has_image, has_text, name_of_document
from cliptune.protocol.queries import check_parts
from cliptune.protocol.redaction import shown_link

D = TypeVar("D", bound=ClipDoc)
UNLIKE = -0.5
"""What the ids of `unlike` count together, where those of `like` count 1: as in Rocchio's relevance
feedback, what was wrong tells less than what was right."""
MAX_BATCH_BYTES = 16 * 1024 * 1024
"""Bytes of pictures in one request: batches are cut shorter where pictures are large."""
Content = str | bytes | bytearray | memoryview | PathLike[str] | Image.Image | NDArray[np.uint8]
"""A text or a picture, see `to_doc`."""
Filter = str | Mapping[str, object]
"""Which documents, by their tags: `price < 30`, or `{"price": {"$lt": 30}}`."""


def to_doc(item: object, position: int) -> ClipDoc:
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
    buffer = io.BytesIO()
    exif = Image.Exif()
    try:
        image.load()  # which turns a TIFF upright
        # This alone: among a TIFF's other tags are sizes, as they were before it was turned.
        if (orientation := image.getexif().get(ExifTags.Base.Orientation)) is not None:
            exif[ExifTags.Base.Orientation] = orientation
        if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
            image.save(buffer, "PNG", exif=exif, compress_level=1)
        else:
            image.save(buffer, "TIFF", exif=exif)
    except Exception as error:
        raise BadImage(f"the image of mode {image.mode} can't be used: {error}") from error
    return buffer.getvalue()


def plain(value: object) -> object:
    """Parameters and tags without NumPy's types: numbers, texts, lists and dicts."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return plain_mapping(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    return value


def plain_mapping(values: Mapping[str, object]) -> dict[str, object]:
    """As `plain`."""
    return {
        key.item() if isinstance(key, np.generic) else key: plain(inner)
        for key, inner in values.items()
    }


def id_list(ids: object) -> list[str]:
    """One id, or several: texts or whole numbers."""
    if isinstance(ids, np.ndarray):
        ids = ids.tolist()
    several = ids if isinstance(ids, Iterable) and not isinstance(ids, str) else [ids]
    return [str(plain(each)) for each in several]


def is_single(data: object) -> bool:
    """Whether `data` is one item, not several."""
    return isinstance(
        data, str | bytes | bytearray | memoryview | ClipDoc | PathLike | Image.Image
    ) or (isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim <= 3)


def check_several(data: object, what: str) -> None:
    """Raise `BadInput` if `data` is a single item, or nothing that can be iterated over."""
    if is_single(data) or not isinstance(data, Iterable | AsyncIterable):
        raise BadInput(f"{what} takes a list or another iterable: put the one item into [ ]")


@dataclass
class Item:
    """One of the things that a client was given."""

    position: int
    """Its place among them, from 0."""
    doc: ClipDoc
    """Its document; without content, where it is none."""
    is_document: bool = False
    """Whether it was given as a document."""
    sent: ClipDoc | None = None
    """What is sent of it."""
    error: CliptuneError | None = None
    """Why nothing can be."""


def to_items(
    data: Iterable[object],
    prepare: Callable[[ClipDoc], ClipDoc],
    *,
    keep_errors: bool,
    first: int = 0,
) -> Iterator[Item]:
    """Each thing that was given, as it is to be sent.

    Args:
        data: items, see `to_doc`.
        prepare: makes of a document what is sent of it.
        keep_errors: give an item that can't be sent its error.
        first: the place of the first one.

    Raises:
        BadInput, BadImage: an item can't be sent, without `keep_errors`; `position` says which.
    """
    for position, given in enumerate(data, first):
        item = Item(position, ClipDoc())
        if isinstance(given, ClipDoc):
            item.doc, item.is_document = given, True
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
        error.args = (f"{name_of_document(item.position, item.doc)}: {error}",)
        raise


def to_encode(doc: ClipDoc) -> ClipDoc:
    """What the server needs of a document to embed it."""
    if has_text(doc):
        return ClipDoc(id=doc.id, text=doc.text)
    if doc.image is None and shown_link(doc.uri):  # the server's to read, where it may
        return ClipDoc(id=doc.id, uri=doc.uri)
    pictured = has_image(doc)
    return ClipDoc(id=doc.id, image=image_bytes(doc, allow_files=True) if pictured else None)


def to_query(doc: ClipDoc) -> QueryDoc:
    """What the server needs of a query to answer it.

    Raises:
        BadInput: its parts aren't fit to be sought.
    """
    if not isinstance(doc, QueryDoc) or not doc.parts:
        ready = to_encode(doc)
        return QueryDoc(id=ready.id, text=ready.text, image=ready.image, uri=ready.uri)
    check_parts(doc)
    parts = DocList[QueryPart]()
    for part in doc.parts:
        fields = {"like": part.like, "weight": part.weight}
        parts.append(
            _ready(QueryPart, part, **fields)
            if part.like is None
            else QueryPart(id=part.id, **fields)
        )
    return QueryDoc(id=doc.id, parts=parts)


def composed(query: object, like: object = None, unlike: object = None) -> QueryDoc:
    """A query of several parts.

    Args:
        query: a mapping of texts and pictures (see `to_doc`) to their weights, or a single one,
            whose weight is 1; None: only the ids.
        like: ids of stored documents, together of the weight 1.
        unlike: likewise, of the weight -0.5.

    Raises:
        BadInput: there is nothing to search for.
    """
    weighted = query if isinstance(query, Mapping) else {} if query is None else None
    if weighted is None:
        doc = ClipDoc(text=str(query)) if isinstance(query, str) else to_doc(query, 0)
        parts = [_part(doc, 1.0)]
    else:
        parts = [_part(to_doc(one, n), weight) for n, (one, weight) in enumerate(weighted.items())]
    for ids, together in ((like, 1.0), (unlike, UNLIKE)):
        listed = [] if ids is None else id_list(ids)
        parts += [QueryPart(like=one, weight=together / len(listed)) for one in listed]
    if not parts:
        raise BadInput("query is empty: a text, a picture, weights of them, or ids to be like")
    return QueryDoc(parts=DocList[QueryPart](parts))


def _part(doc: ClipDoc, weight: object) -> QueryPart:
    if isinstance(doc, QueryDoc) and doc.parts:
        raise BadInput("a query of parts can't be a part itself: add to its parts")
    if isinstance(weight, bool) or not isinstance(weight, int | float | np.number):
        raise BadInput(f"weight: expected a number, got {weight!r:.80}")
    return QueryPart(text=doc.text, image=doc.image, uri=doc.uri, weight=float(weight))


def to_store(doc: ClipDoc) -> ClipDoc:
    """What the server needs of a document to store it; local pictures are read here."""
    pictured = has_image(doc)
    return ClipDoc(
        id=doc.id,
        text=doc.text,
        image=image_bytes(doc, allow_files=True) if pictured else None,
        uri=place_of(doc.uri) or None,
        label=doc.label,
        tags=plain_mapping(doc.tags),
    )


def to_change(doc: ClipDoc) -> ClipDoc:
    """What the server needs of a document to change the stored one."""
    local = doc.image is not None or (doc.uri or "").startswith("data:")
    return to_store(doc) if local else doc.model_copy(update={"tags": plain_mapping(doc.tags)})


def to_rank(doc: ClipDoc) -> RankDoc:
    """What the server needs of a document and its matches to compare them.

    Raises:
        BadInput: it isn't a `RankDoc`.
    """
    if not isinstance(doc, RankDoc):
        raise BadInput(f"rank takes RankDocs with matches, not a {type(doc).__name__}")
    return _ready(
        RankDoc, doc, matches=DocList[RankMatch](_ready(RankMatch, one) for one in doc.matches)
    )


def _ready(kind: type[D], doc: ClipDoc, **more: object) -> D:
    ready = to_encode(doc)
    return kind(
        id=ready.id,
        text=ready.text,
        image=ready.image,
        uri=ready.uri,
        tags=plain_mapping(doc.tags),
        **more,
    )


def batches(items: Iterable[Item], batch_size: int, max_docs: int) -> Iterator[list[Item]]:
    """Items in batches within the server's limits; those that aren't sent count for nothing.

    Args:
        items: what is to be sent.
        batch_size: items in a batch, at most.
        max_docs: documents in one, with their matches or parts.

    Raises:
        BadInput: `batch_size` is out of range.
    """
    if not 1 <= batch_size <= max_docs:
        raise BadInput(f"batch_size is {batch_size}: expected 1 to {max_docs}")
    batch: list[Item] = []
    size = count = 0
    for item in items:
        held: list[ClipDoc] = [] if item.sent is None else [item.sent]
        if item.sent is not None:
            held.extend(documents_in(item.sent))
        weight = sum(len(one.image or b"") for one in held)
        full = len(batch) >= batch_size or count + len(held) > max_docs
        if batch and (full or size + weight > MAX_BATCH_BYTES):
            yield batch
            batch, size, count = [], 0, 0
        batch.append(item)
        size += weight
        count += len(held)
    if batch:
        yield batch


def batches_of(
    data: Iterable[object],
    prepare: Callable[[ClipDoc], ClipDoc],
    batch_size: int,
    max_docs: int,
    *,
    keep_errors: bool = False,
    first: int = 0,
) -> Iterator[list[Item]]:
    """What was given, ready to be sent; see `to_items` and `batches`."""
    items = to_items(data, prepare, keep_errors=keep_errors, first=first)
    return batches(items, batch_size, max_docs)


async def abatches_of(
    data: Iterable[object] | AsyncIterable[object],
    prepare: Callable[[ClipDoc], ClipDoc],
    batch_size: int,
    max_docs: int,
    *,
    keep_errors: bool = False,
) -> AsyncGenerator[list[Item], None]:
    """As `batches_of`, on an event loop; what isn't asynchronous is iterated over beside it.

    Pictures are read, and written as PNG, beside it too.
    """
    ready = partial(
        batches_of,
        prepare=prepare,
        batch_size=batch_size,
        max_docs=max_docs,
        keep_errors=keep_errors,
    )
    if not isinstance(data, AsyncIterable):
        of_data = ready(data)
        while (batch := await asyncio.to_thread(next, of_data, None)) is not None:
            yield batch
        return

    def all_of(given: list[object], first: int) -> list[list[Item]]:
        return list(ready(given, first=first))

    all_of([], 0)  # a wrong batch size is told before anything is read
    given: list[object] = []
    count = 0
    async for item in data:
        given.append(item)
        count += 1
        if len(given) >= batch_size:
            for batch in await asyncio.to_thread(all_of, given, count - len(given)):
                yield batch
            given = []
    for batch in await asyncio.to_thread(all_of, given, count - len(given)):
        yield batch
