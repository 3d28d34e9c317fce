"""`group_by`: of all documents with one value of a tag, the best.

The nearest documents are asked for, more and more of them, until as many groups are found as are
wanted, or no documents are left. Where a few large groups fill the answers, what is left is asked
for without these groups, so that a group of any size costs no more than a small one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cliptune.documents import Match
from cliptune.errors import BadInput
from cliptune.index.filters.language import And, Field, In, Node, Not
from cliptune.index.tags import values_at

Find = Callable[[Sequence[int], int, Node | None], list[list[Match]]]
"""Answers for these queries with at most so many matches each, of what a filter leaves besides."""
MOST = 10_000
"""Matches of one call."""
_FACTORS = (4, 32)
"""Documents that are asked for at first, and next, for each group wanted."""
_ROUNDS = 32


def group_of(match: Match, path: str) -> tuple[str, str | float | bool] | None:
    """The match's value, before it as a `tags.term`; None if it has none, or several."""
    values = values_at(match.tags, path)
    return next(iter(values.items())) if len(values) == 1 else None


class Groups:
    """The groups found for one query."""

    def __init__(self, path: str, wanted: int, least: float) -> None:
        """So many groups by the tag at `path` are `wanted`, of at least the score `least`."""
        self.matches: list[Match] = []
        self._path, self._wanted, self._least = path, wanted, least
        self._values: dict[str, str | float | bool] = {}
        self._alone: set[str] = set()
        self._over = False

    @property
    def complete(self) -> bool:
        """Whether nothing more needs to be asked."""
        return self._over or len(self.matches) >= self._wanted

    def take(self, matches: Sequence[Match], asked: int) -> None:
        """Take the best of each new group from matches of which at most `asked` were wanted."""
        for match in matches:
            if match.score < self._least:
                self._over = True
                break
            group = group_of(match, self._path)
            if group is None:
                if str(match.id) in self._alone:
                    continue
                self._alone.add(str(match.id))
            elif group[0] in self._values:
                continue
            else:
                self._values[group[0]] = group[1]
            self.matches.append(match)
        if len(matches) < asked:
            self._over = True

    def others(self) -> Node:
        """The filter that leaves what is in none of these groups."""
        return And(
            (
                Not(In(Field(self._path), tuple(self._values.values()))),
                Not(In(Field("id", builtin=True), tuple(sorted(self._alone)))),
            )
        )

    def best(self) -> list[Match]:
        """The best groups, best first, ties by id: as many as are wanted."""
        # What was asked for without the first groups may be nearer than an ANN index had found.
        self.matches.sort(key=lambda match: (-match.score, str(match.id).encode()))
        return self.matches[: self._wanted]


def nearest_groups(
    find: Find, queries: int, path: str, wanted: int, least: float
) -> list[list[Match]]:
    """For each query the best matches of the `wanted` nearest groups, best first.

    Raises:
        BadInput: the groups are so large that too many documents would have to be looked at.
    """
    groups = [Groups(path, wanted, least) for _ in range(queries)]
    for factor in _FACTORS:
        open_ones = [position for position, one in enumerate(groups) if not one.complete]
        if not open_ones:
            break
        asked = min(MOST, factor * wanted + 8)
        for position, matches in zip(open_ones, find(open_ones, asked, None), strict=True):
            groups[position].take(matches, asked)
    for position, one in enumerate(groups):
        asked = min(MOST, _FACTORS[-1] * wanted + 8)
        for _ in range(_ROUNDS):
            if one.complete:
                break
            [matches] = find([position], asked, one.others())
            one.take(matches, asked)
            asked = min(MOST, 2 * asked)
        if not one.complete:
            raise BadInput(
                f"group_by: the groups of {path!r:.80} are so large that {wanted} of them can't be "
                f"found among the nearest documents; {len(one.matches)} were: page less deep"
            )
    return [one.best() for one in groups]
