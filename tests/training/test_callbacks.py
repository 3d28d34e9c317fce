"""The runner's contract, what is refused, and the callbacks that stop, keep and measure."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from docarray import DocList
from safetensors.torch import load_file

from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadInput, CliptuneError, NotFound, Unavailable
from cliptune.evaluation.metrics import METRICS
from cliptune.models.loading import load_model
from cliptune.training import Cancelled, TrainingOptions, train
from cliptune.training.callbacks import (
    CALLBACKS,
    BestModelCheckpoint,
    Callback,
    CallbackFailed,
    Callbacks,
    EarlyStopping,
    EvaluationCallback,
    MLflowLogger,
    TensorBoardLogger,
    TrainingCheckpoint,
    WandBLogger,
    WiSEFTCallback,
    parse_callback,
)
from cliptune.training.state import Position, Training, list_checkpoints
from tests.training.test_loop import Recorder, options, squares, weights

METRIC = "clip-text-to-clip-vision_reciprocal_rank"


def a_training(run_dir: Path) -> Training:
    """A training without a model, for callbacks that need none."""
    values = TrainingOptions.parse({"epochs": 5})
    return Training(values, None, torch.device("cpu"), run_dir, Recorder())  # type: ignore[arg-type]


def two_steps(tiny_model: Path, epochs: int = 4) -> TrainingOptions:
    """Options with which `squares(1, 2)` makes epochs of two steps."""
    return options(tiny_model, epochs=epochs, batch_size=6, micro_batch_size=6)


def end_epoch(training: Training, hooks: Callbacks, **figures: float) -> None:
    """What the loop does around `on_epoch_end`; metrics of an evaluation are told in full."""
    position = training.position
    losses = {name: value for name, value in figures.items() if "loss" in name}
    training.epoch_metrics = {n: v for n, v in figures.items() if n not in losses}
    position.history.append({"epoch": position.epoch + 1, **losses})
    hooks.call("on_epoch_end", training)
    position.epoch += 1


def resumed(training: Training) -> Training:
    """Another process' training, from what a checkpoint holds."""
    again = a_training(training.run_dir)
    again.position = Position(**json.loads(json.dumps(asdict(training.position))))
    again.global_step = training.global_step
    return again


class Probe(Callback):
    """Writes down its hooks; raises what it is told to."""

    name: str = "Probe"
    label: str = ""
    error: Any = None
    calls: ClassVar[list[str]] = []

    def on_step_end(self, training: Training) -> None:
        Probe.calls.append(self.label)
        if self.error is not None:
            raise self.error

    def on_close(self, training: Training) -> None:
        Probe.calls.append(f"close {self.label}")
        if self.error is not None:
            raise self.error


class Decider(Probe):
    order: ClassVar[int] = 1


class Logger(Probe):
    essential: ClassVar[bool] = False
    order: ClassVar[int] = 2


def test_measuring_comes_before_deciding_and_recording(tmp_path: Path) -> None:
    Probe.calls.clear()
    given = [Logger(label="l"), Decider(label="d1"), Probe(label="a"), Decider(label="d2")]
    Callbacks([*given, Probe(label="b")]).call("on_step_end", a_training(tmp_path))
    assert Probe.calls == ["a", "b", "d1", "d2", "l"]


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (
            ZeroDivisionError("by\nzero"),
            CallbackFailed,
            r"^Probe failed in on_step_end: Zero.*: by",
        ),
        (NotFound("no such file"), NotFound, r"^Probe: no such file$"),
        (Cancelled(), Cancelled, "^$"),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
    ],
)
def test_an_essential_callback_that_fails_ends_the_run(
    tmp_path: Path, error: BaseException, kind: type[BaseException], words: str
) -> None:
    hooks = Callbacks([Probe(error=error)])
    with pytest.raises(kind, match=words) as caught:
        hooks.call("on_step_end", a_training(tmp_path))
    if kind is CallbackFailed:
        assert caught.value.__cause__ is error
    else:
        assert caught.value is error


