"""What of a document can be filtered by in Milvus, as keys that can't be anything but data.

Strings reach Milvus' expressions in two forms only, both of the digits 0-9a-f: as the hexadecimal
form of their UTF-8 bytes (which sorts as the strings do), and as a hash.

`terms` (an array of hashes) answers equality and existence. `low` and `high` (JSON) have for each
numeric and textual tag, by its path's hash, the least and the greatest value, as `tags.TagColumns`
explains.
"""

from __future__ import annotations

import hashlib
import json

from cliptune.documents import ClipDoc
from cliptune.index.tags import TagColumns

ORDER_BYTES = 512
"""So many first bytes of a string decide its order; filters may not compare with longer ones."""
ORDERED_FIELDS = ("text", "uri", "label")


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
    terms += [ordered_key("number", path) for path in columns.number_paths]
    terms += [ordered_key("string", path) for path in columns.string_paths]
    for name in ORDERED_FIELDS:
        value = getattr(doc, name)
        if value is not None:
            terms += [field_key(name), field_key(name, value)]
    return terms


def bounds_of(columns: TagColumns) -> tuple[dict[str, float | str], dict[str, float | str]]:
    """(`low`, `high`) of a document's tags."""
    low: dict[str, float | str] = {}
    high: dict[str, float | str] = {}
    for path, least, greatest in zip(
        columns.number_paths, columns.number_min, columns.number_max, strict=True
    ):
        key = ordered_key("number", path)
        low[key], high[key] = least, greatest
    for path, first, last in zip(
        columns.string_paths, columns.string_min, columns.string_max, strict=True
    ):
        key = ordered_key("string", path)
        low[key], high[key] = order_key(first), order_key(last)
    return low, high


def _hash(parts: list[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
