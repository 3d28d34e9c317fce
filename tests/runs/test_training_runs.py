"""Whole runs: a small model on real pictures, in real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from docarray import DocList
from PIL import Image, ImageColor

import cliptune
from cliptune.callback import EvaluationCallback, WiSEFTCallback
from cliptune.documents import ClipDoc
from cliptune.errors import BadInput, NotFound, NotReady, RunFailed
from cliptune.runs import Run
from cliptune.runs.record import read_record, update_record
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e
LONG = 100_000


def small_fit(model: Path, docs: DocList[ClipDoc], **options: Any) -> Run:
    chosen = {"epochs": 2, "batch_size": 8, "device": "cpu", "num_workers": 1, **options}
    return cliptune.fit(str(model), docs, learning_rate=1e-3, **chosen)


def wait_for_epochs(run: Run, count: int) -> None:
    def reached() -> bool:
        assert not run.record().status.ended, run.logs()
        return len(run.history()) >= count

    wait_until(reached, 120, run.logs)


@pytest.fixture
def finished(tiny_model: Path, colour_docs: DocList[ClipDoc]) -> Run:
    evaluation = EvaluationCallback(query_data=colour_docs, limit=5, gather_examples=True)
    run = small_fit(
        tiny_model,
        colour_docs,
        eval_data=colour_docs,
        callbacks=[evaluation, {"name": "WiSEFTCallback", "alpha": 0.9}],
        run_name="whole",
        description="a test",
        to_onnx=True,
    )
    assert run.status()["status"] in ("CREATED", "STARTED"), "fit must not wait for the run"
    lines = list(run.stream_logs(interval=0.1))
    assert lines == run.logs().splitlines()
    assert run.status()["status"] == "FINISHED", run.logs()
    return run


def test_a_run_from_fit_to_search(
    finished: Run, colour_docs: DocList[ClipDoc], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished
    log = run.logs()
    assert "INFO     Done ✨" in log
    assert "  Training [2/2] ━━━━━━━━━━━━━━━━━━━━ 2/2 " in log
    assert " • loss: " in log
    assert " • val_loss: " in log
    assert "Metric: 'clip-text-to-clip-vision_precision_at_k' Value: 0." in log
    assert "Finetuning took 0 days, 0 hours 0 minutes and " in log

    # Seen by a process of another day.
    code = (
        "import cliptune, json; run = cliptune.get_run('whole');"
        "print(json.dumps([run.status(), run.metrics(), run.config, run.description]))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, metrics, config, description = json.loads(other.stdout)
    assert status == {"status": "FINISHED", "details": ""}
    assert metrics == run.metrics()
    assert description == "a test"
    assert config["options"]["epochs"] == 2
    assert [callback["name"] for callback in config["callbacks"]] == [
        "EvaluationCallback",
        "WiSEFTCallback",
    ]

    name = "clip-text-to-clip-vision_precision_at_k"
    assert set(metrics) == {"before", "after"}
    assert 0 <= metrics["before"][name] <= 1
    assert metrics["after"][name] != metrics["before"][name]
    assert [entry["epoch"] for entry in run.history()] == [1, 2]
    run.display_metrics()
    assert "precision_at_k" in capsys.readouterr().out
    examples = run.example_results()
    query = examples["after"]["clip-text-to-clip-vision"][0]
    assert query["text"] == "a red square"
    assert len(query["matches"]) == 5
    drawn = run.display_examples(k=3)
    assert "a red square" in capsys.readouterr().out
    assert drawn == run.folder / "examples.png"
    with Image.open(drawn) as sheet:
        seen = np.asarray(sheet.convert("RGB")).reshape(-1, 3)
    best = ImageColor.getrgb(query["matches"][0]["id"].split("-")[0])
    assert (seen == best).all(axis=1).sum() > 500  # the picture that was found

    artifact = run.save_artifact(tmp_path / "out")
    assert artifact == tmp_path / "out" / "whole.zip"
    assert "metadata.yml" in zipfile.ZipFile(artifact).namelist()
    text = cliptune.get_model(artifact, select_model="clip-text", device="cpu")
    vision = cliptune.get_model(artifact, select_model="clip-vision", device="cpu")
    docs = DocList[ClipDoc]([ClipDoc(text="a red square")])
    assert cliptune.encode(text, docs) is docs
    assert docs[0].embedding is not None
    assert docs[0].embedding.shape == (32,)
    onnx = cliptune.get_model(artifact, is_onnx=True)
    assert isinstance(onnx, cliptune.TwoTowers)
    mixed = DocList[ClipDoc]([ClipDoc(text="a red square"), ClipDoc(image=colour_docs[0].image)])
    cliptune.encode(onnx, mixed)
    expected = [docs[0].embedding, cliptune.encode(vision, [colour_docs[0].image])[0]]
    assert np.abs(np.stack([doc.embedding for doc in mixed]) - expected).max() < 1e-4
    by_id = cliptune.get_model(run.artifact_id, select_model="clip-text", device="cpu")
    assert np.array_equal(cliptune.encode(by_id, ["a red square"])[0], docs[0].embedding)

    with pytest.raises(NotReady, match="has finished"):
        run.resume()
    with pytest.raises(BadInput, match=r"model is 'RN50::random'.*is a fine-tuned '.*tiny"):
        cliptune.fit("RN50::random", colour_docs, model_artifact=run.artifact_id)
    again = small_fit(tiny_path(run), colour_docs, model_artifact=run.artifact_id, epochs=1)
    assert again.wait(120)["status"] == "FINISHED", again.logs()
    assert again.config["options"]["model"] == str(run.folder / "artifact")


def tiny_path(run: Run) -> Path:
    return Path(run.config["model"])


def test_a_killed_run_goes_on_to_the_same_result(
    tiny_model: Path, colour_docs: DocList[ClipDoc], monkeypatch: pytest.MonkeyPatch
) -> None:
    # OMP threads could add in another order; one thread makes the runs comparable bit by bit.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    whole = small_fit(tiny_model, colour_docs, epochs=25, run_name="whole")
    assert whole.wait(120)["status"] == "FINISHED", whole.logs()
    run = small_fit(tiny_model, colour_docs, epochs=25, run_name="cut")
    wait_for_epochs(run, 2)  # so that the checkpoint of the first is there
    mark = read_record(run.folder).process
    assert mark is not None
    os.kill(mark.pid, signal.SIGKILL)
    status = run.wait(20)
    assert status["status"] == "FAILED"
    assert "signal 9" in status["details"]
    with pytest.raises(RunFailed, match="signal 9"):
        run.save_artifact()
    assert len(run.history()) < 25, "it was to be killed on the way"
    run.resume()
    assert run.wait(120)["status"] == "FINISHED", run.logs()
    assert "resumed in epoch" in run.logs()
    losses = [entry["loss"] for entry in run.history()]
    assert losses == [entry["loss"] for entry in whole.history()]
    resumed, uninterrupted = (
        cliptune.get_model(r.artifact_id, select_model="clip-text") for r in (run, whole)
    )
    assert resumed.digest == uninterrupted.digest


def test_a_cancelled_run_leaves_a_checkpoint(
    tiny_model: Path, colour_docs: DocList[ClipDoc]
) -> None:
    run = small_fit(tiny_model, colour_docs, epochs=LONG)
    wait_for_epochs(run, 1)
    assert run.status()["details"].startswith("Training [")
    with pytest.raises(NotReady, match="STARTED"):
        run.metrics()
    begin = time.monotonic()
    status = run.cancel()
    assert time.monotonic() - begin < 10
    assert status["status"] == "CANCELLED"
    assert "checkpoint" in status["details"]
    assert len(list((run.folder / "checkpoints").glob("epoch-*"))) == 1
    assert "WARNING  CANCELLED" in run.logs()
    assert read_record(run.folder).exit in ("exit status 0", None)
    done = len(run.history())
    run.resume()
    wait_for_epochs(run, done + 1)
    cliptune.delete_run(run.name)
    assert not run.folder.exists()


def test_an_error_is_one_line_and_its_traceback_in_the_log_only_if_it_is_a_surprise(
    tiny_model: Path, colour_docs: DocList[ClipDoc]
) -> None:
    same = DocList[ClipDoc]([ClipDoc(text="same", image=doc.image) for doc in colour_docs])
    run = small_fit(tiny_model, same)
    status = run.wait(60)
    assert status["status"] == "FAILED"
    assert "same label" in status["details"]
    assert "\n" not in status["details"]
    assert f"ERROR    FAILED: {status['details']}" in run.logs()
    assert "Traceback" not in run.logs(), "it says what is wrong with the data, and that is enough"

    update_record(run.folder, lambda record: {"config": {}})
    status = run.resume().wait(60)
    assert status["status"] == "FAILED"
    assert "KeyError" in status["details"]
    assert "\n" not in status["details"]
    assert f"ERROR    FAILED: {status['details']}" in run.logs()
    assert "Traceback (most recent call last):" in run.logs()


def test_a_table_is_read_when_fit_is_called(
    tiny_model: Path, colour_docs: DocList[ClipDoc], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ["title,file"]
    for number, doc in enumerate(colour_docs):
        (tmp_path / f"{number}.png").write_bytes(doc.image or b"")
        rows.append(f"{doc.text},{number}.png")
    table = tmp_path / "products.csv"
    table.write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    columns = {"text_column": "title", "image_column": "file"}
    run = small_fit(
        tiny_model,
        "products.csv",  # type: ignore[arg-type]
        csv_options=columns,
        callbacks=[EvaluationCallback(query_data=Path("products.csv"))],
        epochs=1,
    )
    table.unlink()  # neither an edited nor a removed table changes a run under way
    assert run.wait(60)["status"] == "FINISHED", run.logs()
    assert "16 training pairs" in run.logs()
    assert run.config["train_data"]["source"] == "products.csv"


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"loss": "CLIPLos"}, BadInput, "'CLIPLoss'"),
        ({"optimizer": "Adamm"}, BadInput, "'Adam'"),
        ({"scheduler": "cosinus"}, BadInput, "'cosine'"),
        ({"epochs": -1}, BadInput, "epochs is -1"),
        ({"batch_size": 1}, BadInput, "batch_size is 1"),
        ({"device": "cudda"}, BadInput, "'cudda'"),
        ({"optimizer_options": {"momentun": 1}}, BadInput, "momentun"),
        ({"sead": 1}, BadInput, "'seed'"),
        ({"callbacks": ["EvaluationCalback"]}, BadInput, "'EvaluationCallback'"),
        ({"callbacks": [{"name": "WiSEFTCallback", "alpha": 2}]}, BadInput, "alpha"),
        ({"callbacks": WiSEFTCallback()}, BadInput, "give a list"),
        ({"callbacks": [3]}, BadInput, "3 is not a callback"),
        ({"callbacks": [EvaluationCallback(query_data="nowhere")]}, NotFound, "'nowhere'"),
        ({"eval_data": "nowhere.csv"}, NotFound, "nowhere.csv"),
        ({"csv_options": {"txt_column": "x"}, "eval_data": __file__}, BadInput, "'text_column'"),
        ({"model_artifact": "nothing/there"}, NotFound, "nothing/there"),
        ({"run_name": "a/b"}, BadInput, "'a/b'"),
        ({"experiment_name": ".."}, BadInput, r"'\.\.'"),
        ({"miner": "TripletMarginMiner"}, BadInput, "TripletMarginMiner"),
        ({"output_dim": 64}, BadInput, "output_dim is 64"),
        ({"sampler": "class"}, BadInput, "'class'"),
        ({"model_options": {"a": 1}}, BadInput, "model_options"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_wrong_is_said_at_once_and_leaves_nothing(
    tiny_model: Path,
    colour_docs: DocList[ClipDoc],
    wrong: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        small_fit(tiny_model, colour_docs, **wrong)
    assert cliptune.list_runs() == []


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("buildin", "'builtin'"),
        ("ViT-B-32", "'openai'|openai"),
        ("ViT-B-32::openia", "'openai'"),
        ("local-dir:/nowhere", "nowhere"),
    ],
)
def test_an_unknown_model_is_said_at_once(
    colour_docs: DocList[ClipDoc], model: str, words: str
) -> None:
    with pytest.raises(NotFound, match=words):
        cliptune.fit(model, colour_docs)
    assert cliptune.list_runs() == []


def test_data_without_pictures_is_refused_at_once(tiny_model: Path) -> None:
    docs = DocList[ClipDoc]([ClipDoc(text="a"), ClipDoc(text="b")])
    with pytest.raises(cliptune.errors.BadData, match="picture"):
        small_fit(tiny_model, docs)
    assert cliptune.list_runs() == []