def test_a_logger_that_fails_is_off_and_the_run_goes_on(tmp_path: Path) -> None:
    Probe.calls.clear()
    training = a_training(tmp_path)
    # Two of equal fields: only the one that fails is off.
    broken, sound = Logger(label="x", error=OSError("disk\nfull")), Logger(label="x")
    broken_at_end = Probe(label="e", error=None)
    hooks = Callbacks([broken, sound, broken_at_end])
    hooks.call("on_step_end", training)
    hooks.call("on_step_end", training)
    assert Probe.calls == ["e", "x", "x", "e", "x"]
    broken_at_end.error = CliptuneError("too late")
    hooks.call("on_close", training)  # all are closed, those that failed too, and none can fail
    assert Probe.calls[5:] == ["close e", "close x", "close x"]
    assert training.logger.lines == [  # type: ignore[attr-defined]
        "WARNING Logger failed in on_step_end: OSError: disk full "
        "(it is off for the rest of the run)",
        "WARNING Probe failed in on_close: CliptuneError: too late",
        "WARNING Logger failed in on_close: OSError: disk full",
    ]
    # The wish to stop is no failure, not even of a logger's.
    with pytest.raises(Cancelled):
        Callbacks([Logger(error=Cancelled())]).call("on_step_end", training)


def test_all_callbacks_travel_as_json() -> None:
    for name, kind in CALLBACKS.items():
        needed = {"query_data": "x"} if kind is EvaluationCallback else {}
        callback = parse_callback({"name": name, **needed})
        again = parse_callback(json.loads(callback.model_dump_json()))
        assert type(again) is kind
        assert again.model_dump() == callback.model_dump()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "EarlyStopping", "patience": -1}, "EarlyStopping: patience is -1"),
        ({"name": "EarlyStopping", "min_delta": -0.1}, "min_delta is -0.1"),
        ({"name": "BestModelCheckpoint", "mode": "best"}, "mode is 'best'"),
        ({"name": "TrainingCheckpoint", "last_k_epochs": 0}, "last_k_epochs is 0"),
        ({"name": "TensorBoardLogger", "log_every": 0}, "log_every is 0"),
        ({"name": "WandBLogger", "api_key": "x"}, "api_key"),
        ({"name": "EarlyStoping"}, "'EarlyStopping'"),
    ],
)
def test_bad_values_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        parse_callback(values)


EVALUATION = EvaluationCallback(query_data="x")
REVERSE = EvaluationCallback(query_data="x", model="clip-vision", index_model="clip-text")


@pytest.mark.parametrize(
    ("callbacks", "has_val_loss", "words"),
    [
        ([EarlyStopping()], False, "EarlyStopping: .*'val_loss'.*none: give it eval_data or val_s"),
        ([BestModelCheckpoint(monitor="los")], False, "'los', which is not measured: .*'loss'"),
        (
            [BestModelCheckpoint(monitor="reciprocalrank"), EVALUATION],
            True,
            "BestModelCheckpoint: monitor is 'reciprocalrank'.*'reciprocal_rank'",
        ),
        ([EarlyStopping(monitor="hit_at_k"), EVALUATION, REVERSE], True, "vision_hit.* or .*text_"),
        ([EarlyStopping(monitor="loss"), EarlyStopping(monitor="loss")], True, "given twice"),
        ([EVALUATION, EvaluationCallback(query_data="y")], True, "clip-text to clip-vision.*twice"),
    ],
)
def test_what_can_not_work_is_refused_at_once(
    callbacks: list[Callback], has_val_loss: bool, words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        Callbacks(callbacks).check(has_val_loss)


def test_what_works_is_accepted() -> None:
    for monitor in ("loss", "val_loss", METRIC, "reciprocal_rank"):
        Callbacks([BestModelCheckpoint(monitor=monitor), EVALUATION]).check(has_val_loss=True)
    Callbacks([EarlyStopping(monitor=METRIC), EVALUATION, REVERSE]).check(has_val_loss=False)
    Callbacks([WandBLogger(), MLflowLogger(), TensorBoardLogger()]).check(has_val_loss=False)


def test_a_tracker_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WandBLogger, "packages", ("wandb_of_tomorrow",))
    with pytest.raises(Unavailable, match=r"WandBLogger needs wandb_of_tomorrow: .*\[trackers\]"):
        Callbacks([WandBLogger()]).check(has_val_loss=False)


