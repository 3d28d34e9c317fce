"""Facets: beside a search, how many documents have which value of a tag.

    {"brand": {"limit": 20}, "price": {"ranges": [20, 50, 100]}}   # or only ["brand", "price"]

Counted are the documents that the filter leaves, all of them, whatever is searched for. A document
with several values of a tag counts for each of them, once. Numbers are given as ranges where they
are asked for so, or where a tag has more distinct numbers than values are listed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from cliptune.errors import BadInput
from cliptune.index.facets.column import Column
from cliptune.index.tags import check_path, value_of

MAX_FACETS = 32
MAX_VALUES = 1000
MAX_RANGES = 100
RANGES = 5
"""Ranges of a tag of many numbers for which nothing else is asked."""
_DIGITS = 2

Facets = Sequence[str] | Mapping[str, Mapping[str, object]]
"""What is asked for: tags, or tags with their options (`FacetOptions`)."""


@dataclass(frozen=True)
class FacetOptions:
    """How one tag is counted."""

    limit: int = 10
    """At most so many values, the most frequent ones: 1 to 1000."""
    ranges: int | tuple[float, ...] | None = None
    """Numbers as ranges: where one ends and the next begins, ascending, at most 100; or how many
    ranges of about the same number of documents; None: as `counting` says."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        _integer("limit", self.limit, MAX_VALUES)
        if isinstance(self.ranges, tuple):
            if not 1 <= len(self.ranges) <= MAX_RANGES:
                raise BadInput(f"ranges: expected 1 to {MAX_RANGES} edges, got {len(self.ranges)}")
            for edge in self.ranges:
                if isinstance(edge, bool) or not isinstance(edge, int | float):
                    raise BadInput(f"ranges: expected numbers, got {edge!r:.80}")
                if not math.isfinite(edge):
                    raise BadInput(f"ranges: expected numbers, got {edge!r}")
            if any(one >= other for one, other in zip(self.ranges, self.ranges[1:], strict=False)):
                raise BadInput(f"ranges: expected ascending edges, got {list(self.ranges)!r:.80}")
        elif self.ranges is not None:
            _integer("ranges", self.ranges, MAX_RANGES)


