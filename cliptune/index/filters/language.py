"""The filter language: which documents a search, a count or a deletion is about.

A filter is written as an expression, or as a mapping in MongoDB's manner::

    colour == 'red' and price < 30 and brand in ['Nordvik', 'Halden']
    {'colour': 'red', 'price': {'$lt': 30}, 'brand': {'$in': ['Nordvik', 'Halden']}}

Both become the same syntax tree (`And`, `Or`, `Not`, `Compare`, `In`), which a store turns into
its own query language (`lance_sql.to_sql`) and `predicate.matches` evaluates in Python.

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

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cliptune.errors import BadFilter, near_matches

MAX_COMPARISONS = 256
MAX_VALUES = 10_000
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
Filter = str | Mapping[str, Any] | Node


def parse_filter(given: Filter | None) -> Node | None:
    """The syntax tree of an expression, a mapping or a tree; None where nothing is asked.

    None, a blank string and an empty mapping ask nothing. Raises `BadFilter`.
    """
    if given is None:
        return None
    if isinstance(given, str):
        from cliptune.index.filters.parser import parse_expression

        node = parse_expression(given) if given.strip() else None
    elif isinstance(given, Mapping):
        node = _from_mapping(given, "filter", 0) if given else None
    elif isinstance(given, Compare | In | And | Or | Not):
        node = given
    else:
        raise BadFilter(f"a filter is an expression or a mapping, not {type(given).__name__}")
    if node is None:
        return None
    node = _flatten(node)
    _check_size(node)
    return node


def conjunction(items: Sequence[Node]) -> Node:
    """All of `items`, without a level of its own for a single one."""
    return items[0] if len(items) == 1 else And(tuple(items))


def disjunction(items: Sequence[Node]) -> Node:
    """One of `items`, without a level of its own for a single one."""
    return items[0] if len(items) == 1 else Or(tuple(items))


def check_value(value: Any, where: str) -> Scalar:
    """A string, finite number, boolean or None, as it is; anything else raises `BadFilter`."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BadFilter(f"{where}: {value!r} is not valid Unicode") from error
        return value
    if isinstance(value, int | float):
        try:
            number = float(value)
        except OverflowError as error:
            raise BadFilter(f"{where}: the number is beyond 64-bit floats") from error
        if not math.isfinite(number):
            raise BadFilter(f"{where}: {value!r} can't be compared with")
        return number
    raise BadFilter(
        f"{where}: a value is a string, number, boolean or null, not {type(value).__name__}"
    )


def compare(field: Field, op: str, value: Scalar, where: str) -> Node:
    """The node of `field op value`, `!=` included; refuses an order of booleans and null."""
    if op == "==":
        return Compare(field, "==", value)
    if op == "!=":
        return Not(Compare(field, "==", value))
    if value is None or isinstance(value, bool):
        shown = "null" if value is None else str(value).lower()
        raise BadFilter(f"{where}: {op} has no meaning for {shown}; use == or !=")
    assert op in ("<", "<=", ">", ">=")  # noqa: S101
    return Compare(field, op, value)  # type: ignore[arg-type]


_COMPARISONS = {"$eq": "==", "$ne": "!=", "$lt": "<", "$lte": "<=", "$gt": ">", "$gte": ">="}
_FIELD_OPS = (*_COMPARISONS, "$in", "$nin", "$exists", "$not")
_TOP_OPS = ("$and", "$or", "$nor", "$not")


def _from_mapping(given: Any, where: str, depth: int) -> Node:
    if not isinstance(given, Mapping):
        raise BadFilter(f"{where}: expected a mapping, got {type(given).__name__}")
    if depth > 4 * MAX_DEPTH:
        raise BadFilter(f"{where}: nested too deeply")
    items: list[Node] = []
    for key, value in given.items():
        if not isinstance(key, str):
            raise BadFilter(f"{where}: {key!r} is not a field's name")
        inside = f"{where}[{key!r}]"
        if key in ("$and", "$or", "$nor"):
            if isinstance(value, str) or not isinstance(value, Sequence) or not value:
                raise BadFilter(f"{inside}: expected a list of one or more mappings")
            parts = [
                _from_mapping(part, f"{inside}[{n}]", depth + 1) for n, part in enumerate(value)
            ]
            joined = conjunction(parts) if key == "$and" else disjunction(parts)
            items.append(Not(joined) if key == "$nor" else joined)
        elif key == "$not":
            items.append(Not(_from_mapping(value, inside, depth + 1)))
        elif key.startswith("$") and key[1:] not in BUILTIN_FIELDS:
            known = [*_TOP_OPS, *(f"${name}" for name in BUILTIN_FIELDS)]
            raise BadFilter(f"{inside}: there is no such operator here; {near_matches(key, known)}")
        else:
            items.append(_field_condition(_field(key, inside), value, inside, depth + 1))
    return conjunction(items)


def _field(key: str, where: str) -> Field:
    check_value(key, where)
    if key.startswith("$"):
        return Field(key[1:], builtin=True)
    if key.startswith("tags__"):
        return Field(key.removeprefix("tags__").replace("__", "."))
    return Field(key)


def _field_condition(field: Field, value: Any, where: str, depth: int) -> Node:
    if not isinstance(value, Mapping):
        return Compare(field, "==", check_value(value, where))
    if not value:
        raise BadFilter(f"{where}: an empty mapping; operators are {', '.join(_FIELD_OPS)}")
    if depth > 4 * MAX_DEPTH:
        raise BadFilter(f"{where}: nested too deeply")
    items: list[Node] = []
    for op, operand in value.items():
        inside = f"{where}[{op!r}]"
        if op in _COMPARISONS:
            items.append(compare(field, _COMPARISONS[op], check_value(operand, inside), inside))
        elif op in ("$in", "$nin"):
            if isinstance(operand, str | Mapping) or not isinstance(operand, Sequence):
                raise BadFilter(f"{inside}: expected a list of values")
            among = In(field, tuple(check_value(one, inside) for one in operand))
            items.append(among if op == "$in" else Not(among))
        elif op == "$exists":
            if not isinstance(operand, bool):
                raise BadFilter(f"{inside}: expected true or false, got {operand!r}")
            missing = Compare(field, "==", None)
            items.append(Not(missing) if operand else missing)
        elif op == "$not":
            items.append(Not(_field_condition(field, operand, inside, depth + 1)))
        else:
            known = f"operators are {', '.join(_FIELD_OPS)}"
            raise BadFilter(f"{inside}: there is no such operator; {known}")
    return conjunction(items)


def _flatten(node: Node) -> Node:
    """Merge nested `And`s and `Or`s, drop double negations: depth is then what the user means."""
    if isinstance(node, Not):
        inner = _flatten(node.item)
        return inner.item if isinstance(inner, Not) else Not(inner)
    if isinstance(node, And | Or):
        kind = type(node)
        items: list[Node] = []
        for item in map(_flatten, node.items):
            items.extend(item.items if isinstance(item, kind) else (item,))
        return items[0] if len(items) == 1 else kind(tuple(items))
    return node


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


def _check_size(node: Node) -> None:
    found = list(leaves(node))
    if len(found) > MAX_COMPARISONS:
        raise BadFilter(
            f"the filter makes {len(found)} comparisons, at most {MAX_COMPARISONS} are allowed "
            "(use `in [...]` for many values of one field)"
        )
    values = sum(len(leaf.values) for leaf in found if isinstance(leaf, In))
    if values > MAX_VALUES:
        raise BadFilter(f"the filter lists {values} values, at most {MAX_VALUES} are allowed")