# Worked by hand after Keras 3's EarlyStopping: an epoch counts unless it is an improvement on the
# best one by more than min_delta; the last epoch is the one after which it stops, None if never.
STOPS = [
    ({"patience": 2}, [5, 4, 4, 4, 4], 4),
    ({"patience": 2}, [5, 4, 4.5, 3.9, 4, 4, 1], 6),
    ({"patience": 1}, [5, 4, 4, 4], 3),
    ({"patience": 0}, [5, 4, 4, 4], 3),
    ({"patience": 2}, [5, 4, 3, 2, 1], None),
    ({"patience": 2}, [1, 2, 3], 3),
    ({"patience": 2, "mode": "max"}, [1, 2, 3, 2, 2.9], 5),
    ({"patience": 2, "mode": "max"}, [3, 2, 1], 3),
    ({"patience": 2, "min_delta": 0.5}, [5, 4.5, 4.5, 4], 3),
    ({"patience": 2, "min_delta": 0.5}, [5, 4.25, 4, 3.5, 2.75], None),
    ({"patience": 2, "min_delta": 0.5, "mode": "max"}, [1, 1.5, 1.4], 3),
    # Until the baseline is beaten, improvements do not set the count to 0: 1, 2, 3, then worse.
    ({"patience": 3, "baseline": 1}, [5, 4, 3, 3.5], 4),
    ({"patience": 3, "baseline": 3.5}, [5, 4, 3, 3.5, 3.5], None),
    ({"patience": 3, "baseline": 3.5}, [5, 4, 3, 3.5, 3.5, 3.5], 6),
    ({"patience": 2, "baseline": 1}, [2, 3], 2),
    ({"patience": 2}, [math.nan, math.nan], 2),
    ({"patience": 2}, [math.nan, 1, math.nan, math.nan], 4),
    ({"patience": 2, "monitor": "reciprocal_rank"}, [0.1, 0.3, 0.2, 0.3], 4),
]


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(("values", "figures", "last"), STOPS)
def test_early_stopping(
    tmp_path: Path, values: dict[str, Any], figures: list[float], last: int | None, resume: bool
) -> None:
    name = METRIC if values.get("monitor") else "val_loss"
    training = a_training(tmp_path)
    hooks = Callbacks([EarlyStopping(**values)])
    stopped = None
    for number, figure in enumerate(figures, 1):
        if resume:
            training, hooks = resumed(training), Callbacks([EarlyStopping(**values)])
        hooks.call("on_train_begin", training)
        assert not training.stopping
        end_epoch(training, hooks, **{name: figure})
        if training.stopping:
            stopped = number
            break
    assert stopped == last
    if stopped:  # a run that was killed after its last epoch stops again
        again = resumed(training)
        Callbacks([EarlyStopping(**values)]).call("on_train_begin", again)
        assert again.stopping
        assert f"(patience {values['patience']})" in again.logger.lines[-1]  # type: ignore[attr-defined]


def test_a_monitor_that_an_epoch_lacks(tmp_path: Path) -> None:
    hooks = Callbacks([EarlyStopping(monitor="hit_at")])
    with pytest.raises(BadInput, match=r"^EarlyStopping: monitor is 'hit_at'.*'hit_at_k'"):
        end_epoch(a_training(tmp_path), hooks, loss=1, **{"clip-text-to-clip-vision_hit_at_k": 1})


