"""What a list of runs says of each: when, how long, of what, and its best metric."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cliptune import runs
from cliptune.cli.app import app
from cliptune.errors import NotFound, NotReady
from cliptune.runs.record import Status, update_record
from cliptune.runs.run import Run

RR = "clip-text-to-clip-vision_reciprocal_rank"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPTUNE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "250")
    return tmp_path


def make(name: str, metrics: dict, data: dict | None = None) -> Run:
    config = {"options": {"model": "clip-base-en"}, "train_data": data or {"name": "shop"}}
    run = runs.create_run(config, {}, name)
    update_record(
        run.folder,
        lambda _: {
            "status": Status.FINISHED,
            "details": "",
            "starts": 1,
            "created": "2026-03-01T10:00:00.000000+00:00",
            "started": "2026-03-01T10:00:05.000000+00:00",
            "ended": "2026-03-01T11:02:10.000000+00:00",
        },
    )
    (run.folder / "metrics.json").write_text(json.dumps(metrics))
    return run


def epoch(number: int, **values: object) -> dict:
    return {"epoch": number, "loss": 3.0 - number / 10, **values}


@pytest.mark.parametrize(
    ("metrics", "best"),
    [
        ({"epochs": []}, (None, None, None)),
        ({"epochs": [epoch(1), epoch(2)]}, ("loss", 2.8, 2)),
        ({"epochs": [epoch(1, val_loss=1.0), epoch(2, val_loss=1.5)]}, ("val_loss", 1.0, 1)),
        (
            {"epochs": [epoch(1, metrics={"a": 9, RR: 0.5}), epoch(2, metrics={"a": 1, RR: 0.4})]},
            (RR, 0.5, 1),
        ),
        ({"epochs": [epoch(1, metrics={RR: 0.5})], "after": {RR: 0.6}}, (RR, 0.6, None)),
        ({"epochs": [epoch(1, metrics={"own": 0.5})]}, ("own", 0.5, 1)),
    ],
)
def test_the_best_metric(metrics: dict, best: tuple) -> None:
    found = make("one", metrics).summary()
    assert (found.metric, found.value, found.epoch) == best
    assert (found.seconds, found.model, found.data) == (3725, "clip-base-en", "shop")


def test_the_list_and_deleting(home: Path) -> None:
    make("otter", {"epochs": [epoch(1)], "after": {RR: 0.6123}})
    make("fox", {"epochs": []}, {"stored": "train_data", "documents": 70, "source": "/a/b [x].csv"})
    runs.create_run({}, {}, "newest")
    shown = CliRunner().invoke(app, ["runs"]).output
    for words in (
        "2026-03-01",
        "1:02:05",
        "clip-base-en",
        "b [x].csv (70)",
        "reciprocal_rank 0.61",
    ):
        assert words in shown
    rows = json.loads(CliRunner().invoke(app, ["runs", "--json"]).stdout)
    assert rows[0]["name"] == "newest"
    assert {row["name"] for row in rows} == {"newest", "fox", "otter"}
    assert {"created", "seconds", "status", "details", "experiment"} <= set(rows[0])

    result = CliRunner().invoke(app, ["runs", "delete", "fox", "otter"], input="n\n")
    assert isinstance(result.exception, NotReady)
    result = CliRunner().invoke(app, ["runs", "delete", "fox", "nobody", "--yes"])
    assert isinstance(result.exception, NotFound)
    assert len(runs.list_runs()) == 3
    result = CliRunner().invoke(app, ["runs", "delete", "fox", "otter", "--yes"])
    assert "run fox deleted" in result.output
    assert [run.name for run in runs.list_runs()] == ["newest"]


def test_the_version_and_a_mistyped_command() -> None:
    import cliptune

    result = CliRunner().invoke(app, ["--version"])
    assert result.output == f"cliptune {cliptune.__version__}\n"
    result = CliRunner().invoke(app, ["index", "statsu"])
    assert "did you mean `cliptune index status`" in str(result.exception)
