"""DocArray 0.21's documents on the wire: their content, their arrays, and parts of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from numpy.typing import ArrayLike, NDArray

from cliptune.data.pictures.images import png_of_pixels
from cliptune.documents import ClipDoc, Match
from cliptune.errors import BadImage, BadInput
from cliptune.gateway.clip_service.clip_service_pb2 import Array, Document
from cliptune.protocol.limits import Limits, Tally

MAX_ARRAY_DIMENSIONS = 8
MAX_PATHS = 100
"""Characters of access paths."""


def to_clip_doc(doc: Document, position: int, **fields: Any) -> ClipDoc:
    """What `doc` holds: its text, or its picture (bytes, an array of pixels, or its URI).

    Raises:
        BadImage: its tensor isn't a picture; the message has the position and the id.
    """
    if doc.id:
        fields.setdefault("id", doc.id)
    content = doc.WhichOneof("content")
    if content == "text" and doc.text:
        return ClipDoc(text=doc.text, **fields)
    if content == "blob" and doc.blob:
        return ClipDoc(image=doc.blob, **fields)
    if content == "tensor":
        try:
            return ClipDoc(image=png_of_pixels(read_array(doc.tensor)), **fields)
        except BadInput as error:
            raise BadImage(f"{name_of(position, doc)}: tensor: {error}") from None
    return ClipDoc(uri=doc.uri or None, **fields)


def name_of(position: int, doc: Document) -> str:
    """How errors name a document."""
    return f"document {position} (id {doc.id[:100]!r})"


def has_content(doc: Document) -> bool:
    """Whether there is something to embed."""
    content = doc.WhichOneof("content")
    return bool(doc.uri) or content == "tensor" or bool(content and getattr(doc, content))


def has_text(doc: Document) -> bool:
    """Whether the text tower embeds it."""
    return doc.WhichOneof("content") == "text" and bool(doc.text.strip())


def drop_picture(doc: Document) -> None:
    """Take the picture out: who sent it has it."""
    if doc.WhichOneof("content") != "text":
        doc.ClearField("blob")
        doc.ClearField("tensor")


def select(roots: Iterable[Document], paths: str, limits: Limits) -> list[Document]:
    """The documents at DocArray's access paths: `@r` roots, `@c` chunks, `@m` matches, `@r,cm`.

    Raises:
        BadInput: another path.
        TooLarge: they lead to too many documents.
    """
    if len(paths) > MAX_PATHS:
        raise BadInput(f"access_paths of {len(paths)} characters, the limit is {MAX_PATHS}")
    chosen: list[Document] = []
    for path in paths.removeprefix("@").split(","):
        level = list(roots)
        for step in path.strip() or "?":
            if step not in "rcm":
                raise BadInput(f"access_paths is {paths[:100]!r}: use r, c and m, such as '@r,m'")
            if step != "r":
                level = [inner for doc in level for inner in _below(doc, step)]
            limits.check_count(len(chosen) + len(level), f"documents at {paths!r}")
        chosen.extend(level)
    return chosen


def check_sizes(roots: Iterable[Document], tally: Tally) -> None:
    """Refuse documents, with those below them, whose texts or tags exceed a limit.

    Raises:
        TooLarge: see above.
    """
    waiting = [(f"document {position}", doc) for position, doc in enumerate(roots)]
    while waiting:
        place, doc = waiting.pop()
        tally.add(doc.text, _count_tags(doc.tags), place)
        waiting += [(f"{place}: match {i}", inner) for i, inner in enumerate(doc.matches)]
        waiting += [(f"{place}: chunk {i}", inner) for i, inner in enumerate(doc.chunks)]


def _count_tags(struct: Struct) -> int:
    count = 0
    level = list(struct.fields.values())
    while level:
        count += len(level)
        inner = []
        for value in level:
            kind = value.WhichOneof("kind")
            if kind == "struct_value":
                inner += value.struct_value.fields.values()
            elif kind == "list_value":
                inner += value.list_value.values
        level = inner
    return count


def _below(doc: Document, step: str) -> Iterator[Document]:
    yield from doc.chunks if step == "c" else doc.matches


def plain(struct: Struct, place: str) -> dict[str, object]:
    """A protobuf Struct as a dict.

    Raises:
        BadInput: it holds a number that JSON doesn't have (NaN, infinity); the message has `place`.
    """
    try:
        values: dict[str, object] = MessageToDict(struct)
    except ValueError:
        raise BadInput(f"{place}: NaN and infinity are no numbers that JSON has") from None
    return values


def tags_of(doc: Document, position: int) -> dict[str, object]:
    """The tags; whole numbers are integers again, which protobuf's Struct doesn't have.

    Raises:
        BadInput: a number is not finite.
    """
    tags = plain(doc.tags, f"{name_of(position, doc)}: tags")
    return {name: _whole(value) for name, value in tags.items()}


def _whole(value: object) -> object:
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(held) for name, held in value.items()}
    if isinstance(value, list):
        return [_whole(held) for held in value]
    return value


def read_array(array: Array) -> NDArray[np.generic]:
    """The array of a message.

    Raises:
        BadInput: it is sparse, of no plain type, or its bytes don't fill its shape.
    """
    dense = array.dense
    shape = tuple(dense.shape)
    if not dense.buffer or not dense.dtype or len(shape) > MAX_ARRAY_DIMENSIONS:
        raise BadInput("it is empty, or no dense array")
    try:
        dtype = np.dtype(dense.dtype)
        if dtype.kind not in "biuf":
            raise BadInput(f"its type is {dense.dtype[:30]!r}, expected numbers")
        return np.frombuffer(dense.buffer, dtype).reshape(shape)
    except (TypeError, ValueError, SyntaxError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(
            f"{len(dense.buffer)} bytes of {dense.dtype[:30]!r} don't make shape {list(shape)}"
        ) from None


def write_array(array: Array, values: ArrayLike) -> None:
    """Put numbers into a message."""
    given = np.ascontiguousarray(values)
    array.Clear()
    array.cls_name = "numpy"
    array.dense.buffer = given.tobytes()
    array.dense.shape.extend(given.shape)
    array.dense.dtype = given.dtype.str


def set_embedding(doc: Document, embedding: ArrayLike) -> None:
    """Set the embedding, float32 [D]."""
    write_array(doc.embedding, np.asarray(embedding, np.float32))


def add_match(doc: Document, match: Match) -> None:
    """Append a match, with the distance as clip-as-service's index gave it, and the cosine."""
    added = doc.matches.add(
        id=str(match.id), uri=match.image_url or match.uri or "", adjacency=doc.adjacency + 1
    )
    if match.text is not None:
        added.text = match.text
    if match.tags:
        added.tags.update(match.tags)
    added.scores["cosine"].value = 1 - match.score
    added.scores["cosine"].op_name = "distance"
    added.scores["clip_score_cosine"].value = match.score
    added.scores["clip_score_cosine"].op_name = "cosine"