class Steered(EvaluationCallback):
    """An evaluation with given figures; writes down each epoch's weights."""

    query_data: Any = "none"
    figures: list[float]
    seen: list[Any]

    def on_train_begin(self, training: Training) -> None:
        pass

    def on_epoch_end(self, training: Training) -> None:
        state = training.model.clip.state_dict()
        self.seen.append({name: value.clone() for name, value in state.items()})
        training.epoch_metrics[METRIC] = self.figures[training.position.epoch]

    def on_finish(self, training: Training) -> None:
        pass


class Killer(Callback):
    """Ends the process, so to say, when all other callbacks of an epoch's end are through."""

    order: ClassVar[int] = 9
    epoch: int

    def on_epoch_end(self, training: Training) -> None:
        if training.position.epoch + 1 == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("figures", "mode", "best"),
    [
        ([0.2, 0.5, 0.5, 0.4], "auto", 2),
        ([0.2, 0.5, 0.5, 0.4], "min", 1),
        ([math.nan, 0.1, math.nan, 0.05], "auto", 2),
    ],
)
def test_the_best_epochs_weights_go_into_the_artifact(
    tiny_model: Path, tmp_path: Path, figures: list[float], mode: Any, best: int
) -> None:
    measured, logger = Steered(figures=figures, seen=[]), Recorder()
    # First in the list, and yet after the evaluation.
    callbacks = [BestModelCheckpoint(monitor="reciprocal_rank", mode=mode), measured]
    train(two_steps(tiny_model), squares(1, 2), None, callbacks, tmp_path, logger)
    expected = measured.seen[best - 1]
    found = weights(tmp_path)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not torch.equal(expected["text_projection"], measured.seen[-best]["text_projection"])
    [folder] = (tmp_path / "best-model").iterdir()
    assert folder.name == f"epoch-{best:05d}"
    kept = load_file(folder / "model.safetensors")
    assert all(torch.equal(expected[name], kept[name]) for name in expected)
    line = f"the weights are those of the best epoch, {best} of 4 (reciprocal_rank "
    assert any(line in each for each in logger.lines)


@pytest.mark.parametrize("killed_in", [2, 4])
def test_a_killed_run_ends_with_the_same_best_weights(
    tiny_model: Path, tmp_path: Path, killed_in: int
) -> None:
    def callbacks(*more: Callback) -> list[Callback]:
        figures = [0.1, 0.5, 0.3, 0.7 if killed_in == 4 else 0.4]
        stopping = EarlyStopping(monitor="reciprocal_rank", patience=2)
        best = BestModelCheckpoint(monitor="reciprocal_rank")
        return [Steered(figures=figures, seen=[]), best, stopping, *more]

    settings = two_steps(tiny_model)
    train(settings, squares(1, 2), None, callbacks(), tmp_path / "whole", Recorder())
    folder = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        train(settings, squares(1, 2), None, callbacks(Killer(epoch=killed_in)), folder, Recorder())
    # The epoch's end was cut short before its checkpoint: what the state before it calls the best
    # must still be there, whether or not the epoch was a better one.
    before = killed_in - 1 if killed_in == 2 else 2
    assert (folder / "best-model" / f"epoch-{before:05d}" / "model.safetensors").is_file()
    [checkpoint] = list_checkpoints(folder / "checkpoints")
    train(settings, squares(1, 2), None, callbacks(), folder, Recorder(), checkpoint)
    expected, found = weights(tmp_path / "whole"), weights(folder)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_lost_best_weights_are_an_error(tiny_model: Path, tmp_path: Path) -> None:
    model = load_model(tiny_model)
    training = a_training(tmp_path)
    training.model = model
    hooks = Callbacks([BestModelCheckpoint(monitor="loss")])
    end_epoch(training, hooks, loss=1.0)
    (tmp_path / "best-model/epoch-00001/model.safetensors").write_bytes(b"cut short")
    with pytest.raises(BadData, match=r"BestModelCheckpoint: the best weights at .* can't be read"):
        hooks.call("on_train_end", training)


