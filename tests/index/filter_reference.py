"""Filters in Python: what a filter means, stated by walking the document itself.

Stores evaluate filters over columns made from the tags (`tags.TagColumns`); this module walks
the tags as they are, so that one checks the other.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cliptune.documents import ClipDoc
from cliptune.index.filters.language import And, Compare, Field, In, Node, Not, Or, Scalar

_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def matches(node: Node | None, doc: ClipDoc) -> bool:
    """Whether `doc` is one that the filter asks for; None asks for all."""
    if node is None:
        return True
    if isinstance(node, And):
        return all(matches(item, doc) for item in node.items)
    if isinstance(node, Or):
        return any(matches(item, doc) for item in node.items)
    if isinstance(node, Not):
        return not matches(node.item, doc)
    values = list(_values(node.field, doc))
    if isinstance(node, In):
        return any(_equals(values, wanted) for wanted in node.values)
    if node.op == "==":
        return _equals(values, node.value)
    return any(_ordered(value, node) for value in values)


def _equals(values: list[Any], wanted: Scalar) -> bool:
    if wanted is None:
        return all(value is None for value in values)
    return any(_kind(value) == _kind(wanted) and value == wanted for value in values)


def _ordered(value: Any, node: Compare) -> bool:
    if _kind(value) != _kind(node.value) or _kind(value) not in (str, float):
        return False
    if not isinstance(value, str):
        value = float(value)
    return _ORDER[node.op](value, node.value)


def _kind(value: Any) -> type:
    return float if type(value) in (int, float) else type(value)


def _values(field: Field, doc: ClipDoc) -> Iterator[Any]:
    """All that stands at the field: a list's elements too, besides the list itself."""
    if field.builtin:
        value = getattr(doc, field.name)
        yield None if value is None else str(value)  # DocArray's ID is a class of its own
    else:
        yield from _at(doc.tags, field.name)


def _at(tags: Mapping[str, Any], path: str) -> Iterator[Any]:
    for key, value in tags.items():
        if key == path:
            yield from _elements(value)
        if path.startswith(f"{key}."):
            for element in _elements(value):
                if isinstance(element, Mapping):
                    yield from _at(element, path[len(key) + 1 :])


def _elements(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, list):
        for element in value:
            yield from _elements(element)
