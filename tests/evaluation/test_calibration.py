"""What cosines mean: the curve against scikit-learn's, and against results drawn by a curve."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from cliptune.errors import BadArtifact, BadData
from cliptune.evaluation.calibration import CUTS, calibrate, fit_logistic, reliability
from cliptune.evaluation.retrieval import Evaluation, evaluate_embeddings
from cliptune.models.artifact import CALIBRATION, open_artifact
from cliptune.models.artifact_writer import add_calibration, write_artifact
from cliptune.models.calibration import Calibration, cosine_of, relevance
from cliptune.models.loading import load_model

SLOPE, INTERCEPT = 25.0, -8.0


def drawn(count: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Cosines of results, and whether they are right by the curve above."""
    draw = np.random.default_rng(seed)
    cosines = draw.normal(0.25, 0.08, count)
    return cosines, draw.random(count) < 1 / (1 + np.exp(-(SLOPE * cosines + INTERCEPT)))


def evaluation(queries: int = 400, limit: int = 10) -> Evaluation:
    """Of queries whose results are right by the curve."""
    cosines = drawn(queries * limit)[0]
    shape = (queries, limit)
    scores = -np.sort(-cosines.reshape(shape), axis=1).astype(np.float32)
    right = np.random.default_rng(1).random(shape) < 1 / (1 + np.exp(-(SLOPE * scores + INTERCEPT)))
    base = evaluate_embeddings(np.eye(4), list("abcd"), np.eye(4), list("abcd"), limit=4)
    ids = np.tile(np.arange(limit), (queries, 1))
    return replace(
        base, n_queries=queries, n_index=1000, limit=limit, ids=ids, scores=scores, hits=right
    )


def test_the_curve_is_that_of_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    for count in (200, 5000):
        cosines, hits = drawn(count)
        n_right, n_wrong = hits.sum(), (~hits).sum()
        soft = np.where(hits, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))
        # A result of target t is t of a right one and 1 - t of a wrong one.
        twice, right = np.tile(cosines, 2)[:, None], np.repeat([True, False], count)
        theirs = linear_model.LogisticRegression(C=1e12, tol=1e-10, max_iter=10_000)
        theirs.fit(twice, right, sample_weight=np.concatenate([soft, 1 - soft]))
        ours = fit_logistic(cosines, hits)
        assert ours == pytest.approx((theirs.coef_[0, 0], theirs.intercept_[0]), rel=1e-3)


def test_a_curve_that_results_were_drawn_by_is_found_again() -> None:
    slope, intercept = fit_logistic(*drawn(200_000))
    assert slope == pytest.approx(SLOPE, rel=0.03)
    assert intercept == pytest.approx(INTERCEPT, rel=0.03)
    measured = calibrate(evaluation())
    assert measured.calibration.error < 0.02
    assert (measured.calibration.results, measured.calibration.limit) == (4000, 10)
    [half] = [cut for cut in measured.cuts if cut.min_relevance == 0.5]
    assert half.cosine == pytest.approx(-INTERCEPT / SLOPE, abs=0.01)
    assert 0.5 < (half.right or 0) < 1
    assert [cut.kept for cut in measured.cuts] == sorted(
        (cut.kept for cut in measured.cuts), reverse=True
    )
    assert tuple(cut.min_relevance for cut in measured.cuts) == CUTS


def test_cosines_that_divide_right_from_wrong_give_a_finite_curve() -> None:
    cosines = np.concatenate([np.full(40, 0.1), np.full(60, 0.4)])
    slope, intercept = fit_logistic(cosines, cosines > 0.2)
    low, high = (relevance([slope, intercept], one) for one in (0.1, 0.4))
    assert (low, high) == pytest.approx((1 / 42, 61 / 62), abs=1e-6)  # Platt's targets


def test_the_error_is_the_mean_distance_of_bins() -> None:
    draw = np.random.default_rng(2)
    said = draw.random(5000)
    hits = draw.random(5000) < said**2  # too sure of itself
    bins, error = reliability(said, hits)
    expected = 0.0
    for low in np.arange(10) / 10:
        own = (said >= low) & (said < low + 0.1)
        expected += abs(said[own].sum() - hits[own].sum()) / 5000
    assert error == pytest.approx(expected, abs=1e-3)
    assert sum(one.count for one in bins) == 5000
    assert all(one.low <= one.observed <= one.high for one in bins)
    assert reliability(said, draw.random(5000) < said)[1] < 0.02
    assert len(reliability(np.ones(3), np.ones(3, dtype=bool))[0]) == 1


def test_a_probability_is_one_cosine() -> None:
    curve = [SLOPE, INTERCEPT]
    for p in (0.001, 0.25, 0.5, 0.999):
        assert relevance(curve, cosine_of(curve, p)) == pytest.approx(p)
    assert (cosine_of(curve, 0), cosine_of(curve, 1)) == (-math.inf, math.inf)
    assert relevance([1e6, 0.0], -1) == 0
    assert relevance([1e6, 0.0], 1) == 1


def test_results_that_say_nothing_are_refused() -> None:
    cosines, hits = drawn(2000)
    with pytest.raises(BadData, match=r"29 of 100 results are right: .* 30 right and 30 wrong"):
        fit_logistic(cosines[:100], np.arange(100) < 29)
    with pytest.raises(BadData, match="right results have no higher cosines"):
        fit_logistic(-cosines, hits)


def test_an_artifact_keeps_it_and_another_digest_does_not_come_of_it(
    tiny_model: Path, tmp_path: Path
) -> None:
    calibration = calibrate(evaluation()).calibration
    plain = write_artifact(load_model(tiny_model), tmp_path / "plain")
    assert plain.calibration is None
    made = add_calibration(plain, tmp_path / "made", calibration)
    assert made.calibration == calibration
    assert made.digest == plain.digest
    # What keeps a copy of a model for a swap takes it over, and a later one too.
    assert made.has_more_than(plain)
    assert not plain.has_more_than(made)
    again = add_calibration(made, tmp_path / "again", replace(calibration, slope=30.0))
    assert again.has_more_than(made)
    assert not open_artifact(tmp_path / "made").has_more_than(made)
    for wrong in ({"slope": -1.0}, {"slope": "steep"}, {"intercept": math.inf}):
        values = {**asdict(calibration), **wrong}
        (made.path / CALIBRATION).write_text(yaml.safe_dump(values))
        with pytest.raises(BadArtifact, match=r"calibration\.yml can't be understood"):
            _ = made.calibration
    with pytest.raises(BadArtifact):
        Calibration.parse(None)
