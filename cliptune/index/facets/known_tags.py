"""Which tags an index's documents have: their names, types, values for example."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from cliptune.index.facets.counting import FacetValue, plain
from cliptune.index.tags import TagColumns

Kind = Literal["number", "text", "boolean"]
MAX_TAGS = 500
"""Tags that are told of: those that most documents have."""
EXAMPLES = 5
_KINDS: tuple[tuple[Kind, type], ...] = (("number", float), ("text", str), ("boolean", bool))


@dataclass(frozen=True)
class KnownTag:
    """One tag."""

    name: str
    """Its path: `size.width` is a tag in a tag."""
    types: tuple[Kind, ...]
    """What its values are."""
    documents: int
    """How many of the documents looked at have it."""
    distinct: int
    """Distinct values that they have."""
    examples: tuple[FacetValue, ...]
    """The most frequent values, with the number of documents that have each."""
    least: float | None
    """The least number; None: there is none."""
    greatest: float | None
    """The greatest one."""


@dataclass(frozen=True)
class KnownTags:
    """The tags that an index's documents have, those of the most documents first."""

    documents: int
    """How many documents the index holds."""
    looked_at: int
    """Of how many of them this is told."""
    tags: tuple[KnownTag, ...]
    left_out: int
    """How many tags there are besides."""

    @classmethod
    def of(cls, documents: int, looked_at: int, counts: Mapping[str, int]) -> KnownTags:
        """Of how often each `tags.term` occurs in the documents looked at."""
        having: Counter[str] = Counter()
        values: dict[str, list[tuple[str, str | float | bool | None, int]]] = {}
        for term, count in counts.items():
            path, *value = json.loads(term)
            if not value:
                having[path] += count
            else:
                [one] = value
                kept = one if isinstance(one, str | float | bool) else None
                values.setdefault(path, []).append((term, kept, count))
        by_coverage = sorted(values, key=lambda path: (-having[path], path))
        tags = tuple(_tag(path, having[path], values[path]) for path in by_coverage[:MAX_TAGS])
        return cls(documents, looked_at, tags, max(0, len(by_coverage) - MAX_TAGS))

    def to_dict(self) -> dict[str, JsonValue]:
        """As JSON has it."""
        return {
            "documents": self.documents,
            "looked_at": self.looked_at,
            "left_out": self.left_out,
            "tags": [_as_json(tag, self.looked_at) for tag in self.tags],
        }


def count_terms(all_tags: Iterable[Mapping[str, object]]) -> tuple[int, Counter[str]]:
    """Of how many documents, and how often each `tags.term` occurs in their tags."""
    looked_at, counts = 0, Counter[str]()
    for tags in all_tags:
        looked_at += 1
        counts.update(TagColumns.of(tags).terms)
    return looked_at, counts


def _tag(
    path: str, documents: int, values: list[tuple[str, str | float | bool | None, int]]
) -> KnownTag:
    listed = sorted(values, key=lambda one: (-one[2], one[0]))
    short = [(value, count) for _, value, count in listed if value is not None]
    numbers = [value for value, _ in short if isinstance(value, float)]
    has_long = len(short) < len(listed)
    return KnownTag(
        name=path,
        types=tuple(
            kind
            for kind, of_kind in _KINDS
            if (kind == "text" and has_long) or any(isinstance(v, of_kind) for v, _ in short)
        ),
        documents=documents,
        distinct=len(listed),
        examples=tuple(
            FacetValue(value=plain(value), count=count) for value, count in short[:EXAMPLES]
        ),
        least=min(numbers, default=None),
        greatest=max(numbers, default=None),
    )


def _as_json(tag: KnownTag, looked_at: int) -> dict[str, JsonValue]:
    made: dict[str, JsonValue] = {
        "name": tag.name,
        "types": list(tag.types),
        "documents": tag.documents,
        "coverage": round(tag.documents / looked_at, 4) if looked_at else 0.0,
        "distinct": tag.distinct,
        "examples": [{"value": one["value"], "count": one["count"]} for one in tag.examples],
    }
    if tag.least is not None and tag.greatest is not None:
        made |= {"min": plain(tag.least), "max": plain(tag.greatest)}
    return made
