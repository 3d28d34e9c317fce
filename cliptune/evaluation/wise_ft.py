"""Choosing WiSE-FT's alpha: search two data sets with every mixture of two models.

Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, draw what is measured here:
the curve of all alphas, between what fine-tuning is for (`in_domain`) and what the model should
not forget (`robust`). They mix half and half where nothing else is known, or take the alpha that
is best on in-domain validation data; `Rule` does the latter within a bound on what may be lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path

from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.errors import BadInput, near_matches
from cliptune.evaluation.metrics import METRICS
from cliptune.evaluation.search_task import OnProgress, SearchTask
from cliptune.inference.engines import both_towers
from cliptune.models.loading import ClipModel
from cliptune.models.wise_ft import (
    check_alpha,
    check_same_activation,
    check_same_architecture,
    mix_models,
)

MAX_ALPHAS = 1001

Documents = tuple[DocList[ClipDoc], DocList[ClipDoc]]
"""Queries with texts, and the pictures that they search."""


@dataclass(frozen=True)
class Point:
    """One mixture's metrics, by the names of `cliptune.evaluation.metrics`."""

    alpha: float
    in_domain: dict[str, float]
    robust: dict[str, float] | None = None
    in_domain_counts: dict[str, int] | None = None
    """How much was searched, and how many queries have no right answer: `Evaluation.counts()`."""
    robust_counts: dict[str, int] | None = None


@dataclass(frozen=True)
class Pick:
    """The alpha to take, and why in words."""

    alpha: float
    reason: str


def sweep(
    before: ClipModel,
    after: ClipModel,
    alphas: Iterable[float],
    in_domain: Documents,
    robust: Documents | None = None,
    *,
    limit: int = 20,
    pixel_cache: Path | None = None,
    on_progress: OnProgress | None = None,
) -> list[Point]:
    """Measure text-to-image search by the mixture of both models at every alpha.

    The figures of alpha 0 and 1 are those that `evaluate` gives of the two models. Pictures are
    decoded and texts tokenised once for all alphas; unreadable pictures, and documents that lack a
    text or a picture, are left out and logged.

    Args:
        before: the pre-trained model.
        after: the fine-tuned model, whose tokenizer and preprocessing count; they also say what is
            the same, for all alphas.
        alphas: in [0, 1]; each is measured once. With `robust`, alpha 0 is measured too: the
            others are compared with it.
        in_domain: data of the kind that it was fine-tuned for, best not what will be reported.
        robust: data of another kind on which it should stay good.
        limit: k, how many results of each query count.
        pixel_cache: a folder for decoded pictures; without one they are kept in memory.
        on_progress: see `OnProgress`.

    Returns:
        A point for each alpha, by ascending alpha.

    Raises:
        BadInput: an alpha is outside [0, 1] or there is none, or the models are not of one
            architecture.
        BadData: as `decode_documents` and `evaluate_embeddings`, or most queries have no text or
            most pictures no label.
    """
    wanted = {check_alpha(alpha) for alpha in alphas}
    if not wanted:
        raise BadInput("no alphas: give at least one from 0 to 1")
    ordered = sorted(wanted | {0.0} if robust is not None else wanted)
    check_same_architecture(before.clip.state_dict(), after.clip.state_dict())
    check_same_activation(before, after)
    tell = on_progress or (lambda *_: None)
    tasks = [
        SearchTask.prepare(
            *both_towers(after), *documents, role=role, pixel_cache=pixel_cache, tell=tell
        )
        for role, documents in (("in-domain ", in_domain), ("robust ", robust))
        if documents is not None
    ]
    points = []
    tell("Measuring", 0, len(ordered))
    for alpha in ordered:
        towers = both_towers(mix_models(before, after, alpha))
        inside, *elsewhere = (task.measure(*task.embed(*towers), limit=limit) for task in tasks)
        point = Point(alpha, inside.metrics, in_domain_counts=inside.counts())
        for other in elsewhere:
            point = replace(point, robust=other.metrics, robust_counts=other.counts())
        points.append(point)
        tell("Measuring", len(points), len(ordered))
    return points