def _integer(name: str, value: object, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise BadInput(f"{name}: expected an integer of 1 to {most}, got {value!r:.80}")


def parse_facets(given: Facets) -> dict[str, FacetOptions]:
    """What is asked for, by tag.

    Raises:
        BadInput: it names no tags, too many, or options that there aren't.
    """
    if isinstance(given, str) or not isinstance(given, Sequence | Mapping):
        raise BadInput(f"facets: expected a list of tags, or tags with options, got {given!r:.80}")
    if len(given) > MAX_FACETS:
        raise BadInput(f"facets: {len(given)} tags, at most {MAX_FACETS} are counted at once")
    parsed: dict[str, FacetOptions] = {}
    for path in given:
        check_path("facets", path)
        if path in parsed:
            raise BadInput(f"facets: {path!r:.80} is given twice")
        options = given[path] if isinstance(given, Mapping) else {}
        try:
            parsed[path] = _options(options)
        except BadInput as error:
            raise BadInput(f"facets: {path!r:.80}: {error}") from None
    return parsed


def _options(given: object) -> FacetOptions:
    if not isinstance(given, Mapping):
        raise BadInput(f"expected options such as {{'limit': 20}}, got {given!r:.80}")
    if unknown := set(given) - {"limit", "ranges"}:
        raise BadInput(f"{min(unknown, key=str)!r:.80} is unknown; there are limit, ranges")
    options = dict(given)
    for name, value in options.items():  # of gRPC, which has no integers
        if isinstance(value, float) and value.is_integer():
            options[name] = int(value)
    if isinstance(ranges := options.get("ranges"), list | tuple):
        options["ranges"] = tuple(ranges)
    if options.get("limit", 1) is None:
        del options["limit"]
    return FacetOptions(**options)


class FacetValue(TypedDict):
    """A value, and how many documents have it."""

    value: str | float | bool
    count: int


FacetRange = TypedDict("FacetRange", {"from": float | None, "to": float | None, "count": int})
"""How many documents have a number in [from, to); None: there is no end on that side."""


@dataclass(frozen=True)
class Facet:
    """How often the values of a tag occur."""

    documents: int
    """Documents that have a value."""
    distinct: int
    """Distinct values that they have."""
    values: list[FacetValue]
    """The most frequent values, most frequent first; ties in the order of their JSON. Texts of
    more than 200 characters are counted in `distinct`, but not listed."""
    ranges: list[FacetRange]
    """Instead, if the values are counted as ranges of numbers."""
    least: float | None
    """The least number; None: there is none."""
    greatest: float | None
    """The greatest one."""

    def to_dict(self) -> dict[str, JsonValue]:
        """As JSON has it: `values` or `ranges`, and `min` and `max` if there are numbers."""
        made: dict[str, JsonValue] = {"documents": self.documents, "distinct": self.distinct}
        if self.ranges:
            made["ranges"] = [dict(one) for one in self.ranges]  # type: ignore[arg-type] # JSON
        else:
            made["values"] = [dict(one) for one in self.values]  # type: ignore[arg-type]
        if self.least is not None:
            made |= {"min": plain(self.least), "max": plain(float(self.greatest or 0.0))}
        return made


def facet(column: Column, options: FacetOptions) -> Facet:
    """The facet of a tag whose values `column` has."""
    there = column.counts > 0
    numbers = column.numbers[there]
    numbers = numbers[~np.isnan(numbers)]
    distinct = int(np.count_nonzero(there))
    ranges: list[FacetRange] = []
    if len(numbers) and (options.ranges is not None or len(numbers) > options.limit):
        ranges = _ranges(column, options.ranges or RANGES)
    return Facet(
        documents=column.having,
        distinct=distinct,
        values=[] if ranges else _most_frequent(column, options.limit),
        ranges=ranges,
        least=float(numbers.min()) if len(numbers) else None,
        greatest=float(numbers.max()) if len(numbers) else None,
    )


def _most_frequent(column: Column, limit: int) -> list[FacetValue]:
    import pyarrow as pa
    import pyarrow.compute as pc

    listed = pa.table({"term": column.terms, "count": column.counts})
    listed = listed.filter(pc.greater(listed["count"], 0))
    keys = [("count", "descending"), ("term", "ascending")]
    # Some more, as long texts are left out.
    best = listed.take(pc.select_k_unstable(listed, min(2 * limit, len(listed)), sort_keys=keys))
    values: list[FacetValue] = []
    for row in best.to_pylist():
        value = value_of(row["term"])
        if value is not None and len(values) < limit:
            values.append({"value": plain(value), "count": row["count"]})
    return values


def _ranges(column: Column, wanted: int | tuple[float, ...]) -> list[FacetRange]:
    values = column.numbers[column.codes]
    kept = ~np.isnan(values)
    rows, values = column.rows[kept], values[kept]
    edges = np.array(wanted, float) if isinstance(wanted, tuple) else _even(values, wanted)
    bins = np.searchsorted(edges, values, side="right")
    if len(column.rows) > column.having:
        # A document counts once for each range that it has a number in.
        seen = np.sort(rows * (len(edges) + 1) + bins)
        bins = seen[np.flatnonzero(np.diff(seen, prepend=-1))] % (len(edges) + 1)
    counts = np.bincount(bins, minlength=len(edges) + 1)
    ends = [None, *(_whole(float(edge)) for edge in edges), None]
    return [
        {"from": first, "to": last, "count": int(count)}
        for first, last, count in zip(ends, ends[1:], counts, strict=False)
    ]


def _even(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Round edges between ranges that hold about the same number of values each."""
    shares = np.arange(1, count) / count
    exact = np.quantile(values, shares)
    rounded = [float(f"{edge:.{_DIGITS}g}") for edge in exact]
    least, greatest = values.min(), values.max()
    return np.unique([edge for edge in rounded if least < edge <= greatest])


def plain(value: str | float | bool) -> str | float | bool:
    """A whole number as an integer: JSON shows 42 then, as it was given."""
    return _whole(value) if isinstance(value, float) else value


def _whole(number: float) -> float:
    return int(number) if number.is_integer() and abs(number) < 2**31 else number
