"""What of a filter can never hold: tags that no document has, or never of the type compared with.

Such a filter isn't wrong, so it is answered; who wrote `prize` for `price` learns of it by a
sentence beside the answer. Whether a tag occurs is asked of the index itself, as a count under a
filter, so it is exact in any store and costs what the filter costs. That it occurs is remembered
until the index is cleared, and looked at again (once for each state of the index) only where a
filter finds nothing; that it doesn't is remembered as long as the index stays as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

from cliptune.errors import near_matches
from cliptune.index.filters.language import (
    Compare,
    Field,
    Filter,
    In,
    Node,
    Not,
    Scalar,
    leaves,
)
from cliptune.index.filters.parser import parse_filter

EMPTY = "the index is empty: nothing has been indexed yet"
MAX_CHECKED = 16
"""Fields of a filter that are looked at: each costs up to three counts."""
MAX_VALUES = 4
"""Values of a filter that are looked at: each costs a count, and a look at a tag's values."""

Kind = Literal["anything", "number", "text", "boolean"]
_SHOWN: dict[Kind, str] = {"number": "a number", "text": "a text", "boolean": "true or false"}
_TYPES: tuple[Kind, ...] = ("number", "text", "boolean")


@dataclass(frozen=True)
class Version:
    """Which state an index is in."""

    table: Hashable
    """Another one after a `clear`."""
    number: Hashable
    """Another one after any write; None: the store doesn't tell."""


class Documents(Protocol):
    """What is asked of an index: see `Index`, which has these methods."""

    def count(self, filter: Filter | None = None) -> int:
        """How many documents a filter holds for."""

    def version(self) -> Version:
        """Which state it is in."""

    def tag_names(self) -> frozenset[str]:
        """The tags' paths that documents have."""

    def tag_values(self, path: str) -> frozenset[str]:
        """Texts that stand at a tag's path."""


@dataclass(frozen=True)
class _Fact:
    occurs: bool
    version: Version


class FilterWarnings:
    """The warnings of one index's filters."""

    def __init__(self, index: Documents) -> None:
        """Look at `index`, and remember what it is like."""
        self._index = index
        self._facts: dict[tuple[Field, Kind], _Fact] = {}

    def of(self, filter: Filter | None, *, found: bool) -> list[str]:
        """Sentences about a filter by which something was `found`, or nothing was.

        Raises:
            BadFilter: it isn't one.
        """
        node = parse_filter(filter)
        if not found and not self._index.count():
            return [EMPTY]
        wanted: dict[Field, list[Compare | In]] = {}
        for leaf in leaves(node) if node else ():
            wanted.setdefault(leaf.field, []).append(leaf)
        look = _Look(self, found)
        sentences = [
            sentence
            for field, of_field in list(wanted.items())[:MAX_CHECKED]
            for sentence in look.at(field, of_field)
        ]
        return list(dict.fromkeys(sentences))

    def occurs(self, field: Field, kind: Kind, version: Callable[[], Version], sure: bool) -> bool:
        """Whether a document has the field, with a value of this kind.

        Args:
            field: a tag, or a field of documents.
            kind: what its value is to be.
            version: tells the index's state.
            sure: as it is now, not as it was.
        """
        known = self._facts.get((field, kind))
        if known is not None:
            if known.occurs and not sure and known.version.table == version().table:
                return True
            if known.version == version() and known.version.number is not None:
                return known.occurs
        seen = version()  # before counting: what is written meanwhile makes another one
        occurs = bool(self._index.count(_condition(field, kind)))
        if len(self._facts) > 10_000:  # of somebody who makes names up
            self._facts.clear()
        self._facts[field, kind] = _Fact(occurs, seen)
        return occurs


