"""Documents as entities of a Milvus collection, and back; and what stamps the collection."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cliptune.documents import ClipDoc, Match
from cliptune.errors import BadInput
from cliptune.index.checks import MAX_ID_BYTES, CheckedBatch
from cliptune.index.milvus.keys import (
    ORDER_BYTES,
    ORDERED_FIELDS,
    bounds_of,
    hex_of,
    order_key,
    terms_of,
)
from cliptune.index.stamp import created_by

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


@dataclass(frozen=True)
class CollectionStamp:
    """Whose embeddings a collection holds; it is the collection's description, which no later
    write changes.
    """

    model_digest: str
    dim: int

    def to_description(self) -> str:
        """As the collection's description."""
        return json.dumps(
            {
                _MARK: FORMAT,
                "model_digest": self.model_digest,
                "dim": self.dim,
                "created_by": created_by(),
            }
        )

    @classmethod
    def from_description(cls, description: str, where: str) -> CollectionStamp:
        """The stamp; another one's collection, or one of a newer format, raises `BadInput`."""
        try:
            found = json.loads(description)
            version, digest, dim = int(found[_MARK]), found["model_digest"], found["dim"]
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"{where}: a collection that is no cliptune index; give another name"
            ) from error
        if version > FORMAT:
            raise BadInput(
                f"{where}: the index was written in format {version} by "
                f"{found.get('created_by', 'a newer cliptune')!s:.80}; {created_by()} reads "
                f"formats up to {FORMAT}. Upgrade cliptune"
            )
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


def to_rows(batch: CheckedBatch, *, store_images: bool) -> list[dict[str, Any]]:
    """The entities of a checked batch; what is too large for Milvus raises `BadInput`."""
    rows = []
    for position, doc in enumerate(batch.docs):
        try:
            rows.append(_row(batch, position, store_images and doc.image is not None))
        except BadInput as error:
            raise BadInput(f"document {doc.id!r:.80}: {error}") from error
    return rows


def _row(batch: CheckedBatch, position: int, has_image: bool) -> dict[str, Any]:
    doc, columns = batch.docs[position], batch.tag_columns[position]
    image_digest = batch.image_digests[position]
    fields = {name: getattr(doc, name) for name in ("text", "uri", "label")}
    head = {"id": str(doc.id), **fields, "image_digest": image_digest, "image": has_image}
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
        **{f"{name}_order": order_key(value or "") for name, value in fields.items()},
        "embedding": batch.embeddings[position],
    }


def to_match(entity: dict[str, Any], score: float) -> Match:
    """A found entity as a match."""
    kept = json.loads("".join(entity["document"]))
    fields = {name: kept.get(name) for name in ("id", "text", "uri", "tags", "image_digest")}
    return Match(**fields, score=min(1.0, max(-1.0, score)))


def to_doc(entity: dict[str, Any], model_digest: str) -> tuple[ClipDoc, bool]:
    """An entity as a document, with the embedding if it is there; and whether it has a picture."""
    kept = json.loads("".join(entity["document"]))
    has_image = kept.pop("image")
    doc = ClipDoc(**kept)
    if "embedding" in entity:
        embedding: Any = np.asarray(entity["embedding"], dtype=np.float32)
        doc.embedding = embedding
        doc.model_digest = model_digest
    return doc, has_image
