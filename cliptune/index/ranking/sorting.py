"""`sort_by`: matches in the order of their tags.

    price            ascending
    rating desc, price asc, `price in €`

Numbers come before texts, these before false and true; texts are in the order of code points. Of a
list the least value counts, descending the greatest. Matches without a value come last, in either
direction. What is equal stays in the order of its nearness.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cliptune.documents import Match
from cliptune.errors import BadInput
from cliptune.index.tags import check_path, values_at

MAX_KEYS = 4
_KEY = re.compile(
    r"\s*(?:`(?P<quoted>(?:[^`]|``)+)`|(?P<name>[^\W\d][\w-]*(?:\.[\w-]+)*))"
    r"(?:\s+(?P<order>asc|desc))?\s*(?:,|$)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class SortKey:
    """One tag to sort by."""

    path: str
    descending: bool

    def sort(self, matches: Iterable[Match]) -> list[Match]:
        """The matches in its order; what is equal stays as it is."""
        valued = [(self._value(match), match) for match in matches]
        there = [(value, match) for value, match in valued if value is not None]
        there.sort(key=lambda pair: pair[0], reverse=self.descending)
        return [match for _, match in [*there, *(pair for pair in valued if pair[0] is None)]]

    def _value(self, match: Match) -> tuple[int, str | float | bool] | None:
        values = [(_rank(one), one) for one in values_at(match.tags, self.path).values()]
        if not values:
            return None
        return max(values) if self.descending else min(values)


def _rank(value: str | float | bool) -> int:
    return 2 if isinstance(value, bool) else 1 if isinstance(value, str) else 0


def parse_sort(text: str) -> tuple[SortKey, ...]:
    """The tags to sort by, the first one counting most.

    Raises:
        BadInput: it isn't such a text; the message names the column.
    """
    if not isinstance(text, str):
        raise BadInput(f"sort_by: expected a text such as 'price desc', got {text!r:.80}")
    keys: list[SortKey] = []
    at = 0
    while at < len(text) or not keys or text.rstrip().endswith(","):
        match = _KEY.match(text, at)
        if match is None or match.end() == at:
            raise BadInput(
                f"sort_by, column {at + 1}: expected a tag's name (others than words in "
                f"backticks), and asc or desc behind it, got {text[at : at + 40]!r}"
            )
        name = match["name"] or match["quoted"].replace("``", "`")
        keys.append(SortKey(check_path("sort_by", name), (match["order"] or "").lower() == "desc"))
        at = match.end()
        if len(keys) > MAX_KEYS:
            raise BadInput(f"sort_by: more than {MAX_KEYS} tags")
    if len({key.path for key in keys}) < len(keys):
        raise BadInput(f"sort_by: a tag is named twice: {text!r:.80}")
    return tuple(keys)


def sort_matches(matches: Sequence[Match], keys: Sequence[SortKey]) -> list[Match]:
    """The matches sorted by the first key, by the next where that is equal, and so on."""
    ordered = list(matches)
    for key in reversed(keys):
        ordered = key.sort(ordered)
    return ordered
