"""Documents as rows of a Lance table, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cliptune.documents import ClipDoc, Match
from cliptune.index.checks import CheckedBatch
from cliptune.index.metadata import Storage, as_stored, check_storage
from cliptune.index.tags import TagColumns, from_json, term_prefix
from cliptune.index.words import words_of

if TYPE_CHECKING:
    from lancedb.table import Table

SHOWN_COLUMNS = ["id", "text", "uri", "tags", "image_digest"]
"""What a match shows of its document."""
DOC_COLUMNS = ["id", "text", "uri", "label", "tags", "image_digest"]
_WORDS_OF_ROWS = (
    "concat_ws(' ', id, text, array_to_string(string_min, ' '), "
    "array_to_string(array_except(string_max, string_min), ' '))"
)
"""The words of rows that an earlier cliptune wrote: of a tag with a list of texts the first and the
last in the order of the alphabet, until the document is written again."""
_METADATA = b"cliptune"
_TAG_COLUMNS: dict[str, tuple[pa.DataType, Callable[[TagColumns], Iterable[object]]]] = {
    "terms": (pa.string(), lambda tags: tags.terms),
    "number_paths": (pa.string(), lambda tags: tags.numbers),
    "number_min": (pa.float64(), lambda tags: (least for least, _ in tags.numbers.values())),
    "number_max": (pa.float64(), lambda tags: (most for _, most in tags.numbers.values())),
    "string_paths": (pa.string(), lambda tags: tags.strings),
    "string_min": (pa.string(), lambda tags: (first for first, _ in tags.strings.values())),
    "string_max": (pa.string(), lambda tags: (last for _, last in tags.strings.values())),
}
"""Lists, of which those of one kind run in step."""


@dataclass(frozen=True)
class TableNote:
    """What a table itself says of the embeddings in it, should its folder's stamp get lost."""

    model_digest: str
    storage: Storage

    @classmethod
    def of(cls, table: Table) -> TableNote | None:
        """The note in a table; None if an earlier cliptune made it."""
        kept = (table.schema.metadata or {}).get(_METADATA)
        try:
            note = json.loads(kept or b"null")
            return cls(str(note["model_digest"]), check_storage(note["storage"]))
        except (ValueError, KeyError, TypeError):
            return None

    def on(self, rows: pa.Table) -> pa.Table:
        """The first rows of a table, with the note."""
        return rows.replace_schema_metadata({_METADATA: json.dumps(asdict(self))})


def schema(dim: int, storage: Storage) -> pa.Schema:
    """The table's schema for embeddings [dim]; `tags` has the filter columns' meaning."""
    number = pa.float16() if storage == "float16" else pa.float32()
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("text", pa.string()),
            pa.field("uri", pa.string()),
            pa.field("label", pa.string()),
            pa.field("tags", pa.string(), nullable=False),
            *(pa.field(name, pa.list_(kind)) for name, (kind, _) in _TAG_COLUMNS.items()),
            pa.field("words", pa.string()),
            pa.field("image", pa.large_binary()),
            pa.field("image_digest", pa.string()),
            pa.field("embedding", pa.list_(number, dim), nullable=False),
        ]
    )


def upgrade(table: Table) -> bool:
    """Add what a table lacks: the full-text index to a new one, columns if an earlier cliptune
    made it.

    Returns: whether anything was written.
    """
    before = table.version
    if "image_digest" not in table.schema.names:
        table.add_columns(pa.field("image_digest", pa.string()))
    if "words" not in table.schema.names:
        table.add_columns({"words": _WORDS_OF_ROWS})
    if not _has_word_index(table):
        from lancedb.index import FTS

        try:
            table.create_index("words", config=FTS())
        except (RuntimeError, ValueError, OSError):
            if not _has_word_index(table):  # otherwise another process was first
                raise
    return table.version != before


def _has_word_index(table: Table) -> bool:
    return any(index.columns == ["words"] for index in table.list_indices())


def to_table(batch: CheckedBatch, *, store_images: bool, storage: Storage) -> pa.Table:
    """The rows of a checked batch."""
    docs = batch.docs
    columns: dict[str, pa.Array] = {
        name: pa.array([getattr(doc, name) for doc in docs], pa.string())
        for name in ("id", "text", "uri", "label")
    }
    columns["tags"] = pa.array(batch.tags_json, pa.string())
    for name, (kind, values) in _TAG_COLUMNS.items():
        lists = [list(values(tags)) for tags in batch.tag_columns]
        columns[name] = pa.array(lists, pa.list_(kind))
    columns["words"] = pa.array(
        [words_of(str(doc.id), doc.text, doc.tags) for doc in docs], pa.string()
    )
    images = [doc.image if store_images else None for doc in docs]
    columns["image"] = pa.array(images, pa.large_binary())
    columns["image_digest"] = pa.array(batch.image_digests, pa.string())
    flat = pa.array(np.ascontiguousarray(as_stored(batch.embeddings, storage)).ravel())
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, batch.space.dim)
    fields = schema(batch.space.dim, storage)
    return pa.Table.from_arrays([columns[field.name] for field in fields], schema=fields)


