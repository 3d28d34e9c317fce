"""Which wrong answers are taken as hard negatives."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

from cliptune.errors import BadInput, near_matches

Direction = Literal["both", "pictures", "titles"]
Sampling = Literal["top", "random"]
MOST_NEGATIVES = 100
MOST_CANDIDATES = 10_000


@dataclass(frozen=True)
class MiningOptions:
    """Which wrong answers are taken."""

    direction: Direction = "both"
    """Whose neighbours: `pictures` near the title, `titles` near the picture, or `both`; then the
    rules must let a couple pass both ways, and the nearer way is its score. Training puts a pair
    and its wrong answers into one batch, where each is told apart both ways."""
    num_negatives: int = 3
    """At most so many wrong answers a pair."""
    range_min: int = 0
    """So many of the nearest that the rules let pass are skipped."""
    range_max: int | None = None
    """So many of the nearest are looked at, in each direction; None: `range_min` and ten times
    `num_negatives`, but at least 100."""
    relative_margin: float | None = 0.05
    """A wrong answer's score is below the right one's by at least this part of it; None: it may be
    above."""
    absolute_margin: float | None = None
    """A wrong answer's score is below the right one's by at least this."""
    max_score: float | None = None
    """Its cosine is at most this."""
    min_score: float | None = None
    """Its cosine is at least this."""
    near_pictures: float | None = 0.97
    """Its picture's cosine with the pair's picture is below this: from there on the two count as
    one picture; None: never."""
    near_titles: float | None = 0.99
    """Likewise of titles."""
    sampling_strategy: Sampling = "top"
    """Which of those that are left: the nearest, or some by chance."""
    seed: int = 0
    """Of `random`."""

    def __post_init__(self) -> None:
        """Refuse what can't be.

        Raises:
            BadInput: a value is out of its bounds; the message repeats it.
        """
        for name, kinds in (("direction", Direction), ("sampling_strategy", Sampling)):
            value, allowed = getattr(self, name), get_args(kinds)
            if value not in allowed:
                raise BadInput(f"{name} is {value!r}, allowed: {', '.join(map(repr, allowed))}")
        _check_number("num_negatives", self.num_negatives, 1, MOST_NEGATIVES, whole=True)
        _check_number("range_min", self.range_min, 0, MOST_CANDIDATES, whole=True)
        least = self.range_min + self.num_negatives
        if self.range_max is not None:
            _check_number("range_max", self.range_max, least, MOST_CANDIDATES, whole=True)
        elif least > MOST_CANDIDATES:
            raise BadInput(f"range_min is {self.range_min}: with num_negatives above the limit, "
                           f"{MOST_CANDIDATES}")  # fmt: skip
        _check_number("seed", self.seed, 0, 2**63, whole=True)
        for name, most in (("relative_margin", 1.0), ("absolute_margin", 2.0)):
            _check_number(name, getattr(self, name), -most, most)
        for name in ("max_score", "min_score", "near_pictures", "near_titles"):
            _check_number(name, getattr(self, name), -1.0, 1.0)
        if None not in (self.max_score, self.min_score) and self.min_score > self.max_score:  # type: ignore[operator]
            raise BadInput(f"min_score is {self.min_score}, above max_score, {self.max_score}")

    @classmethod
    def parse(cls, values: dict[str, object]) -> MiningOptions:
        """Options from a mapping.

        Raises:
            BadInput: an unknown name, with near ones; or as the class.
        """
        names = [one.name for one in fields(cls)]
        for name in values:
            if name not in names:
                raise BadInput(f"unknown option {name!r} of mining: {near_matches(name, names)}")
        return cls(**values)  # type: ignore[arg-type] # checked by the class itself

    @property
    def candidates(self) -> int:
        """How many neighbours are looked at in each direction."""
        default = max(100, self.range_min + 10 * self.num_negatives)
        return min(default, MOST_CANDIDATES) if self.range_max is None else self.range_max

    def __str__(self) -> str:
        """What will be done, in a sentence."""
        of = {
            "pictures": "pictures near the title",
            "titles": "titles near the picture",
            "both": "pictures near the title and titles near the picture",
        }[self.direction]
        rules = [
            f"a {name} of {getattr(self, name):g}"
            for name in (
                "relative_margin", "absolute_margin", "max_score", "min_score", "near_pictures",
                "near_titles",
            )
            if getattr(self, name) is not None
        ]  # fmt: skip
        skipped = f", the first {self.range_min} skipped" if self.range_min else ""
        return (
            f"at most {self.num_negatives} wrong answers a pair, of the {self.candidates} nearest "
            f"{of}{skipped}; left out are right answers"
            + "".join(f", {rule}" if rule != rules[-1] else f" and {rule}" for rule in rules)
        )


def _check_number(
    name: str, value: float | None, least: float, most: float, *, whole: bool = False
) -> None:
    """Refuse what is no (whole) number within the bounds; None is none and passes, but if whole."""
    if value is None and not whole:
        return
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:  # type: ignore[operator] # nor is nan
        kind = "a whole number" if whole else "a number"
        raise BadInput(f"{name} is {value!r}: give {kind} from {least:g} to {most:g}")
