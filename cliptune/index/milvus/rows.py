"""Documents as entities of a Milvus collection, and back; and whose embeddings it holds.

What can be filtered by is kept as keys that can't be anything but data: strings reach Milvus'
expressions in two forms only, both of the digits 0-9a-f, as the hexadecimal form of their UTF-8
bytes (which sorts as the strings do), and as a hash. `terms` (an array of hashes) answers equality
and existence. `low` and `high` (JSON) have for each numeric and textual tag, by its path's hash,
the least and the greatest value, as `tags.TagColumns` explains.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from cliptune.documents import ClipDoc, Match
from cliptune.errors import BadInput
from cliptune.index.checks import MAX_ID_BYTES, CheckedBatch
from cliptune.index.metadata import CREATED_BY, EmbeddingSpace, check_format
from cliptune.index.tags import TagColumns

if TYPE_CHECKING:
    from pymilvus import CollectionSchema

FORMAT = 1
MAX_DOCUMENT_BYTES = 2 << 20
"""Of a document's JSON: its row must fit a message of the server's log."""
MAX_BOUNDS_BYTES = 65_000
"""Milvus' limit on a JSON value, less some room."""
MAX_TERMS = 4096
_PIECE = 16_000
"""Characters, of at most 4 bytes, in a piece of a document: a string has at most 65,535 bytes."""
_MARK = "cliptune index"
ORDER_BYTES = 512
"""So many first bytes of a string decide its order; filters may not compare with longer ones."""
ORDERED_FIELDS = ("text", "uri", "label")


class Entity(TypedDict, total=False):
    """A document in a collection; of those that are read, the fields that were asked for."""

    id: str
    document: list[str]
    image_digest: str
    terms: list[str]
    low: dict[str, float | str]
    high: dict[str, float | str]
    text_order: str
    uri_order: str
    label_order: str
    embedding: np.ndarray


@dataclass(frozen=True)
class CollectionStamp(EmbeddingSpace):
    """What a collection's description says, which no later write changes."""

    def to_description(self) -> str:
        """As the collection's description."""
        return json.dumps({_MARK: FORMAT, **asdict(self), "created_by": CREATED_BY})

    @classmethod
    def from_description(cls, description: str, where: str) -> CollectionStamp:
        """The stamp; another one's collection, or one of a newer format, raises `BadInput`."""
        try:
            content = json.loads(description)
            version, digest, dim = int(content[_MARK]), content["model_digest"], content["dim"]
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"{where}: a collection that is no cliptune index; give another name"
            ) from error
        check_format(where, version, FORMAT, content.get("created_by"))
        if not isinstance(digest, str) or not isinstance(dim, int):
            raise BadInput(f"{where}: the collection's description has unusable values")
        return cls(digest, dim)


def schema(stamp: CollectionStamp) -> CollectionSchema:
    """The collection's schema."""
    from pymilvus import DataType, MilvusClient

    made = MilvusClient.create_schema(
        auto_id=False, enable_dynamic_field=False, description=stamp.to_description()
    )
    made.add_field("id", DataType.VARCHAR, is_primary=True, max_length=2 * MAX_ID_BYTES)
    made.add_field(
        "document",
        DataType.ARRAY,
        element_type=DataType.VARCHAR,
        max_capacity=MAX_DOCUMENT_BYTES // _PIECE + 2,
        max_length=65_535,
    )
    made.add_field("image_digest", DataType.VARCHAR, max_length=64)
    made.add_field(
        "terms",
        DataType.ARRAY,
        element_type=DataType.VARCHAR,
        max_capacity=MAX_TERMS,
        max_length=32,
    )
    made.add_field("low", DataType.JSON)
    made.add_field("high", DataType.JSON)
    for name in ORDERED_FIELDS:
        made.add_field(f"{name}_order", DataType.VARCHAR, max_length=2 * ORDER_BYTES + 2)
    made.add_field("embedding", DataType.FLOAT_VECTOR, dim=stamp.dim)
    return made


def to_rows(batch: CheckedBatch, *, store_images: bool) -> list[Entity]:
    """The entities of a checked batch; what is too large for Milvus raises `BadInput`."""
    rows = []
    for position, doc in enumerate(batch.docs):
        try:
            rows.append(_row(batch, position, store_images and doc.image is not None))
        except BadInput as error:
            raise BadInput(f"document {doc.id!r:.80}: {error}") from error
    return rows


