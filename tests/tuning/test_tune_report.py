"""The page and the plots of a search, from figures that are known."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution
from PIL import Image

from cliptune.evaluation.bootstrap import compare_means
from cliptune.tuning.report import TuneResult, write_report
from cliptune.tuning.search import TrialResult
from cliptune.tuning.space import Axis

AXES = [
    Axis("learning_rate_factor", 1.0, FloatDistribution(1 / 8, 8, log=True)),
    Axis("trained", "all", CategoricalDistribution(["all", "lora"])),
]


def found(gain: float = 0.1) -> TuneResult:
    random = np.random.default_rng(0)
    before = {"reciprocal_rank": random.random(200)}
    after = {"reciprocal_rank": before["reciprocal_rank"] + gain + 0.05 * random.normal(size=200)}
    changes = compare_means(before, after)
    results = [
        TrialResult(0, "complete", 0.2, {"learning_rate_factor": 1.0, "trained": "all"}, 60, 5),
        TrialResult(
            1,
            "pruned",
            0.1,
            {"learning_rate_factor": 7.0, "trained": "lora"},
            20,
            None,
            "it <lags>",
        ),
        TrialResult(2, "complete", 0.3, {"learning_rate_factor": 2.5, "trained": "all"}, 70, 4),
        TrialResult(
            3, "failed", None, {"learning_rate_factor": 8.0, "trained": "all"}, 5, None, "nan"
        ),
    ]
    return TuneResult(
        results=results, axes=AXES, metric="reciprocal_rank", limit=20, members=[2, 0], soup=0.31,
        alpha=0.9, refitted=False, over_before=changes, over_defaults=changes,
        importance={"learning_rate_factor": 0.8, "trained": 0.2},
        sizes={"train": 70, "validation": 15, "test": 15},
        counts={"n_queries": 200, "n_index": 200},
        minutes=155 / 60,
    )  # fmt: skip


def test_the_page_tells_the_figures_and_escapes_text(tmp_path: Path) -> None:
    one = found()
    page = write_report(one, "<b>run</b>", tmp_path).read_text()
    change = one.over_before["reciprocal_rank"]
    assert f"{change.before.mean:.3f} → {change.after.mean:.3f}" in page
    assert f"{change.difference.low:+.3f} to {change.difference.high:+.3f}" in page
    assert "<b>run</b>" not in page
    assert "it &lt;lags&gt;" in page
    assert page.count("<svg") == 2
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")
    with Image.open(io.BytesIO((tmp_path / "trials.png").read_bytes())) as picture:
        assert np.asarray(picture.convert("L")).std() > 5, "something is drawn"


def test_the_summary_and_its_warning() -> None:
    words = " ".join(found().summary())
    assert "4 trials in 3 minutes: 2 complete, 1 given up, 1 failed" in words
    assert "the average of trials 3 and 1, alpha 0.9" in words
    assert found().warning() == ""
    assert "finds less than the one before" in found(-0.1).warning()
    assert "no certain difference" in " ".join(found(0.0).summary())
    json.dumps(found().to_json())
