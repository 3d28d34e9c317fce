"""`Ranking`: what is made of the documents that are nearest to a query."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from cliptune.errors import BadInput
from cliptune.index.filters.language import Field
from cliptune.index.ranking.formula import Formula
from cliptune.index.ranking.sorting import SortKey, parse_sort
from cliptune.index.tags import check_path

CANDIDATES = 200
MAX_CANDIDATES = 10_000
MAX_DIVERSE = 1_000
"""Candidates that are compared with one another for variety."""


@dataclass(frozen=True)
class Ranking:
    """What is made of the nearest documents, in this order.

    1. **Candidates** are the nearest documents that the filter leaves, of at least
       `score_threshold`, best first.
    2. **Groups** (`group_by`): of all documents with one value of a tag only the best stays.
    3. **Order**: by `sort_by`, by `formula`, or for variety by `diversity`; one of them at most.
       It is about the `candidates` best that are there after grouping, not about the whole
       index: whoever sorts red boots by price means the cheap ones among red boots. Paging ends
       with them.
    4. **Paging**: `offset` and `limit` count what is left, groups where there are groups.

    Grouping alone has no such bound: as many of the nearest documents are looked at as it takes to
    fill the page, whatever the groups' sizes.
    """

    group_by: str | None = None
    """A tag's path, such as a product's number. A document without it, or with several values,
    is a group of its own. `Match.more` says how many more documents with its value the filter
    leaves."""
    sort_by: str | None = None
    """Tags as `price`, `price desc`, `rating desc, price`: see `sorting`."""
    formula: str | None = None
    """Of a new score, as `score + 0.1 * log(1 + default(sales, 0))`: see `formula`."""
    diversity: float | None = None
    """0 to 1: maximal marginal relevance, see `diversity`. 0 leaves the order as it is."""
    candidates: int | None = None
    """How many of the nearest are put in order: 1 to 10,000, with `diversity` up to 1,000; None:
    200, or `limit` if that is more."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense, alone or together."""
        if self.group_by is not None:
            check_path("group_by", self.group_by)
        orders = [
            name for name in ("sort_by", "formula", "diversity") if getattr(self, name) is not None
        ]
        if len(orders) > 1:
            raise BadInput(f"{' and '.join(orders)}: there is one order; give one of them")
        if self.diversity is not None:
            _check_diversity(self.diversity)
        if self.candidates is not None:
            self._check_candidates(self.candidates, orders)
        _ = self.sorting, self.scoring  # raise what is wrong with them

    def _check_candidates(self, value: object, orders: list[str]) -> None:
        if not orders:
            raise BadInput("candidates: without sort_by, formula or diversity it has no effect")
        most = self.most_candidates
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            beside = " with diversity" if self.diversity is not None else ""
            raise BadInput(f"candidates: expected an integer of 1 to {most}{beside}, got {value!r}")

    @property
    def most_candidates(self) -> int:
        """How many may be put in order."""
        return MAX_CANDIDATES if self.diversity is None else MAX_DIVERSE

    @cached_property
    def sorting(self) -> tuple[SortKey, ...]:
        """What `sort_by` says."""
        return () if self.sort_by is None else parse_sort(self.sort_by)

    @cached_property
    def scoring(self) -> Formula | None:
        """What `formula` says."""
        return None if self.formula is None else Formula.parse(self.formula)

    def wanted(self, offset: int, limit: int) -> int:
        """How many of the nearest documents, or groups, are needed for a page.

        Raises:
            BadInput: more are asked for at once than are put in order.
        """
        if not limit:
            return 0
        if not self.sorting and self.scoring is None and self.diversity is None:
            return offset + limit
        candidates = max(CANDIDATES, limit) if self.candidates is None else self.candidates
        if limit > min(candidates, self.most_candidates):
            raise BadInput(
                f"limit is {limit}, and {min(candidates, self.most_candidates)} candidates are put "
                "in order: ask for fewer at once, or for more candidates"
            )
        return candidates

    def check_by_words(self) -> None:
        """Refuse what is about cosines alone, for a search that is ranked by words too.

        Raises:
            BadInput: there are groups, or variety.
        """
        for name in ("group_by", "diversity"):
            if getattr(self, name) is not None:
                raise BadInput(
                    f"{name} goes by the embeddings' scores, and hybrid ranks by words too: "
                    "leave one of them out"
                )

    def tags(self) -> dict[str, list[Field]]:
        """The tags that are named, by the option that names them."""
        named = {
            "group_by": [] if self.group_by is None else [self.group_by],
            "sort_by": [key.path for key in self.sorting],
            "formula": [] if self.scoring is None else list(self.scoring.tags),
        }
        return {option: [Field(path) for path in paths] for option, paths in named.items()}


def _check_diversity(value: object) -> None:
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not math.isfinite(value)
        or not 0 <= value <= 1
    ):
        raise BadInput(f"diversity: expected a number of 0 to 1, got {value!r:.80}")
