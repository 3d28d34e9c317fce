"""What a model's cosines mean: how probable it is that a result of such a cosine is right."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Self

from cliptune.errors import BadArtifact


@dataclass(frozen=True)
class Calibration:
    """A curve from cosine to probability: 1 / (1 + exp(-(slope * cosine + intercept))).

    It holds for a result that is shown: a document among the best `limit` that a search for a text
    finds, of queries and of an index like those that it was made of; right is what the evaluation's
    labels say is right (`cliptune.evaluation.calibration`). It is of texts that search pictures.
    """

    slope: float
    """Above 0."""
    intercept: float
    limit: int
    """How many results of each query it was made of."""
    queries: int
    """How many there were."""
    index: int
    """How many documents they searched: among more, the best wrong ones have higher cosines."""
    results: int
    """Results that it was made of."""
    relevant: int
    """Those of them that are right."""
    error: float
    """Its expected calibration error on queries that it was not made of, in [0, 1]."""

    def relevance(self, cosine: float) -> float:
        """The probability that a result of this cosine is right."""
        return relevance(self.curve, cosine)

    @property
    def curve(self) -> list[float]:
        """Slope and intercept, as they travel with an embedded query."""
        return [self.slope, self.intercept]

    @classmethod
    def parse(cls, values: object) -> Self:
        """From what an artifact says.

        Raises:
            BadArtifact: it isn't one.
        """
        try:
            assert isinstance(values, dict)  # noqa: S101 - caught below
            given = {one.name: float(values[one.name]) for one in fields(cls)}
            parsed = cls(**{**values, "slope": given["slope"], "intercept": given["intercept"]})
            assert parsed.slope > 0  # noqa: S101
            assert all(map(math.isfinite, given.values()))  # noqa: S101
        except (AssertionError, KeyError, TypeError, ValueError):
            raise BadArtifact(f"calibration.yml can't be understood: {values!r:.200}") from None
        return parsed


def relevance(curve: list[float], cosine: float) -> float:
    """The probability by a curve, which is its slope and its intercept."""
    slope, intercept = curve
    logit = slope * cosine + intercept
    # Of either sign without overflow.
    grown = math.exp(-abs(logit))
    return 1 / (1 + grown) if logit >= 0 else grown / (1 + grown)


def cosine_of(curve: list[float], probability: float) -> float:
    """The least cosine of which results are right with at least `probability`, in [0, 1].

    It may be below -1 (all are) or above 1 (none is).
    """
    if probability <= 0:
        return -math.inf
    if probability >= 1:
        return math.inf
    slope, intercept = curve
    return (math.log(probability / (1 - probability)) - intercept) / slope
