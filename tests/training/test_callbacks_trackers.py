"""What the trackers write, read back from their files by other readers than their writers."""

from __future__ import annotations

import json
import os
import struct
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cliptune.training import Cancelled, train
from cliptune.training.callbacks import (
    Callback,
    Callbacks,
    EvaluationCallback,
    MLflowLogger,
    TensorBoardLogger,
    WandBLogger,
)
from cliptune.training.state import Training, list_checkpoints
from tests.training.test_callbacks import METRIC, a_training, end_epoch, resumed, two_steps
from tests.training.test_loop import Recorder, squares
from tests.waiting import wait_until

pytest.importorskip("accelerate", reason="needs cliptune[trackers]")

Series = dict[str, list[tuple[int, float]]]

TOLD: Series = {
    f"epoch/{METRIC}": [(0, 0.25), (3, 0.5), (6, 0.75)],
    "epoch/loss": [(3, 3.5), (6, 2.5)],
    "epoch/val_loss": [(3, 3.25), (6, 2.25)],
    "train/loss": [(2, 4.0), (4, 3.0), (6, 2.0)],
    "train/learning_rate": [(2, 0.5), (4, 0.25), (6, 0.125)],
    f"after/{METRIC}": [(6, 0.875)],
}
"""What `drive` makes a logger with `log_every=2` tell."""


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No account and no settings of whoever runs the tests, and no traces in this process."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_ERROR_REPORTING", "WANDB_SILENT", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))


def steps(training: Training, hooks: Callbacks, until: int) -> None:
    """The loop's steps; the figures are powers of two, which all files hold exactly."""
    while training.global_step < until:
        training.global_step += 1
        training.last_loss = 5 - training.global_step / 2
        training.learning_rate = 0.5 ** (training.global_step / 2)
        hooks.call("on_step_end", training)


def close(training: Training, hooks: Callbacks, error: BaseException | None = None) -> None:
    """The loop's `finally`."""
    try:
        if error is not None:
            raise error
    except BaseException:
        hooks.call("on_close", training)
    else:
        hooks.call("on_close", training)


def new_second() -> None:
    """Wait: TensorBoard's files are read in the order of the seconds in their names."""
    began = int(time.time())
    wait_until(lambda: int(time.time()) > began)


def drive(logger: Callback, run_dir: Path, interrupted_by: BaseException | None = None) -> Training:
    """Two epochs of three steps, interrupted after the first one's checkpoint if so asked."""
    training = a_training(run_dir)
    training.position.before = {METRIC: 0.25}
    training.position.batch_size = 64
    hooks = Callbacks([logger])
    hooks.call("on_train_begin", training)
    steps(training, hooks, 3)
    end_epoch(training, hooks, loss=3.5, val_loss=3.25, **{METRIC: 0.5})
    if interrupted_by is not None:
        at_checkpoint = resumed(training)
        steps(training, hooks, 5)  # lost, and to be done again
        close(training, hooks, interrupted_by)
        assert_no_warning(training)
        new_second()
        training, hooks = at_checkpoint, Callbacks([type(logger)(**logger.model_dump())])
        hooks.call("on_train_begin", training)
    steps(training, hooks, 6)
    end_epoch(training, hooks, loss=2.5, val_loss=2.25, **{METRIC: 0.75})
    training.after = {METRIC: 0.875}
    hooks.call("on_finish", training)
    close(training, hooks)
    assert_no_warning(training)
    return training


def assert_no_warning(training: Training) -> None:
    assert isinstance(training.logger, Recorder)
    assert not [line for line in training.logger.lines if line.startswith("WARNING")]


def read_tensorboard(folder: Path) -> Series:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


@pytest.mark.parametrize("interrupted_by", [None, Cancelled()])
def test_tensorboard(tmp_path: Path, interrupted_by: BaseException | None) -> None:
    run_dir = tmp_path / "brave-otter"
    drive(TensorBoardLogger(log_every=2), run_dir, interrupted_by)
    assert read_tensorboard(run_dir / "tensorboard" / "brave-otter") == TOLD
    [options] = (run_dir / "tensorboard").rglob("hparams.yml")
    assert "batch_size: 64" in options.read_text().splitlines()


def test_tensorboard_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    logger = TensorBoardLogger(logging_dir="logs", log_every=2)
    assert logger.logging_dir == tmp_path / "logs"  # whatever folder the run's process is in
    drive(logger, tmp_path / "runs" / "brave-otter")
    assert read_tensorboard(tmp_path / "logs" / "brave-otter") == TOLD