def _row(batch: CheckedBatch, position: int, has_image: bool) -> Entity:
    doc, columns = batch.docs[position], batch.tag_columns[position]
    image_digest = batch.image_digests[position]
    head: dict[str, str | bool | None] = {
        "id": str(doc.id),
        "text": doc.text,
        "uri": doc.uri,
        "label": doc.label,
    }
    head |= {"image_digest": image_digest, "image": has_image}
    head_json = json.dumps(head, ensure_ascii=False, separators=(",", ":"))
    document = f'{head_json[:-1]},"tags":{batch.tags_json[position]}}}'
    if (size := len(document.encode())) > MAX_DOCUMENT_BYTES:
        raise BadInput(f"texts and tags of {size} bytes; Milvus keeps up to {MAX_DOCUMENT_BYTES}")
    terms = terms_of(doc, columns)
    if len(terms) > MAX_TERMS:
        raise BadInput(f"tags have {len(terms)} values and names; Milvus keeps up to {MAX_TERMS}")
    low, high = bounds_of(columns)
    for bounds in (low, high):
        if (size := len(json.dumps(bounds))) > MAX_BOUNDS_BYTES:
            raise BadInput(
                f"tags have too many numbers and strings to compare by order ({size} bytes; "
                f"Milvus keeps up to {MAX_BOUNDS_BYTES})"
            )
    return {
        "id": hex_of(str(doc.id)),
        "document": [document[at : at + _PIECE] for at in range(0, len(document), _PIECE)],
        "image_digest": (image_digest or "") if has_image else "",
        "terms": terms,
        "low": low,
        "high": high,
        "text_order": order_key(doc.text or ""),
        "uri_order": order_key(doc.uri or ""),
        "label_order": order_key(doc.label or ""),
        "embedding": batch.embeddings[position],
    }


def to_match(entity: Entity, score: float) -> Match:
    """A found entity as a match."""
    kept = json.loads("".join(entity["document"]))
    fields = {name: kept.get(name) for name in ("id", "text", "uri", "tags", "image_digest")}
    return Match(**fields, score=min(1.0, max(-1.0, score)))


def to_doc(entity: Entity, model_digest: str) -> tuple[ClipDoc, bool]:
    """An entity as a document, with the embedding if it is there; and whether it has a picture."""
    kept = json.loads("".join(entity["document"]))
    has_image = kept.pop("image")
    doc = ClipDoc(**kept)
    if "embedding" in entity:
        doc.embedding = np.asarray(entity["embedding"], np.float32)  # type: ignore[assignment]
        doc.model_digest = model_digest
    return doc, has_image


def hex_of(text: str) -> str:
    """The UTF-8 bytes in hexadecimal: sorts as the text does by code points."""
    return text.encode().hex()


def order_key(text: str) -> str:
    """`hex_of` the first bytes, and one more, so that a longer string isn't equal to its start."""
    return text.encode()[: ORDER_BYTES + 1].hex()


def term_key(term: str) -> str:
    """128 bits of the hash of a term that `tags.term` made."""
    return _hash(["tag", term])


def field_key(name: str, *value: str) -> str:
    """The term "the document's own field has a value", or has this `value`."""
    return _hash(["field", name, *value])


def ordered_key(kind: str, path: str) -> str:
    """The name in `low` and `high`, and the term, of a tag that has a `number` or a `string`."""
    return kind[0] + _hash(["ordered", kind, path])[1:]


def terms_of(doc: ClipDoc, columns: TagColumns) -> list[str]:
    """All terms of a document."""
    terms = [term_key(term) for term in columns.terms]
    terms += [ordered_key("number", path) for path in columns.numbers]
    terms += [ordered_key("string", path) for path in columns.strings]
    for name in ORDERED_FIELDS:
        value = getattr(doc, name)
        if value is not None:
            terms += [field_key(name), field_key(name, value)]
    return terms


def bounds_of(columns: TagColumns) -> tuple[dict[str, float | str], dict[str, float | str]]:
    """(`low`, `high`) of a document's tags."""
    bounds: dict[str, tuple[float | str, float | str]] = {
        **{ordered_key("number", path): ends for path, ends in columns.numbers.items()},
        **{
            ordered_key("string", path): (order_key(first), order_key(last))
            for path, (first, last) in columns.strings.items()
        },
    }
    return (
        {key: least for key, (least, _) in bounds.items()},
        {key: greatest for key, (_, greatest) in bounds.items()},
    )


def _hash(parts: list[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
