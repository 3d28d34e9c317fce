"""Tags as a store keeps them: exact JSON beside columns made for filtering.

A document's tags are free in name and shape, so a column per tag would change the table's schema
with every new name, and two writers' at once. Instead each document has a fixed set of list
columns: `terms` answers equality and existence, and for each of its numeric and text tags the
least and greatest value answer order (`<` holds for some element exactly if it does for the
least). Names and values are data in all of them, never part of the schema.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from cliptune.documents import MAX_DEPTH
from cliptune.errors import BadInput

MAX_JSON_BYTES = 1 << 20
MAX_TERMS = 4_000
MAX_PATH = 1000
"""Characters of a tag's path that is asked for."""
_LONG_STRING = 200


def plain_tags(tags: Mapping[str, object]) -> dict[str, JsonValue]:
    """The tags as JSON has them: NumPy numbers become Python's, tuples lists.

    What JSON can't keep exactly (NaN, infinities, bytes, dates, names that aren't strings) raises
    `BadInput` with the tag's path.
    """
    plain = _plain(tags, "", 0)
    assert isinstance(plain, dict)  # noqa: S101
    return plain


def to_json(tags: Mapping[str, JsonValue]) -> str:
    """Compact JSON of `plain_tags`; more than 1 MiB raises `BadInput`."""
    text = json.dumps(tags, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if len(text.encode()) > MAX_JSON_BYTES:
        raise BadInput(f"tags of {len(text.encode())} bytes; at most {MAX_JSON_BYTES} are kept")
    return text


def same_tags(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    """Whether they are the same to JSON: 1, 1.0 and true differ, the order of names is nothing."""
    texts = (json.dumps(plain_tags(tags), sort_keys=True) for tags in (one, other))
    return next(texts) == next(texts)


def from_json(text: str) -> dict[str, JsonValue]:
    """The tags that `to_json` wrote."""
    tags: dict[str, JsonValue] = json.loads(text)
    return tags


def term(path: str, *value: str | float | bool) -> str:
    """One ASCII string for "the tag at `path` has a value", or has this `value`.

    It is a JSON array, so that no name or value can pass for another; numbers are written as
    64-bit floats, long strings by their SHA-256.
    """
    if not value:
        return json.dumps([path])
    [one] = value
    if isinstance(one, bool) or (isinstance(one, str) and len(one) <= _LONG_STRING):
        return json.dumps([path, one])
    if isinstance(one, str):
        return json.dumps([path, {"sha256": hashlib.sha256(one.encode()).hexdigest()}])
    return json.dumps([path, float(one) + 0.0])  # -0.0 becomes 0.0


def value_of(one: str) -> str | float | bool | None:
    """The value that `term` wrote down; None for a long string, of which a hash is kept."""
    value: object = json.loads(one)[1]
    return value if isinstance(value, str | float | bool) else None


def term_prefix(path: str) -> str:
    """What the terms of all values at `path` begin with, and no others."""
    return json.dumps([path])[:-1] + ", "


def values_at(tags: Mapping[str, object], path: str) -> dict[str, str | float | bool]:
    """The values (strings, numbers, booleans) that stand at `path`, by their `term`s."""
    return {
        term(path, value): value
        for where, value in _values(tags, "")
        if where == path and isinstance(value, str | int | float)
    }


def check_path(name: str, path: object) -> str:
    """A tag's path that is given as the argument `name`; anything else raises `BadInput`."""
    if not isinstance(path, str) or not path:
        raise BadInput(f"{name}: expected a tag's name, got {path!r:.80}")
    if len(path) > MAX_PATH:
        raise BadInput(f"{name}: a tag's name of {len(path)} characters, at most {MAX_PATH}")
    _check_unicode(path, path)
    return path


@dataclass(frozen=True)
class TagColumns:
    """What a document's tags put into the filter columns."""

    terms: list[str]
    numbers: dict[str, tuple[float, float]]
    """The least and the greatest, by path."""
    strings: dict[str, tuple[str, str]]

    @classmethod
    def of(cls, tags: Mapping[str, object]) -> TagColumns:
        """The columns' values for `plain_tags`; too many of them raise `BadInput`."""
        terms: dict[str, None] = {}
        numbers: dict[str, list[float]] = {}
        strings: dict[str, list[str]] = {}
        for path, value in _values(tags, ""):
            terms[term(path)] = None
            if isinstance(value, str):
                strings.setdefault(path, []).append(value)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                numbers.setdefault(path, []).append(float(value))
            if isinstance(value, str | int | float):
                terms[term(path, value)] = None
            if len(terms) > MAX_TERMS:
                raise BadInput(f"tags have more than {MAX_TERMS} values")
        return cls(
            list(terms),
            {path: (min(values), max(values)) for path, values in numbers.items()},
            {path: (min(values), max(values)) for path, values in strings.items()},
        )


def names_in(all_tags: Iterable[Mapping[str, object]]) -> frozenset[str]:
    """The paths of everything in documents' tags that is not null."""
    return frozenset(path for tags in all_tags for path, _ in _values(tags, ""))


def texts_in(all_tags: Iterable[Mapping[str, object]], path: str) -> frozenset[str]:
    """The texts that stand at `path` in documents' tags."""
    return frozenset(
        value
        for tags in all_tags
        for where, value in _values(tags, "")
        if where == path and isinstance(value, str)
    )


def texts_of(tags: Mapping[str, object]) -> Iterator[str | int]:
    """All texts and whole numbers in a document's tags, in their order."""
    for _, value in _values(tags, ""):
        if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            yield value


def _values(value: object, path: str, top: bool = True) -> Iterator[tuple[str, object]]:
    """(path, value) of all that is not null, lists and mappings themselves included."""
    if value is None:
        return
    if not top:
        yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _values(inner, key if top else f"{path}.{key}", False)
    elif isinstance(value, list):
        for inner in value:
            yield from _values(inner, path, False)


def _plain(value: object, path: str, depth: int) -> JsonValue:
    if depth > MAX_DEPTH:
        raise BadInput(f"tag {path[:80]!r} is nested deeper than {MAX_DEPTH} levels")
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        plain: dict[str, JsonValue] = {}
        for key, inner in value.items():
            if not isinstance(key, str):
                raise BadInput(f"tag {path!r} has the name {key!r}; names are strings")
            inside = f"{path}.{key}" if depth else key
            _check_unicode(key, inside)
            plain[str(key)] = _plain(inner, inside, depth + 1)
        return plain
    if isinstance(value, list | tuple):
        return [_plain(inner, path, depth + 1) for inner in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        _check_unicode(value, path)
        return str(value)
    if isinstance(value, int | float):
        try:
            finite = math.isfinite(float(value))
        except OverflowError:
            finite = False
        if not finite:
            raise BadInput(f"tag {path!r} is {value!r:.40}; leave it out, or use null")
        return int(value) if isinstance(value, int) else float(value)
    raise BadInput(
        f"tag {path!r} is of type {type(value).__name__}; tags are strings, numbers, booleans, "
        "null, lists and mappings (a date can be an ISO string)"
    )


def _check_unicode(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"tag {path!r} is not valid Unicode") from error
