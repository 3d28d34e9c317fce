"""What every store checks alike before it touches its data."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from cliptune.documents import ClipDoc
from cliptune.errors import BadInput, ModelMismatch
from cliptune.index.metadata import EmbeddingSpace
from cliptune.index.tags import TagColumns, plain_tags, to_json

T = TypeVar("T")
MAX_ID_BYTES = 512
MAX_WINDOW = 10_000
MAX_WITHOUT = 1000
MAX_DIM = 16_384
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class CheckedBatch:
    """A batch fit to be written: the last document of each id, in order of its last occurrence."""

    docs: list[ClipDoc]
    embeddings: np.ndarray
    """float32 [N, D]"""
    image_digests: list[str | None]
    tags_json: list[str]
    tag_columns: list[TagColumns]
    space: EmbeddingSpace


def check_docs(docs: Iterable[object]) -> None:
    """Raise `BadInput` for what is no list of documents."""
    if isinstance(docs, ClipDoc):
        raise BadInput("docs: expected a DocList of documents, got a single one")
    for position, doc in enumerate(docs):
        if not isinstance(doc, ClipDoc):
            raise BadInput(f"document {position}: a {type(doc).__name__}, not a ClipDoc")


def check_batch(docs: Sequence[ClipDoc], space: EmbeddingSpace | None) -> CheckedBatch:
    """Check the documents against the index's embeddings (None: it has none); `docs` isn't empty.

    Raises `BadInput` for the first document that is wrong, by position and id, and
    `ModelMismatch`.
    """
    kept: dict[str, tuple[ClipDoc, np.ndarray, str, TagColumns]] = {}
    digest, dim = (space.model_digest, space.dim) if space else (None, None)
    for position, doc in enumerate(docs):
        where = f"document {position} (id {doc.id!r:.80})"
        try:
            check_id(doc.id)
            _check_texts(doc)
            _check_digest(doc.image_digest)
            vector = _embedding(doc, dim)
            if not doc.model_digest:
                raise BadInput(
                    "model_digest is missing: which model made the embedding? "
                    "(cliptune's towers set it)"
                )
            tags = plain_tags(doc.tags)
            tags_json, columns = to_json(tags), TagColumns.of(tags)
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from error
        if digest is not None and doc.model_digest != digest:
            raise ModelMismatch(f"{where}: {_mismatch(doc.model_digest, digest)}")
        digest, dim = doc.model_digest, len(vector)
        assert doc.id is not None  # noqa: S101
        kept.pop(doc.id, None)
        kept[doc.id] = (doc, vector, tags_json, columns)
    assert digest is not None  # noqa: S101
    assert dim is not None  # noqa: S101
    columns_of = list(zip(*kept.values(), strict=True))
    return CheckedBatch(
        docs=list(columns_of[0]),
        embeddings=np.stack(columns_of[1]),
        image_digests=[_image_digest(doc) for doc in columns_of[0]],
        tags_json=list(columns_of[2]),
        tag_columns=list(columns_of[3]),
        space=EmbeddingSpace(digest, dim),
    )


def check_queries(
    embeddings: np.ndarray, model_digest: str, space: EmbeddingSpace | None
) -> np.ndarray:
    """Queries as float32 [Q, D], checked as `check_batch` does."""
    if not isinstance(model_digest, str) or not model_digest:
        raise BadInput(f"model_digest: expected the digest of the queries' model: {model_digest!r}")
    if space and model_digest != space.model_digest:
        raise ModelMismatch(f"queries: {_mismatch(model_digest, space.model_digest)}")
    try:
        queries = np.asarray(embeddings, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise BadInput(f"embeddings: not an array of numbers ({error})") from error
    if queries.ndim != 2:
        raise BadInput(f"embeddings: expected shape [Q, D], got {list(queries.shape)}")
    for position, query in enumerate(queries):
        try:
            _check_vector(query, space.dim if space else None)
        except BadInput as error:
            raise BadInput(f"query {position}: {error}") from error
    return queries


def check_window(limit: int, offset: int, score_threshold: float | None) -> None:
    """`limit`, `offset` and `score_threshold` of a search."""
    for name, value in (("limit", limit), ("offset", offset)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
            raise BadInput(f"{name}: expected an integer of 0 or more, got {value!r}")
    if limit + offset > MAX_WINDOW:
        raise BadInput(f"offset + limit is {offset + limit}; at most {MAX_WINDOW} are ranked")
    if score_threshold is not None and not (
        isinstance(score_threshold, int | float | np.number)
        and not isinstance(score_threshold, bool)
        and np.isfinite(score_threshold)
    ):
        raise BadInput(f"score_threshold: expected a number, got {score_threshold!r}")


def check_without(without: Sequence[Collection[str]], queries: int) -> list[frozenset[str]]:
    """For each of so many queries the ids to leave out; no list means none."""
    if without and len(without) != queries:
        raise BadInput(f"without: ids for {len(without)} queries, and there are {queries}")
    for position, ids in enumerate(without):
        if len(ids) > MAX_WITHOUT:
            raise BadInput(
                f"without: {len(ids)} ids for query {position}; at most {MAX_WITHOUT} are left out"
            )
    return [frozenset(check_ids(ids)) for ids in without]


def check_texts(texts: Sequence[str], alpha: float | None, queries: int) -> None:
    """The words of so many queries, and how much their embeddings count."""
    if texts and len(texts) != queries:
        raise BadInput(f"texts: those of {len(texts)} queries, and there are {queries}")
    if alpha is not None and not (
        isinstance(alpha, int | float) and not isinstance(alpha, bool) and 0 <= alpha <= 1
    ):
        raise BadInput(f"alpha: expected a number from 0 to 1, got {alpha!r}")


def check_digests(stored: Iterable[ClipDoc], model_digest: str) -> None:
    """Raise `ModelMismatch` if stored embeddings are of another model than a query's."""
    for doc in stored:
        if doc.model_digest != model_digest:
            raise ModelMismatch(f"queries: {_mismatch(model_digest, str(doc.model_digest))}")


