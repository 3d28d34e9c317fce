"""The filter language: which documents a search, a count or a deletion is about.

A filter is written as an expression, or as a mapping in MongoDB's manner::

    colour == 'red' and price < 30 and brand in ['Nordvik', 'Halden']
    {'colour': 'red', 'price': {'$lt': 30}, 'brand': {'$in': ['Nordvik', 'Halden']}}

Both become the same syntax tree (`And`, `Or`, `Not`, `Compare`, `In`), which a store turns into
its own query language (`lance.search.to_sql`, `milvus.search.to_expression`).

Expressions
    Operators `==`, `!=`, `<`, `<=`, `>`, `>=`, `in [...]`, `not in [...]`; `and`, `or`, `not` and
    parentheses. Strings stand in single or double quotes, with JSON's escapes and that of the
    single quote; numbers as in JSON; `true`, `false`, `null` (or Python's spellings). Keywords
    may be in either case.
Fields
    A name is a tag: `colour`, `size.width` (a tag within a tag), or any name in backticks
    (`` `price in €` ``, a backtick is doubled). `$id`, `$text`, `$uri` and `$label` are the
    document's own fields.
Meaning
    - A comparison with a missing tag, or with a value of another type, is false; `!=` and
      `not in` are therefore true then. Nothing is ever "unknown": `not` turns false into true.
    - `== null` holds where the tag is missing or null, `!= null` where it has a value.
    - A tag that is a list matches if one of its elements does (`sizes == 'M'`), `!=` if none does.
      The tags of a list's mappings count as elements too (`parts.name == 'sole'`).
    - Numbers compare as 64-bit floats (3 equals 3.0), strings by code point, case and all;
      booleans and numbers are different things. Order (`<` …) is for numbers and strings.
Mappings
    `$eq $ne $lt $lte $gt $gte $in $nin $exists $not` on a field, `$and $or $nor $not` on top; the
    `tags__price` that DocArray's queries wrote is read as `price`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from cliptune.errors import BadFilter

MAX_DEPTH = 8
BUILTIN_FIELDS = ("id", "text", "uri", "label")

Scalar = str | float | bool | None
Op = Literal["==", "<", "<=", ">", ">="]


@dataclass(frozen=True)
class Field:
    """A tag's path (`size.width`), or with `builtin` one of the document's own fields."""

    name: str
    builtin: bool = False

    def __str__(self) -> str:
        """The name as mappings write it."""
        return f"${self.name}" if self.builtin else self.name


@dataclass(frozen=True)
class Compare:
    """`field op value`; there is no `!=`, which is a `Not`."""

    field: Field
    op: Op
    value: Scalar


@dataclass(frozen=True)
class In:
    """The field equals one of the values."""

    field: Field
    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class And:
    """All of the items hold; with no items it is true."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Or:
    """One of the items holds; with no items it is false."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Not:
    """The item does not hold."""

    item: Node


Node = Compare | In | And | Or | Not
Filter = str | Mapping[str, object] | Node


def leaves(node: Node, depth: int = 0) -> Iterator[Compare | In]:
    """The comparisons that a tree is made of; raises `BadFilter` where it nests too deeply."""
    if depth > MAX_DEPTH:
        raise BadFilter(f"the filter nests deeper than {MAX_DEPTH} levels")
    if isinstance(node, Compare | In):
        yield node
    elif isinstance(node, Not):
        yield from leaves(node.item, depth)
    else:
        for item in node.items:
            yield from leaves(item, depth + 1)