class _Look:
    """One look at a filter's fields; the index's state is asked for at most once."""

    def __init__(self, remembered: FilterWarnings, found: bool) -> None:
        self._remembered, self._found = remembered, found
        self._index = remembered._index
        self._version: Version | None = None
        self._values_left = MAX_VALUES

    def at(self, field: Field, of_field: list[Compare | In]) -> list[str]:
        """The sentences about one field."""
        if field.builtin and field.name == "id":
            return [] if _kinds(of_field) <= {"text", "anything"} else [_only_text(field)]
        if not self._occurs(field, "anything"):
            return [self._never(field)]
        if field.builtin and not _kinds(of_field) <= {"text", "anything"}:
            return [_only_text(field)]
        sentences = []
        for leaf in of_field:
            kinds = _kinds([leaf]) - {"anything"}
            if kinds and not any(self._occurs(field, kind) for kind in kinds):
                sentences.append(self._never_of_type(leaf, kinds))
            elif not self._found and not field.builtin and "text" in kinds:
                sentences += self._near_values(leaf)
        return sentences

    def _occurs(self, field: Field, kind: Kind) -> bool:
        return self._remembered.occurs(field, kind, self._state, sure=not self._found)

    def _state(self) -> Version:
        if self._version is None:
            self._version = self._index.version()
        return self._version

    def _never(self, field: Field) -> str:
        if field.builtin:
            return f"no document has a {field}"
        names = self._names
        last = field.name.rpartition(".")[2].casefold()
        same_end = sorted(name for name in names if name.rpartition(".")[2].casefold() == last)
        advice = (
            f"did you mean {', '.join(map(repr, same_end[:5]))}?"
            if same_end
            else near_matches(field.name, sorted(names))
        )
        return f"no document has a tag {field.name!r}: {advice}"

    def _never_of_type(self, leaf: Compare | In, kinds: set[Kind]) -> str:
        field = leaf.field
        never = " or ".join(_SHOWN[kind] for kind in _TYPES if kind in kinds)
        there = [kind for kind in _TYPES if self._occurs(field, kind)]
        if not there:
            names = self._names
            parts = sorted(name for name in names if name.startswith(f"{field.name}."))
            its = f"it has the parts {', '.join(map(repr, parts[:10]))}" if parts else "it is empty"
            return f"the tag {field.name!r} is never {never}: {its}"
        its = " or ".join(_SHOWN[kind] for kind in there)
        return f"the tag {field.name!r} is never {never}, but {its}{_as_type(leaf, there)}"

    def _near_values(self, leaf: Compare | In) -> list[str]:
        """Of values compared with by equality that don't occur: those that are nearly the same."""
        if isinstance(leaf, Compare) and leaf.op != "==":
            return []
        field, sentences = leaf.field, []
        texts = [value for value in _values(leaf) if isinstance(value, str)][: self._values_left]
        self._values_left -= len(texts)
        for text in texts:
            if self._index.count(Compare(field, "==", text)):
                continue
            known = self._index.tag_values(field.name)
            if same := sorted(one for one in known if _folded(one) == _folded(text)):
                near = ", ".join(map(repr, same[:5]))
                sentences.append(
                    f"the tag {field.name!r} is never {text!r:.80}: did you mean {near}?"
                )
        return sentences

    @cached_property
    def _names(self) -> frozenset[str]:
        return self._index.tag_names()


def _condition(field: Field, kind: Kind) -> Node:
    if kind == "number":
        return Compare(field, "<=", sys.float_info.max)
    if kind == "text":
        return Compare(field, ">=", "")
    if kind == "boolean":
        return In(field, (True, False))
    return Not(Compare(field, "==", None))


def _values(leaf: Compare | In) -> tuple[Scalar, ...]:
    return leaf.values if isinstance(leaf, In) else (leaf.value,)


def _kinds(of_field: Iterable[Compare | In]) -> set[Kind]:
    return {_kind(value) for leaf in of_field for value in _values(leaf)}


def _kind(value: Scalar) -> Kind:
    if value is None:
        return "anything"
    if isinstance(value, bool):
        return "boolean"
    return "text" if isinstance(value, str) else "number"


def _only_text(field: Field) -> str:
    return f"{field} is always a text: put what you compare it with into quotes"


def _as_type(leaf: Compare | In, there: list[Kind]) -> str:
    """How to write the value so that it is of a type that occurs; empty if it can't be."""
    value = _values(leaf)[0]
    if "number" in there and isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return ""
        return f": write {value.strip()} without quotes"
    if "boolean" in there and isinstance(value, str) and value.lower() in ("true", "false"):
        return f": write {value.lower()} without quotes"
    if "text" in there and not isinstance(value, str):
        shown = str(value).lower() if isinstance(value, bool) else f"{value:g}"
        return f": write '{shown}' in quotes"
    return ""


def _folded(text: str) -> str:
    return "".join(text.casefold().split())
