"""Tags on the wire: DocArray's protobuf has 32-bit integers only, and EAN codes are longer.

Larger integers travel as floats, which are exact up to 2^53, and are integers again on arrival.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from docarray import BaseDoc

from cliptune.documents import EXACT, ClipDoc, Match, RankDoc, SearchResult
from cliptune.errors import BadInput
from cliptune.protocol.limits import check_depth

INT32 = 2**31


def pack(docs: Iterable[BaseDoc]) -> None:
    """Make the tags of `docs` fit to be sent, in place.

    Raises:
        BadInput: an integer is beyond 2^53, something is no JSON, or is nested too deeply;
            document and tag are named.
    """
    for held, packed in _packed_tags(docs):
        held.tags = packed


def check(docs: Iterable[BaseDoc]) -> None:
    """Raise what `pack` raises, and leave the tags as they are."""
    for _ in _packed_tags(docs):
        pass


def _packed_tags(docs: Iterable[BaseDoc]) -> Iterator[tuple[ClipDoc | Match, dict[str, object]]]:
    for position, doc in enumerate(docs):
        for held in _holders(doc):
            if held.tags:
                place = f"document {position} (id {str(doc.id)!r}): tags"
                check_depth(held.tags, place)
                yield held, {name: _packed(v, f"{place}.{name}") for name, v in _named(held, place)}


def unpack(docs: Iterable[BaseDoc]) -> None:
    """Make integers again of what `pack` made floats, and put the names in order, in place."""
    for doc in docs:
        for held in _holders(doc):
            if held.tags:
                held.tags = {name: _unpacked(held.tags[name]) for name in sorted(held.tags)}


def _holders(doc: BaseDoc) -> list[ClipDoc | Match]:
    if not isinstance(doc, ClipDoc):
        return []
    return [doc, *doc.matches] if isinstance(doc, SearchResult | RankDoc) else [doc]


def _named(held: ClipDoc | Match, place: str) -> Iterable[tuple[str, object]]:
    for name in held.tags:
        if not isinstance(name, str):
            raise BadInput(f"{place}: the key {name!r} is not a text")
    return held.tags.items()


def _packed(value: object, place: str) -> object:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        if -INT32 <= value < INT32:
            return value
        if abs(value) > EXACT:
            raise BadInput(f"{place}: {value} is beyond 2^53; use a text")
        return float(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BadInput(f"{place}: {value} is no number that JSON has")
        return value
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise BadInput(f"{place}: the key {key!r} is not a text")
        return {key: _packed(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_packed(item, f"{place}[{i}]") for i, item in enumerate(value)]
    raise BadInput(f"{place}: {type(value).__name__} is not a type that JSON has")


def _unpacked(value: object) -> object:
    if isinstance(value, float) and value.is_integer() and abs(value) >= INT32:
        return int(value) if abs(value) <= EXACT else value
    if isinstance(value, dict):  # sorted: a protobuf map has no order
        return {key: _unpacked(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_unpacked(item) for item in value]
    return value