class MatchRow(TypedDict):
    """A row that a search gives."""

    id: str
    text: str | None
    uri: str | None
    tags: str
    image_digest: str | None


def to_match(row: MatchRow, score: float) -> Match:
    """A found row as a match."""
    return Match(
        id=row["id"],
        text=row["text"],
        uri=row["uri"],
        image_digest=row["image_digest"],
        tags=from_json(row["tags"]),
        score=score,
    )


def embeddings_in(column: pa.FixedSizeListArray) -> NDArray[np.floating]:
    """[N, D] The embeddings in a table's column, of its storage's dtype."""
    numbers: NDArray[np.floating] = column.flatten().to_numpy(zero_copy_only=False)
    return numbers.reshape(len(column), column.type.list_size)


def row_ids(table: Table, condition: str | None) -> NDArray[np.uint64]:
    """[N] The addresses of the rows that an SQL condition leaves, ascending."""
    query = table.search().select(["_rowid"])
    if condition is not None:
        query = query.where(condition)
    return np.sort(np.asarray(query.to_arrow()["_rowid"].to_numpy(), np.uint64))


def offsets_by_id(table: Table, after: str | None) -> list[int]:
    """The offsets of the rows whose ids come after `after`, in ascending order of the ids."""
    ids = table.search().select(["id"]).to_arrow()["id"]
    order = pc.sort_indices(ids)
    if after is not None:
        order = order.filter(pc.greater(ids.take(order), after))
    return list(order.to_pylist())


_NAME = r'^\["(?:[^"\\]|\\.)*"\]$'
_TERMS_AT_ONCE = 2_000_000
_TERMS_OF = 100_000
"""Documents whose terms are read: tens of milliseconds."""


def tag_names(table: Table) -> frozenset[str]:
    """The paths of the tags that documents have."""
    return frozenset(json.loads(one)[0] for one in _terms(table, _is_name))


def tag_values(table: Table, path: str) -> frozenset[str]:
    """The texts that stand at a tag's path; long ones, of which a hash is kept, are left out."""
    start = term_prefix(path) + '"'
    return frozenset(
        json.loads(one)[1] for one in _terms(table, lambda terms: pc.starts_with(terms, start))
    )


def _is_name(terms: pa.Array) -> pa.Array:
    return pc.match_substring_regex(terms, _NAME)


def _terms(table: Table, wanted: Callable[[pa.Array], pa.Array]) -> set[str]:
    """The distinct `tags.term`s in the table for which `wanted` is true."""
    distinct: set[str] = set()
    rows = table.search().select(["terms"]).limit(_TERMS_OF)
    for batch in rows.to_batches():
        terms = pc.unique(batch["terms"].flatten())
        distinct.update(terms.filter(wanted(terms)).to_pylist())
    return distinct


def count_terms(table: Table) -> dict[str, int]:
    """How often each `tags.term` occurs in the table."""
    counts: pa.Table | None = None
    for batch in table.search().select(["terms"]).to_batches():
        counted = pc.value_counts(batch["terms"].flatten())
        more = pa.table({"term": counted.field("values"), "count": counted.field("counts")})
        counts = more if counts is None else pa.concat_tables([counts, more])
        if len(counts) > _TERMS_AT_ONCE:
            counts = _summed(counts)
    if counts is None:
        return {}
    columns = _summed(counts).to_pydict()
    return dict(zip(columns["term"], columns["count"], strict=True))


def _summed(counts: pa.Table) -> pa.Table:
    summed = counts.group_by("term").aggregate([("count", "sum")])
    return summed.select(["term", "count_sum"]).rename_columns(["term", "count"])


def to_docs(rows: pa.Table, model_digest: str) -> list[ClipDoc]:
    """Rows as documents, with the embedding and picture if their columns are there."""
    embeddings = None
    if "embedding" in rows.column_names:
        column = rows["embedding"].combine_chunks()
        kept = column.flatten().to_numpy().reshape(len(rows), column.type.list_size)
        embeddings = kept.astype(np.float32)
        rows = rows.drop_columns(["embedding"])
    docs = []
    for position, row in enumerate(rows.to_pylist()):
        row["tags"] = from_json(row["tags"])
        doc = ClipDoc(**row)
        if embeddings is not None:
            doc.embedding = embeddings[position].copy()
            doc.model_digest = model_digest
        docs.append(doc)
    return docs