def check_id(value: object) -> str:
    """An id as stores keep it: 1 to 512 bytes of UTF-8 without NUL."""
    if not isinstance(value, str) or not value:
        raise BadInput(f"the id is {value!r}; it must be a string that isn't empty")
    _check_text("the id", value)
    if len(value.encode()) > MAX_ID_BYTES:
        raise BadInput(f"the id has {len(value.encode())} bytes; at most {MAX_ID_BYTES} are kept")
    return value


def check_ids(ids: Iterable[str]) -> list[str]:
    """Ids to look up, each once, in order."""
    if isinstance(ids, str | bytes):
        raise BadInput("ids: expected several ids, got one string (put it into a list)")
    distinct: dict[str, None] = {}
    for position, one in enumerate(ids):
        try:
            distinct[check_id(one)] = None
        except BadInput as error:
            raise BadInput(f"ids[{position}]: {error}") from error
    return list(distinct)


def check_scan(after: str | None, batch_size: int) -> None:
    """`after` and `batch_size` of a scan."""
    if after is not None:
        try:
            check_id(after)
        except BadInput as error:
            raise BadInput(f"after: {error}") from error
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise BadInput(f"batch_size: expected an integer of 1 or more, got {batch_size!r}")


def check_integers(options: object, ranges: Mapping[str, tuple[int, int | None]]) -> None:
    """Each of these options, by its name with the least and the most (None: any) that it may be."""
    for name, (least, most) in ranges.items():
        value = getattr(options, name)
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or not least <= value <= (value if most is None else most)
        ):
            expected = f"{least} or more" if most is None else f"{least} to {most}"
            raise BadInput(f"{name}: expected an integer of {expected}, got {value!r}")


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items, at most `size` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _check_texts(doc: ClipDoc) -> None:
    for name in ("text", "uri", "label"):
        value = getattr(doc, name)
        if value is not None:
            _check_text(name, value)


def _check_text(name: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"{name} is not valid Unicode: {value!r:.80}") from error
    if name == "the id" and "\0" in value:
        raise BadInput(f"the id has a NUL character: {value!r:.80}")


def _check_digest(digest: str | None) -> None:
    if digest is not None and not _SHA256.fullmatch(digest):
        raise BadInput(f"image_digest is {digest!r:.80}; it is 64 hexadecimal digits")


def _image_digest(doc: ClipDoc) -> str | None:
    return doc.image_digest if doc.image is None else hashlib.sha256(doc.image).hexdigest()


def _embedding(doc: ClipDoc, dim: int | None) -> np.ndarray:
    if doc.embedding is None:
        raise BadInput("the embedding is missing: encode the document first")
    try:
        with np.errstate(over="ignore"):
            vector = np.asarray(doc.embedding, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise BadInput(f"the embedding is not an array of numbers ({error})") from error
    _check_vector(vector, dim)
    return vector


def _check_vector(vector: np.ndarray, dim: int | None) -> None:
    if vector.ndim != 1 or not 1 <= len(vector) <= MAX_DIM:
        raise BadInput(f"the embedding has shape {list(vector.shape)}; expected [D]")
    if dim is not None and len(vector) != dim:
        raise BadInput(f"the embedding has {len(vector)} dimensions; the index has {dim}")
    if not np.isfinite(vector).all():
        raise BadInput("the embedding has NaN or infinite values")
    # Cosine needs the length in float32: its square must neither vanish nor overflow.
    squared = float(np.square(vector, dtype=np.float64).sum())
    limits = np.finfo(np.float32)
    if squared < float(limits.tiny):
        raise BadInput("the embedding is zero (or too near zero): it has no direction")
    if squared > float(limits.max):
        raise BadInput("the embedding's length is beyond float32")


def _mismatch(theirs: str, ours: str) -> str:
    return (
        f"the embedding comes from model {theirs[:12]}, the index holds those of model "
        f"{ours[:12]}. Encode with the index's model, or clear() the index and add every "
        "document again, encoded with the new one"
    )