def test_checkpoints_stay(tiny_model: Path, tmp_path: Path) -> None:
    keeping = TrainingCheckpoint(last_k_epochs=2)
    train(two_steps(tiny_model), squares(1, 2), None, [keeping], tmp_path, Recorder())
    kept = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    assert kept == ["epoch-00003-step-0000000", "epoch-00004-step-0000000"]


def test_wise_ft_mixes_the_best_epochs_weights(tiny_model: Path, tmp_path: Path) -> None:
    measured = Steered(figures=[0.9, 0.2], seen=[])
    callbacks = [WiSEFTCallback(alpha=0.3), BestModelCheckpoint(monitor=METRIC), measured]
    train(two_steps(tiny_model, epochs=2), squares(1, 2), None, callbacks, tmp_path, Recorder())
    before = load_model(tiny_model).clip.state_dict()
    for name, value in weights(tmp_path).items():
        torch.testing.assert_close(value, 0.7 * before[name] + 0.3 * measured.seen[0][name])


def begin(folder: Path, queries: list[ClipDoc], index: Any, tmp_path: Path, **values: Any) -> Any:
    callback = EvaluationCallback(
        query_data=DocList[ClipDoc](queries),
        index_data=None if index is None else DocList[ClipDoc](index),
        limit=5,
        **values,
    )
    training = a_training(tmp_path)
    training.model = load_model(folder)
    Callbacks([callback]).call("on_train_begin", training)
    return training


def test_the_metrics_have_the_names_that_were_announced(tiny_model: Path, tmp_path: Path) -> None:
    training = begin(tiny_model, list(squares(2, 1)), list(squares(3, 2)), tmp_path)
    assert list(training.position.before) == EVALUATION.metric_names()
    assert len(training.position.before) == len(METRICS)


def test_an_evaluation_that_means_nothing_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    docs = list(squares(2, 2))
    alike = [ClipDoc(text=doc.text, image=doc.image, label="x") for doc in docs]
    with pytest.raises(BadData, match=r"^EvaluationCallback: .*label 'x'.*everything relevant"):
        begin(tiny_model, alike, None, tmp_path)
    # Of one label each, but not of the same: there is no answer at all.
    others = [ClipDoc(image=doc.image, label="y") for doc in docs]
    with pytest.raises(BadData, match="no query has a relevant document"):
        begin(tiny_model, alike, others, tmp_path)


def test_queries_and_index_may_share_pictures_alone(tiny_model: Path, tmp_path: Path) -> None:
    """What is the same is decided once for both; and what is searched is said."""
    queries = [ClipDoc(text=doc.text, image=doc.image) for doc in squares(2, 1)]
    index = [ClipDoc(image=doc.image) for doc in queries]
    training = begin(tiny_model, queries, index, tmp_path)
    counts = {"n_queries": len(queries), "n_index": len(index), "n_without_answers": 0}
    assert training.position.evaluations == {"clip-text-to-clip-vision": counts}
    assert training.position.before["clip-text-to-clip-vision_recall_at_k"] == 1
    training = begin(tiny_model, queries, index[1:], tmp_path)
    assert training.position.evaluations["clip-text-to-clip-vision"]["n_without_answers"] == 1


def test_an_id_that_is_given_twice_is_named(tiny_model: Path, tmp_path: Path) -> None:
    docs = [doc.model_copy() for doc in squares(2, 2)]
    docs[7].id = docs[3].id
    with pytest.raises(BadData, match=rf"query_data: .*'{docs[3].id}' \(documents 3, 7\)"):
        begin(tiny_model, docs, None, tmp_path)
    with pytest.raises(BadData, match="index_data: .*documents 3, 7"):
        begin(tiny_model, list(squares(4, 1)), docs, tmp_path)
