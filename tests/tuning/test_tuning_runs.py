"""Whole searches: a tiny model, in real processes, that are killed."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path

import optuna
import pytest
from docarray import DocList
from PIL import Image

import cliptune
from cliptune.data.division import divide
from cliptune.data.equivalence import KeyedDocs
from cliptune.documents import ClipDoc
from cliptune.errors import BadInput
from cliptune.evaluation.retrieval import evaluate
from cliptune.inference import get_tower
from cliptune.models.tokenizers import clip_keys
from cliptune.runs import Run
from cliptune.runs.record import read_record
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e
COLOURS = ("red", "green", "blue", "yellow", "black", "white", "purple", "orange")


@pytest.fixture
def products() -> DocList[ClipDoc]:
    """Each colour on each other one."""
    docs = DocList[ClipDoc]()
    for inner in COLOURS:
        for outer in COLOURS:
            if inner != outer:
                picture = Image.new("RGB", (32, 32), outer)
                picture.paste(Image.new("RGB", (20, 20), inner), (6, 6))
                data = io.BytesIO()
                picture.save(data, "PNG")
                text = f"a {inner} square on {outer}"
                docs.append(ClipDoc(id=f"{inner}-{outer}", text=text, image=data.getvalue()))
    return docs


def search(model: Path, docs: DocList[ClipDoc], trials: int, **options: object) -> Run:
    asked = {"minutes": 60, "max_trials": trials, "validation": 0.3, "test": 0.3, "limit": 5}
    return cliptune.fit(
        str(model), docs, tune=asked, epochs=4, learning_rate=1e-3, device="cpu", num_workers=1,
        **options,
    )  # fmt: skip


def trials_of(run: Run) -> list[tuple[object, ...]]:
    study = optuna.load_study(
        study_name="cliptune", storage=f"sqlite:///{run.folder / 'tune' / 'study.db'}"
    )
    return [
        (t.number, str(t.state), t.value, t.params, t.intermediate_values) for t in study.trials
    ]


def test_a_search_that_is_killed_goes_on_as_it_would_have(
    tiny_model: Path, products: DocList[ClipDoc]
) -> None:
    killed = search(tiny_model, products, 3, run_name="killed")
    for _ in range(2):
        # In the middle of a trial: it has a checkpoint, and has not ended.
        wait_until(
            lambda: any((killed.folder / "tune").glob("trials/*/checkpoints/*")), 120, killed.logs
        )
        mark = read_record(killed.folder).process
        assert mark is not None
        os.kill(mark.pid, signal.SIGKILL)
        assert killed.wait(60)["status"] == "FAILED"
        killed.resume()
    whole = search(tiny_model, products, 3, run_name="whole")
    assert whole.wait(300)["status"] == "FINISHED", whole.logs()
    expected = trials_of(whole)
    assert killed.wait(300)["status"] == "FINISHED", killed.logs()
    assert trials_of(killed) == expected
    assert len(expected) == 3
    first, second = (run.metrics()["after"] for run in (whole, killed))
    assert first == second

    # The figures are the artifact's, on the part that no choice saw: told again by `evaluate`.
    parts = divide(KeyedDocs.of(products, clip_keys()), (0.3, 0.3), 42)
    test = DocList[ClipDoc]([products[row] for row in parts[2]])
    towers = [get_tower(whole.artifact_folder, name) for name in ("clip-text", "clip-vision")]
    again = evaluate(*towers, test, limit=5).metrics
    for name, value in again.items():
        assert first[f"clip-text-to-clip-vision_{name}"] == pytest.approx(value, abs=1e-6)
    record = json.loads((whole.folder / "tune" / "tune.json").read_text())
    assert list(record["sizes"].values()) == [len(part) for part in parts]
    changed = record["over_before"]["reciprocal_rank"]
    assert changed["after"]["mean"] == pytest.approx(
        first["clip-text-to-clip-vision_reciprocal_rank"]
    )
    assert (whole.folder / "tune" / "report.html").is_file()
    kept = sorted(path.name for path in (whole.folder / "tune" / "trials").glob("*/artifact"))
    assert kept, "models that the soup was made of stay"
    assert not list((whole.folder / "tune").glob("trials/*/checkpoints"))
    assert not list((whole.folder / "tune").glob("trials/*/best-model"))


def test_a_refit_is_mixed_and_measured_too(tiny_model: Path, products: DocList[ClipDoc]) -> None:
    other = DocList[ClipDoc]([doc.model_copy(update={"id": f"{doc.id}-2"}) for doc in products])
    asked = {"max_trials": 1, "validation": 0.3, "test": 0.3, "limit": 5, "refit": True}
    run = cliptune.fit(
        str(tiny_model), products, tune=asked, robust_data=other, epochs=1, batch_size=8,
        learning_rate=1e-3, device="cpu", num_workers=1,
    )  # fmt: skip
    assert run.wait(300)["status"] == "FINISHED", run.logs()
    log = run.logs()
    assert "Refit: " in log
    record = json.loads((run.folder / "tune" / "tune.json").read_text())
    size = record["sizes"]
    assert f"Refit: {size['train'] + size['validation']} training pairs" in log
    assert "as given, and not varied: batch_size, device, epochs" in log
    assert "alphas whose robust reciprocal_rank is at least" in log
    assert not list((run.folder / "tune" / "refit").glob("checkpoints/*")), "it is not needed now"


def test_what_a_search_does_by_itself_is_refused(
    tiny_model: Path, products: DocList[ClipDoc]
) -> None:
    for options, words in (
        ({"eval_data": products}, "holds out its own parts"),
        ({"callbacks": ["BestModelCheckpoint"]}, "callbacks"),
        ({"num_processes": 2}, "num_processes is 2"),
    ):
        with pytest.raises(BadInput, match=words):
            search(tiny_model, products, 1, **options)
    with pytest.raises(BadInput, match="give it with tune"):
        cliptune.fit(str(tiny_model), products, robust_data=products)
