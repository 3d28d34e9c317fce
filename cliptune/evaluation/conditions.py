"""Conditions on figures, such as `reciprocal_rank < 0.3`: what a user's CI is to stop at."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cliptune.errors import BadInput, near_matches

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION = re.compile(r"\s*([A-Za-z_][\w.@]*)\s*(<=|>=|<|>)\s*([-+\w.]+)\s*", re.ASCII)


@dataclass(frozen=True)
class Condition:
    """A comparison of a figure with a number."""

    name: str
    sign: str
    """One of `OPERATORS`."""
    number: float

    @classmethod
    def parse(cls, text: str) -> Condition:
        """The condition written as `NAME < NUMBER` (or `<=`, `>`, `>=`).

        Raises:
            BadInput: it is written otherwise; the message repeats it.
        """
        match = _CONDITION.fullmatch(text)
        number = _number(match.group(3)) if match else None
        if match is None or number is None:
            signs = ", ".join(list(OPERATORS)[:-1]) + f" or {list(OPERATORS)[-1]}"
            raise BadInput(
                f"the condition {text[:200]!r}: write a figure's name, {signs} and a number, "
                "such as 'reciprocal_rank < 0.3'"
            )
        return cls(match.group(1), match.group(2), number)

    def holds(self, figures: Mapping[str, float]) -> bool:
        """Whether the figure compares so.

        Raises:
            BadInput: there is no such figure; the message lists near names.
        """
        if self.name not in figures:
            raise BadInput(
                f"the condition {self}: no figure {self.name!r}; {near_matches(self.name, figures)}"
            )
        return OPERATORS[self.sign](figures[self.name], self.number)

    def __str__(self) -> str:
        """As it can be parsed again."""
        return f"{self.name} {self.sign} {self.number:g}"


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
