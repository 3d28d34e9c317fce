"""Calibration: which cosine means with which probability that a result is right.

**Of what.** Of a result that is shown: a document among the best k that a query finds. Pairs of a
query and any document would be a thousand wrong ones to each right one, nearly all of them easy to
tell; what is shown is what a search found most like it, so its wrong ones are hard. It is these
that a cut-off is to leave out, and among these that "relevant with probability 0.5" holds here.

**How.** By logistic regression on the cosine (Platt, "Probabilistic outputs for support vector
machines", 1999, with his targets, by Newton's method as Lin, Lin and Weng, 2007). Contrastive
training makes the log-odds of a pair linear in its cosine (softmax and sigmoid alike: logit scale
times cosine, plus a bias), which is this curve; two numbers are well determined by the few hundred
right results that an evaluation has, where isotonic regression wants thousands (Niculescu-Mizil and
Caruana, ICML 2005); and the curve rises strictly, so that each probability is one cosine.

**How well.** By cross-validation: the queries are divided into folds, and the results of each are
given probabilities by a curve of the others'. The expected calibration error is the mean over
bins of equal width, weighted by their results, of how far the share of right ones is from the mean
probability (Naeini, Cooper and Hauskrecht, AAAI 2015).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cliptune.errors import BadData
from cliptune.evaluation.retrieval import Evaluation
from cliptune.models.calibration import Calibration, cosine_of

FOLDS = 5
BINS = 10
LEAST = 30
"""Right results, and wrong ones, that a curve can be made of."""
CUTS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Values of `min_relevance` that people are told of."""
_Z = 1.959964
"""Of 95 % intervals."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """The results whose probability, held out, is in one tenth."""

    count: int
    predicted: float
    """The mean of their probabilities."""
    observed: float
    """The share of right ones."""
    low: float
    """Of its 95 % interval (Wilson)."""
    high: float


@dataclass(frozen=True)
class Cut:
    """What `min_relevance` does to the results that were evaluated, by held-out probabilities."""

    min_relevance: float
    cosine: float
    """The least that is shown then."""
    shown: float
    """The part of the results that is still shown."""
    right: float | None
    """The part of those that is right; None: none is shown."""
    kept: float
    """The part of the right results that is still shown."""
    answered: float
    """The part of the queries for which something is still shown."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """A calibration, and how it did on queries that it was not made of."""

    calibration: Calibration
    bins: list[Bin]
    """By rising probability; empty ones are left out."""
    cuts: list[Cut]


def calibrate(evaluation: Evaluation, *, seed: int = 0) -> Reliability:
    """Fit the curve to an evaluation of texts that search pictures.

    Args:
        evaluation: with cosines as scores; all its results count, those of queries without a right
            answer too.
        seed: of the folds.

    Raises:
        BadData: too few results are right, or wrong; or right ones have no higher cosines.
    """
    filled = evaluation.ids >= 0
    cosines = evaluation.scores[filled].astype(np.float64)
    hits = evaluation.hits[filled]
    of_query = np.repeat(np.arange(len(filled)), filled.sum(axis=1))
    slope, intercept = fit_logistic(cosines, hits)
    folds = np.random.default_rng(seed).permutation(len(filled))[of_query] % FOLDS
    held_out = np.empty(len(cosines))
    for fold in range(FOLDS):
        own = folds == fold
        if own.any():
            a, b = fit_logistic(cosines[~own], hits[~own], least=1)
            held_out[own] = _logistic(a * cosines[own] + b)
    bins, error = reliability(held_out, hits)
    calibration = Calibration(
        slope=slope,
        intercept=intercept,
        limit=evaluation.limit,
        queries=evaluation.n_queries,
        index=evaluation.n_index,
        results=len(cosines),
        relevant=int(hits.sum()),
        error=error,
    )
    cuts = [_cut(calibration, p, held_out, hits, of_query) for p in CUTS]
    return Reliability(calibration, bins, cuts)


def fit_logistic(
    cosines: Floats, hits: NDArray[np.bool_], *, least: int = LEAST
) -> tuple[float, float]:
    """Slope and intercept of the logistic curve nearest to `hits` [R] by maximum likelihood.

    Platt's targets, (n + 1) / (n + 2) of n right results and 1 / (m + 2) of m wrong ones, keep it
    finite where a cosine divides them.

    Raises:
        BadData: fewer than `least` are right, or wrong; or the slope isn't above 0.
    """
    n_right, n_wrong = int(hits.sum()), int((~hits).sum())
    if min(n_right, n_wrong) < least:
        raise BadData(
            f"{n_right} of {len(hits)} results are right: to say what a cosine means takes {least} "
            f"right and {least} wrong ones at least; evaluate with more queries"
        )
    targets = np.where(hits, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))
    # In units of their spread, so that the steps are well conditioned.
    centre, spread = cosines.mean(), cosines.std() or 1.0
    x = np.stack([(cosines - centre) / spread, np.ones(len(cosines))], axis=1)
    w = np.array([0.0, np.log((n_right + 1) / (n_wrong + 1))])
    loss = _loss(x @ w, targets)
    for _ in range(100):
        p = _logistic(x @ w)
        gradient = x.T @ (p - targets)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-12 * np.eye(2)
        step, size = np.linalg.solve(hessian, gradient), 1.0
        while (new := _loss(x @ (w - size * step), targets)) > loss and size > 1e-10:
            size /= 2
        w, gained, loss = w - size * step, loss - new, new
        if gained <= 1e-12 * len(cosines):
            break
    slope = float(w[0] / spread)
    if not slope > 0:
        raise BadData(
            "right results have no higher cosines than wrong ones: a cosine says nothing of them"
        )
    return slope, float(w[1] - slope * centre)


def reliability(probabilities: Floats, hits: NDArray[np.bool_]) -> tuple[list[Bin], float]:
    """The bins of equal width, and the expected calibration error."""
    places = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    bins, error = [], 0.0
    for place in range(BINS):
        own = places == place
        if not (count := int(own.sum())):
            continue
        predicted, observed = float(probabilities[own].mean()), float(hits[own].mean())
        bins.append(Bin(count, predicted, observed, *_wilson(observed, count)))
        error += count / len(hits) * abs(predicted - observed)
    return bins, error


def _cut(
    calibration: Calibration,
    least: float,
    probabilities: Floats,
    hits: NDArray[np.bool_],
    of_query: NDArray[np.int64],
) -> Cut:
    shown = probabilities >= least
    return Cut(
        min_relevance=least,
        cosine=cosine_of(calibration.curve, least),
        shown=float(shown.mean()),
        right=float(hits[shown].mean()) if shown.any() else None,
        kept=float((hits & shown).sum() / hits.sum()),
        answered=len(np.unique(of_query[shown])) / calibration.queries,
    )


def _logistic(logits: Floats) -> Floats:
    values: Floats = np.exp(-np.logaddexp(0.0, -logits))
    return values


def _loss(logits: Floats, targets: Floats) -> float:
    """Minus the log-likelihood."""
    return float((np.logaddexp(0.0, logits) - targets * logits).sum())


def _wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927)."""
    denominator = 1 + _Z**2 / count
    centre = (share + _Z**2 / (2 * count)) / denominator
    half = _Z * np.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2)) / denominator
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))
