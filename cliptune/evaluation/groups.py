"""Figures of some of the queries: by category, price, length of title, and how often asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cliptune.data.validation import is_missing
from cliptune.documents import ClipDoc
from cliptune.errors import BadInput, near_matches
from cliptune.evaluation.bootstrap import Change, Interval, compare_means, interval_of_mean

WORDS, WEIGHT = "words", "weight"
"""What queries are grouped by, besides their tags: the number of words, and how often asked."""
LARGEST = 12
"""Groups of a tag's values; the others are one."""
BANDS = 4
FEWEST_FOR_BANDS = 9
"""Different numbers of a tag from which they make bands, about as many queries in each."""
OTHERS = "others"
NOTHING = "–"
_LENGTHS = ((2, "1–2 words"), (4, "3–4 words"), (7, "5–7 words"))
_SHOWN_BY_ITSELF = 3

Figures = Mapping[str, NDArray[np.float64]]
"""Each query's metrics by name, [Q]."""


@dataclass(frozen=True)
class Group:
    """A figure of some queries."""

    name: str
    n: int
    value: Interval


@dataclass(frozen=True)
class ChangedGroup:
    """A figure of some queries by two models."""

    name: str
    n: int
    change: Change


def figures_by_group(
    by_query: Figures, queries: Sequence[ClipDoc], by: str, metric: str
) -> list[Group]:
    """The mean of `metric` over each group of queries, with its 95 % interval.

    Args:
        by_query: of an `Evaluation`.
        queries: the documents that were asked, [Q].
        by: a tag of theirs; `words`, the number of words of their text; or `weight`: the head is
            those with the highest weights, which make half of all weight, and the tail the rest.
            A tag of many different numbers makes `BANDS` bands; of other tags the `LARGEST` most
            frequent values are groups of their own.
        metric: a name of `cliptune.evaluation.metrics.METRICS`.

    Raises:
        BadInput: no query has such a tag, or a weight; the message lists near names.
    """
    return [
        Group(name, len(rows), interval_of_mean(by_query[metric][rows]))
        for name, rows in group_queries(queries, by)
    ]


def changes_by_group(
    before: Figures, after: Figures, queries: Sequence[ClipDoc], by: str, metric: str
) -> list[ChangedGroup]:
    """As `figures_by_group`, of two models on the same queries."""
    changed = []
    for name, rows in group_queries(queries, by):
        one, other = ({metric: side[metric][rows]} for side in (before, after))
        changed.append(ChangedGroup(name, len(rows), compare_means(one, other)[metric]))
    return changed


def group_queries(queries: Sequence[ClipDoc], by: str) -> list[tuple[str, NDArray[np.int64]]]:
    """The groups of `queries` (see `figures_by_group`): names and positions, each query in one."""
    tags = list(dict.fromkeys(tag for doc in queries for tag in doc.tags))
    if by in tags:
        names, order = _by_tag([doc.tags.get(by) for doc in queries])
    elif by == WORDS:
        names, order = [_length(doc.text or "") for doc in queries], [w for _, w in _LENGTHS]
        order.append(_LONG)
    elif by == WEIGHT and any(doc.weight is not None for doc in queries):
        names, order = _head_and_tail([doc.weight or 1.0 for doc in queries])
    else:
        known = [*tags, WORDS, *([WEIGHT] if any(doc.weight for doc in queries) else [])]
        advice = "; name the column of weights, too" if by == WEIGHT else ""
        raise BadInput(f"queries can't be grouped by {by!r}: {near_matches(by, known)}{advice}")
    codes = np.array([order.index(name) for name in names])
    return [
        (name, rows)
        for code, name in enumerate(order)
        if len(rows := np.flatnonzero(codes == code))
    ]


def groupings_of(queries: Sequence[ClipDoc]) -> list[str]:
    """What queries can well be grouped by, for a report that was told nothing of it.

    How often they are asked, their words, and up to three tags: of few values, each of several
    queries, or of many numbers. Those with one group are left out.
    """
    groupings = [WEIGHT] if any(doc.weight is not None for doc in queries) else []
    groupings.append(WORDS)
    tags = dict.fromkeys(tag for doc in queries for tag in doc.tags)
    telling = [tag for tag in tags if _tells([doc.tags.get(tag) for doc in queries])]
    return [
        by
        for by in [*groupings, *telling[:_SHOWN_BY_ITSELF]]
        if len(group_queries(queries, by)) > 1
    ]


def _tells(values: Sequence[object]) -> bool:
    counts = Counter(_shown(value) for value in values if not is_missing(value))
    if not counts or sum(counts.values()) < len(values) / 2:
        return False
    if _are_numbers(values) and len(counts) >= FEWEST_FOR_BANDS:
        # Numbers of which each query has its own may be ids, and ids are whole.
        is_id = all(isinstance(value, int) for value in values) and len(counts) > len(values) * 0.9
        return not is_id
    covered = sum(count for _, count in counts.most_common(LARGEST))
    return len(counts) > 1 and covered >= len(values) / 2 and len(counts) <= len(values) / 4


_LONG = "8 words and more"


def _length(text: str) -> str:
    count = len(text.split())
    return next((name for most, name in _LENGTHS if count <= most), _LONG)


def _head_and_tail(weights: Sequence[float]) -> tuple[list[str], list[str]]:
    values = np.array(weights)
    heaviest_first = np.argsort(-values, kind="stable")
    before = np.cumsum(values[heaviest_first]) - values[heaviest_first]
    is_head = np.zeros(len(values), dtype=bool)
    is_head[heaviest_first[before < values.sum() / 2]] = True
    head, tail = "head (half of all weight)", "tail"
    return [head if one else tail for one in is_head], [head, tail]


def _by_tag(values: Sequence[object]) -> tuple[list[str], list[str]]:
    """Each value's group, and all of them in their order."""
    if _are_numbers(values) and len(set(values)) >= FEWEST_FOR_BANDS:
        return _bands(values)
    names = [NOTHING if is_missing(value) else _shown(value) for value in values]
    frequent = [name for name, _ in Counter(names).most_common(LARGEST)]
    if len(set(names)) <= LARGEST:
        return names, frequent
    return [n if n in frequent else OTHERS for n in names], [*frequent, OTHERS]


def _bands(values: Sequence[object]) -> tuple[list[str], list[str]]:
    there = [not is_missing(value) for value in values]
    numbers = np.array(
        [float(str(v)) if is_there else np.nan for v, is_there in zip(values, there, strict=True)]
    )
    known = numbers[~np.isnan(numbers)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, BANDS + 1)[1:-1]))
    band = np.searchsorted(edges, numbers, side="left")
    order = []
    for number in range(len(edges) + 1):
        inside = known[np.searchsorted(edges, known, side="left") == number]
        order.append(f"{inside.min():g} to {inside.max():g}" if len(inside) else f"band {number}")
    names = [order[b] if is_there else NOTHING for b, is_there in zip(band, there, strict=True)]
    return names, [*order, NOTHING]


def _are_numbers(values: Sequence[object]) -> bool:
    given = [value for value in values if not is_missing(value)]
    return bool(given) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in given
    )


def _shown(value: object) -> str:
    return str(value).strip()