@pytest.mark.parametrize(
    ("error", "status"), [(None, ""), (Cancelled(), "KILLED"), (ValueError("x"), "FAILED")]
)
def test_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException | None, status: str
) -> None:
    from mlflow.tracking import MlflowClient

    run_dir = tmp_path / "brave-otter"
    client = MlflowClient((run_dir / "mlflow").as_uri())
    seen: list[str] = []
    begin = Callbacks.call

    def watch(hooks: Callbacks, hook: str, training: Training) -> None:
        begin(hooks, hook, training)
        if hook == "on_close":
            run_id = training.position.callbacks["MLflowLogger"]["run_id"]
            seen.append(client.get_run(run_id).info.status)

    monkeypatch.setattr(Callbacks, "call", watch)
    drive(MLflowLogger(log_every=2, experiment="shop"), run_dir, error)
    assert seen == [*([status] if error else []), "FINISHED"]
    experiment = client.get_experiment_by_name("shop")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "brave-otter"
    assert run.data.params["batch_size"] == "64"
    assert run.data.params["model"] == "builtin"
    told = {
        name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    # A step that was done again is there twice, with the same figures.
    assert {name: sorted(set(points)) for name, points in told.items()} == TOLD


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format, 32 KiB blocks, after a 7-byte header."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    place, whole = 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        if place + 7 + size > len(data):
            return  # it is being written
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(whole)
            whole = b""


@pytest.mark.parametrize("interrupted_by", [None, ValueError("x")])
@pytest.mark.e2e
def test_wandb_offline(tmp_path: Path, interrupted_by: BaseException | None) -> None:
    run_dir = tmp_path / "brave-otter"
    drive(WandBLogger(log_every=2, project="shop"), run_dir, interrupted_by)
    files = sorted((run_dir / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == (1 if interrupted_by is None else 2)
    # W&B's own process writes them, and may be a moment behind.
    wait_until(
        lambda: all(
            any(record.HasField("exit") for record in wandb_records(file)) for file in files
        )
    )
    told: dict[str, set[tuple[int, float]]] = defaultdict(set)
    ids, names, exits, config = set(), set(), [], {}
    for file in files:
        for record in wandb_records(file):
            if record.HasField("run"):
                ids.add(record.run.run_id)
                names.add((record.run.project, record.run.display_name))
            if record.HasField("exit"):
                exits.append(record.exit.exit_code)
            for item in (*record.config.update, *record.run.config.update):
                config[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
            row = {
                item.key or ".".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            for name, value in row.items():
                if not name.startswith("_"):
                    told[name].add((row["_step"], value))
    assert len(ids) == 1  # the resumed run is the same one
    assert names == {("shop", "brave-otter")}
    assert exits == ([0] if interrupted_by is None else [1, 0])
    assert {name: sorted(points) for name, points in told.items()} == TOLD
    assert config["batch_size"] == 64
    recorded = {path.name for file in files for path in (file.parent / "files").rglob("*")}
    assert not recorded & {"wandb-metadata.json", "requirements.txt", "output.log"}


def test_wandb_goes_online_only_when_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from wandb.sdk.lib.wbauth import unauthenticate_session

    assert WandBLogger()._mode() == "offline"
    assert WandBLogger(offline=False)._mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert WandBLogger()._mode() == "disabled"
    assert WandBLogger(offline=True)._mode() == "offline"
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    try:
        assert WandBLogger()._mode() == "online"
        assert WandBLogger(offline=True)._mode() == "offline"
    finally:
        unauthenticate_session()


def test_under_torchrun_no_process_group_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.state import PartialState

    PartialState._reset_state()
    launcher = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": "1"}
    for name, value in {**launcher, "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    threads = torch.get_num_threads()
    training = a_training(tmp_path / "run")
    hooks = Callbacks([TensorBoardLogger(log_every=1)])
    hooks.call("on_train_begin", training)
    steps(training, hooks, 1)
    hooks.call("on_close", training)
    assert_no_warning(training)
    assert PartialState().num_processes == 1
    assert not torch.distributed.is_initialized()
    assert torch.get_num_threads() == threads
    assert {name: os.environ[name] for name in launcher} == launcher
    assert read_tensorboard(tmp_path / "run/tensorboard/run")["train/loss"] == [(1, 4.5)]


def test_a_tracker_that_can_not_begin_is_off(tmp_path: Path) -> None:
    training = a_training(tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").write_text("in the way")
    hooks = Callbacks([TensorBoardLogger(log_every=1)])
    hooks.call("on_train_begin", training)
    steps(training, hooks, 2)
    end_epoch(training, hooks, loss=1.0)
    hooks.call("on_finish", training)
    hooks.call("on_close", training)
    assert isinstance(training.logger, Recorder)
    [line] = training.logger.lines
    assert line.startswith("WARNING TensorBoardLogger failed in on_train_begin: ")
    assert line.endswith("(it is off for the rest of the run)")


def test_a_real_run_stopped_and_resumed(tiny_model: Path, tmp_path: Path) -> None:
    run_dir, settings = tmp_path / "run", two_steps(tiny_model, epochs=3)
    callbacks: list[Callback] = [
        TensorBoardLogger(log_every=1),
        MLflowLogger(log_every=1),
        EvaluationCallback(query_data=squares(2, 1), index_data=squares(3, 2), limit=5),
    ]
    data = squares(1, 2), squares(4, 1)
    with pytest.raises(Cancelled):
        train(settings, *data, callbacks, run_dir, Recorder(stop_after=3))
    [checkpoint] = list_checkpoints(run_dir / "checkpoints")
    new_second()
    logger = Recorder()
    outcome = train(settings, *data, callbacks, run_dir, logger, checkpoint)
    assert outcome is not None
    assert not [line for line in logger.lines if line.startswith("WARNING")]
    told = read_tensorboard(run_dir / "tensorboard" / "run")
    assert [step for step, _ in told["train/loss"]] == [1, 2, 3, 4, 5, 6]
    losses = [value for _, value in told["train/loss"]]
    for number, entry in enumerate(outcome.history):
        step = 2 * number + 2
        assert dict(told["epoch/loss"])[step] == pytest.approx(entry["loss"])
        assert dict(told["epoch/val_loss"])[step] == pytest.approx(entry["val_loss"])
        assert dict(told[f"epoch/{METRIC}"])[step] == pytest.approx(entry["metrics"][METRIC])
        assert sum(losses[step - 2 : step]) / 2 == pytest.approx(entry["loss"])
    assert dict(told[f"epoch/{METRIC}"])[0] == pytest.approx(outcome.before[METRIC])
    assert told[f"after/{METRIC}"] == [(6, pytest.approx(outcome.after[METRIC]))]