@dataclass(frozen=True)
class Rule:
    """Which alpha to take: the best in-domain one among those that stay robust.

    An alpha stays robust if its robust metric is at least (1 - max_loss) times that of alpha 0:
    mixing may cost that much of what the pre-trained model could do, and the rest of the choice
    is for what the model is fine-tuned for. (The best robust metric of all alphas would be a
    worse measure: as the highest of many noisy figures it is too high by chance, and around its
    flat peak a difference within the noise would decide about half of the in-domain gain.)
    Alpha 0 itself always stays robust. Without robust metrics all alphas count, which is the
    paper's choice on in-domain validation data. Of equally good alphas the smallest is taken:
    it is the nearest to the pre-trained model.

    Raises:
        BadInput: an unknown metric, or a `max_loss` outside [0, 1].
    """

    metric: str = "reciprocal_rank"
    """One of `cliptune.evaluation.metrics.METRICS`; for all of them higher is better."""
    max_loss: float = 0.01
    """The part of the pre-trained model's robust metric that may be lost, in [0, 1]."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.metric not in METRICS:
            raise BadInput(f"metric is {self.metric!r}: {near_matches(self.metric, METRICS)}")
        if not 0.0 <= self.max_loss <= 1.0:
            raise BadInput(
                f"max_loss is {self.max_loss}: use a part from 0 to 1, such as 0.01 for 1 %"
            )

    def floor(self, points: Sequence[Point]) -> float:
        """The least robust metric that stays robust; 0 where there are no robust metrics.

        Raises:
            BadInput: there are, but not at alpha 0.
        """
        if all(point.robust is None for point in points):
            return 0.0
        for point in points:
            if point.alpha == 0.0 and point.robust:
                return (1 - self.max_loss) * point.robust[self.metric]
        raise BadInput("no robust metrics at alpha 0, which the others are compared with")

    def pick(self, points: Sequence[Point]) -> Pick:
        """The alpha among `points`, of which either all or none have robust metrics.

        Raises:
            BadInput: there are no points, or as `floor`.
        """
        if not points:
            raise BadInput("no points to pick an alpha from")
        metric, floor = self.metric, self.floor(points)
        kept = [p for p in points if p.robust is None or p.robust[metric] >= floor]
        best = max(kept, key=lambda point: (point.in_domain[metric], -point.alpha))
        reason = f"the best in-domain {metric}, {best.in_domain[metric]:.4f}, among "
        if best.robust is None:
            return Pick(best.alpha, f"{reason}all {len(points)} alphas")
        return Pick(
            best.alpha,
            f"{reason}the {len(kept)} of {len(points)} alphas whose robust {metric} is at least "
            f"{floor:.4f}, which is {100 * self.max_loss:g} % below the pre-trained model's",
        )


def parse_alphas(text: str) -> list[float]:
    """`0:1:0.25` (start, stop inclusive, step) or `0,0.5,1` to ascending numbers in [0, 1].

    Steps are counted in decimals, so that `0:1:0.1` is eleven alphas and the fourth is 0.3.

    Raises:
        BadInput: it is neither, an alpha is outside [0, 1], or there are more than `MAX_ALPHAS`.
    """
    if ":" in text:
        alphas = _steps(text, [_decimal(part, text) for part in text.split(":")])
    else:
        alphas = [_decimal(part, text) for part in text.split(",")]
    return sorted({check_alpha(float(alpha)) for alpha in alphas})


def _steps(text: str, numbers: list[Decimal]) -> list[Decimal]:
    if len(numbers) != 3:
        raise BadInput(f"alphas are {text!r}: a range is start:stop:step, such as 0:1:0.1")
    start, stop, step = numbers
    check_alpha(float(start))
    check_alpha(float(stop))
    if step <= 0 or start > stop:
        raise BadInput(f"alphas are {text!r}: go up from start to stop by a step above 0")
    if step * (MAX_ALPHAS - 1) < stop - start:
        raise BadInput(f"alphas are {text!r}: a range has at most {MAX_ALPHAS} of them")
    count = int((stop - start) // step) + 1
    return [start + number * step for number in range(count)]


def _decimal(part: str, text: str) -> Decimal:
    try:
        number = Decimal(part.strip())
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite():
        raise BadInput(
            f"alphas are {text!r}, and {part!r} is no number: write start:stop:step, such as "
            "0:1:0.1, or numbers with commas, such as 0,0.5,1"
        )
    return number
