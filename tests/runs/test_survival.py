"""Runs that are killed, starved and stopped: the record says why, and a resume ends alike.

The workers are forked from a server that has imported everything (multiprocessing's `forkserver`),
so that a start takes a fraction of a second; all else is what `fit` and `resume` always do.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from docarray import DocList
from safetensors.torch import load_file, save_file

import cliptune
from cliptune.callback import BestModelCheckpoint, EvaluationCallback, TrainingCheckpoint
from cliptune.documents import ClipDoc
from cliptune.errors import BadInput
from cliptune.files import new_folder
from cliptune.models.openclip import open_clip
from cliptune.runs import Run, process
from cliptune.runs.record import read_record
from cliptune.runs.worker import explain
from cliptune.training.batches.samplers import random_order
from cliptune.training.state import list_checkpoints, read_position
from tests.forking import fork_server
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

SEED = 20
EPOCHS, STEPS = 4, 4
FORKS = get_context("forkserver")
PRELOADED = [
    "cliptune.runs.worker",
    "cliptune.training",
    "cliptune.runs.documents",
    "torch._dynamo",  # torch's optimizers import it at their first step
]


class ForkedWorker:
    """In the place of `subprocess.Popen` for a run's worker."""

    address_space: int | None = None
    """Bytes that the next workers may take beyond what they begin with."""

    def __init__(self, command: list[str], *, env: dict[str, str], **_: Any) -> None:
        folder, start = Path(command[-2]), int(command[-1])
        child = FORKS.Process(target=_work, args=(folder, start, env, self.address_space))
        child.daemon = True
        child.start()
        self._child, self.pid = child, child.pid

    def wait(self) -> int:
        self._child.join()
        return self._child.exitcode


def _work(folder: Path, start: int, env: dict[str, str], address_space: int | None) -> None:
    """In the forked process: what `python -m cliptune.runs.worker` does."""
    from cliptune.runs import worker

    os.environ.update(env)
    with (folder / "run.log").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if address_space is not None:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + address_space,) * 2)
    sys.exit(worker.main(folder, start))


@pytest.fixture(scope="module", autouse=True)
def forks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        # OMP threads could add in another order, and none must run when the server forks.
        patch.setenv("OMP_NUM_THREADS", "1")
        with fork_server(*PRELOADED):
            yield


@pytest.fixture(autouse=True)
def home_in_memory(cliptune_home: Path, memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of checkpoints are written."""
    (memory_path / "cache").symlink_to(cliptune_home / "cache")
    monkeypatch.setenv("CLIPTUNE_HOME", str(memory_path))


@pytest.fixture(autouse=True)
def forked(forks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = SimpleNamespace(Popen=ForkedWorker, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr(process, "subprocess", stand_in)


@dataclass(frozen=True)
class Result:
    """All that a run comes to."""

    weights: dict[str, torch.Tensor]
    history: list[dict[str, Any]]
    metrics: dict[str, dict[str, float]]
    seconds: float


def fit(model: Path, docs: DocList[ClipDoc], **options: Any) -> Run:
    """Start a run of `EPOCHS * STEPS` steps with checkpoints in the middle of epochs too."""
    chosen = {"epochs": EPOCHS, "batch_size": len(docs) // STEPS, "checkpoint_minutes": 1e-3}
    chosen |= {"device": "cpu", "num_workers": 1, "learning_rate": 1e-3}
    chosen |= {"callbacks": [EvaluationCallback(query_data=docs, limit=5)], **options}
    return cliptune.fit(str(model), docs, **chosen)


def history(run: Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in run.history()]


def result(run: Run, seconds: float = 0.0) -> Result:
    weights = {
        f"{file.parent.name}.{name}": value
        for file in run.artifact_folder.glob("models/*/model.safetensors")
        for name, value in load_file(file).items()
    }
    return Result(weights, history(run), run.metrics(), seconds)


_uninterrupted: dict[str, Result] = {}


@pytest.fixture
def uninterrupted(tiny_model: Path, colour_docs: DocList[ClipDoc]) -> Callable[..., Result]:
    """What a run with these options comes to that nothing happens to; made once."""

    def make(**options: Any) -> Result:
        key = repr(options)
        if key not in _uninterrupted:
            run = fit(tiny_model, colour_docs, **options)
            begin = time.monotonic()
            assert run.wait(60)["status"] == "FINISHED", run.logs()
            _uninterrupted[key] = result(run, time.monotonic() - begin)
            assert len(_uninterrupted[key].weights) > 20
            assert len(_uninterrupted[key].history) == EPOCHS
        return _uninterrupted[key]

    return make


def assert_ends_like(run: Run, expected: Result) -> None:
    assert run.wait(60)["status"] == "FINISHED", run.logs()
    found = result(run)
    assert found.weights.keys() == expected.weights.keys()
    differ = [k for k, v in expected.weights.items() if not torch.equal(v, found.weights[k])]
    assert not differ, f"{differ} are not the uninterrupted run's"
    assert found.history == expected.history
    assert found.metrics == expected.metrics
    events = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
    assert events[-1] == {**events[-1], "event": "status", "status": "FINISHED"}
    unfinished = [path.name for path in run.folder.glob("**/.*") if path.is_dir()]
    assert not unfinished, "what a killed process left is to be removed"


def assert_whole(checkpoint: Path) -> None:
    """Every file of `checkpoint` can be read, and they are of one and the same step."""
    position = read_position(checkpoint)
    assert checkpoint.name == f"epoch-{position.epoch:05d}-step-{position.step:07d}"
    assert len(position.history) == position.epoch
    state = load_file(checkpoint / "model.safetensors")
    states = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    assert states["schedule"]["last_epoch"] == position.epoch * STEPS + position.step
    assert len(states["optimizer"]["state"]) == len(state)


def pid_of(run: Run) -> int:
    mark = read_record(run.folder).process
    assert mark is not None
    return mark.pid


def until(condition: Callable[[Run], object], run: Run) -> None:
    """Wait for `condition`, or until the run's process has ended."""
    process_folder = Path(f"/proc/{pid_of(run)}")
    wait_until(lambda: condition(run) or not process_folder.exists(), 30, run.logs)


def half_written(run: Run) -> list[Path]:
    """The checkpoint that is being written, or was when the run was killed."""
    found = (run.folder / "checkpoints").glob(".epoch-*")
    return [path for path in found if ".deleted." not in path.name]


STATEFUL = {
    "sampler": "hard_negatives",
    "callbacks": [BestModelCheckpoint(monitor="loss"), TrainingCheckpoint(last_k_epochs=2)],
}


@pytest.mark.parametrize(("options", "kills"), [({}, 20), (STATEFUL, 6)], ids=["plain", "stateful"])
def test_kills_at_any_moment_change_nothing(
    tiny_model: Path,
    colour_docs: DocList[ClipDoc],
    uninterrupted: Callable[..., Result],
    options: dict[str, Any],
    kills: int,
) -> None:
    """A quarter of the kills at least hit a checkpoint in writing, and some hit an epoch."""
    expected = uninterrupted(**options)
    dice = random.Random(SEED)
    run = fit(tiny_model, colour_docs, **options)
    killed = in_writing = in_epoch = 0
    while killed < kills or in_writing < kills / 4 or in_epoch < kills / 4:
        if killed % 2:
            until(half_written, run)
            time.sleep(dice.uniform(0, 0.01))
        else:
            time.sleep(dice.uniform(0, expected.seconds))
        with suppress(ProcessLookupError):
            os.kill(pid_of(run), signal.SIGKILL)
        status = run.wait(30)
        if status["status"] == "FINISHED":  # it was faster
            assert_ends_like(run, expected)
            run = fit(tiny_model, colour_docs, **options)
            continue
        assert status["status"] == "FAILED"
        assert "killed by signal 9 (SIGKILL)" in status["details"]
        assert history(run) == expected.history[: len(run.history())]
        checkpoints = list_checkpoints(run.folder / "checkpoints")
        for checkpoint in checkpoints:
            assert_whole(checkpoint)
        killed += 1
        in_writing += bool(half_written(run))
        in_epoch += bool(checkpoints) and read_position(checkpoints[-1]).step > 0
        run.resume()
    assert_ends_like(run, expected)


@pytest.fixture
def small_disk(mount_disk: Callable[[Path, str], None]) -> Callable[[str], None]:
    """Mounts a disk of the given size for the runs, or makes it larger."""
    return lambda size: mount_disk(Path(os.environ["CLIPTUNE_HOME"]) / "runs", size)


@pytest.mark.parametrize("size", ["24m", "32m"], ids=["in the weights", "in the optimizer"])
def test_a_checkpoint_that_finds_no_room(
    tiny_model: Path,
    colour_docs: DocList[ClipDoc],
    uninterrupted: Callable[..., Result],
    small_disk: Callable[[str], None],
    size: str,
) -> None:
    """The first, of 19 MB, fits beside the data, but not a second before the first has gone."""
    small_disk(size)
    run = fit(tiny_model, colour_docs)
    status = run.wait(30)
    assert status["status"] == "FAILED"
    assert "the disk is full (no space left" in status["details"]
    [checkpoint] = list_checkpoints(run.folder / "checkpoints")
    assert_whole(checkpoint)
    assert not half_written(run)
    again = run.resume().wait(30)
    assert "the disk is full" in again["details"]
    small_disk("200m")
    assert_ends_like(run.resume(), uninterrupted())


@pytest.mark.parametrize(
    ("then", "reason"),
    [(signal.SIGCONT, "the disk is full (no space left"), (signal.SIGKILL, "killed by signal 9")],
    ids=["it goes on", "it is killed"],
)
def test_a_disk_without_a_byte_left(
    tiny_model: Path,
    colour_docs: DocList[ClipDoc],
    uninterrupted: Callable[..., Result],
    small_disk: Callable[[str], None],
    then: signal.Signals,
    reason: str,
) -> None:
    """Others have filled it: the record is written thanks to the reserve, or told unwritten."""
    small_disk("200m")
    run = fit(tiny_model, colour_docs)
    until(lambda run: list_checkpoints(run.folder / "checkpoints"), run)
    os.kill(pid_of(run), signal.SIGSTOP)
    filler = run.folder.parent / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(b"0" * 4096):
            pass
    os.kill(pid_of(run), then)
    status = run.wait(30)
    assert status["status"] == "FAILED"
    assert reason in status["details"]
    assert read_record(run.folder).status == ("FAILED" if then is signal.SIGCONT else "STARTED")
    assert then is signal.SIGKILL or f"ERROR    FAILED: {reason}" in run.logs()
    for checkpoint in list_checkpoints(run.folder / "checkpoints"):
        assert_whole(checkpoint)
    filler.unlink()
    assert run.status()["status"] == "FAILED"
    assert_ends_like(run.resume(), uninterrupted())


@pytest.mark.parametrize("size", [5_000_000, 10_000_000], ids=["weights", "optimizer"])
def test_a_file_that_may_not_be_so_large(
    tiny_model: Path, colour_docs: DocList[ClipDoc], uninterrupted: Callable[..., Result], size: int
) -> None:
    """The limit that is easily set by a user or a batch system, without a disk of its own."""
    run = fit(tiny_model, colour_docs)
    until(lambda run: list_checkpoints(run.folder / "checkpoints"), run)
    resource.prlimit(pid_of(run), resource.RLIMIT_FSIZE, (size, size))
    status = run.wait(30)
    assert status["status"] == "FAILED"
    assert "a file is larger than allowed" in status["details"]
    [checkpoint] = list_checkpoints(run.folder / "checkpoints")
    assert_whole(checkpoint)
    assert_ends_like(run.resume(), uninterrupted())


def test_sigterm_leaves_a_checkpoint(
    tiny_model: Path, colour_docs: DocList[ClipDoc], uninterrupted: Callable[..., Result]
) -> None:
    """As when the machine is shut down in order: nobody has called `cancel()`."""
    run = fit(tiny_model, colour_docs, checkpoint_minutes=None)
    for epochs in (0, 1):
        until(lambda run, least=epochs: run.progress() and len(run.history()) >= least, run)
        os.kill(pid_of(run), signal.SIGTERM)
        status = run.wait(30)
        assert status["status"] == "CANCELLED", run.logs()
        assert "resume() goes on with it from its last checkpoint" in status["details"]
        [checkpoint] = list_checkpoints(run.folder / "checkpoints")
        assert_whole(checkpoint)
        run.resume()
    assert_ends_like(run, uninterrupted())


def test_a_loss_that_is_not_a_number_names_step_rate_and_batch(
    tiny_model: Path, colour_docs: DocList[ClipDoc], tmp_path: Path
) -> None:
    """One document, of the third batch, has a word whose embedding is not a number."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    state = load_file(model / "open_clip_model.safetensors")
    word = open_clip.get_tokenizer("ViT-B-32")(["pelican"])[0, 1]
    state["token_embedding.weight"][word] = float("nan")
    save_file(state, model / "open_clip_model.safetensors")
    seed, steps_before = 7, 2
    batch = random_order(len(colour_docs), len(colour_docs) // STEPS, seed, epoch=0)[steps_before]
    colour_docs[int(batch[1])].text = "a pelican"
    chosen = {"seed": seed, "scheduler": "constant", "scheduler_options": {"num_warmup_steps": 0}}
    run = fit(model, colour_docs, callbacks=[], checkpoint_minutes=1e-9, **chosen)
    status = run.wait(30)
    assert status["status"] == "FAILED"
    said = "the loss is nan in epoch 1 at step 3 (learning rate 0.001)"
    assert status["details"].startswith(said)
    assert "the batch's ids are in bad-batch.json" in status["details"]
    saved = json.loads((run.folder / "bad-batch.json").read_text())
    assert (saved["epoch"], saved["step"], saved["learning_rate"]) == (1, 3, 1e-3)
    assert saved["ids"] == [colour_docs[int(i)].id for i in batch]
    [checkpoint] = list_checkpoints(run.folder / "checkpoints")
    assert_whole(checkpoint)
    assert read_position(checkpoint).step == steps_before


def test_memory_that_runs_out(
    tiny_model: Path, colour_docs: DocList[ClipDoc], monkeypatch: pytest.MonkeyPatch
) -> None:
    many = DocList[ClipDoc](
        [ClipDoc(text=f"{doc.text} {i}", image=doc.image) for i in range(64) for doc in colour_docs]
    )
    all_at_once = {"batch_size": len(many), "micro_batch_size": len(many), "epochs": 1}
    monkeypatch.setattr(ForkedWorker, "address_space", 400_000_000)
    run = fit(tiny_model, many, callbacks=[], **all_at_once)
    status = run.wait(30)
    assert status["status"] == "FAILED"
    assert status["details"].startswith("out of memory: ")
    assert "smaller micro_batch_size or batch_size" in status["details"]
    monkeypatch.setattr(ForkedWorker, "address_space", None)
    assert run.resume().wait(30)["status"] == "FINISHED", run.logs()


def _never_enough() -> list[Callable[[], Any]]:
    """What fails for want of memory, as Python, NumPy, torch, its kernels and a GPU say it."""

    def cuda() -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def one_dnn() -> None:  # as torch 2 says it; which of its allocations fails is left to chance
        raise RuntimeError("could not create a primitive")

    return [
        lambda: bytearray(2**60),
        lambda: np.empty(2**60, np.uint8),
        lambda: torch.empty(2**60),
        one_dnn,
        cuda,
    ]


@pytest.mark.parametrize(
    "attempt", _never_enough(), ids=["Python", "NumPy", "torch", "oneDNN", "CUDA"]
)
def test_words_for_want_of_memory(attempt: Callable[[], Any]) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as raised:
        attempt()
    words = explain(raised.value)
    assert words.startswith("out of memory: start again with a smaller micro_batch_size")
    assert "\n" not in words


def test_words_for_a_disk_that_fills_while_torch_writes() -> None:
    with pytest.raises((OSError, RuntimeError)) as raised, open("/dev/full", "wb") as file:
        torch.save({"a": torch.zeros(1_000_000)}, file)
    assert explain(raised.value).startswith("the disk is full (no space left")


def test_words_for_other_errors() -> None:
    assert explain(BadInput("what a user reads")) == "what a user reads"
    assert explain(ValueError("two\nlines")) == "ValueError: two lines"
    assert explain(RuntimeError("mat1 and mat2 can't be multiplied")).startswith("RuntimeError: ")


def test_a_folder_of_weights_is_for_all_to_read(tmp_path: Path) -> None:
    """As its other files: safetensors and tempfile make theirs for the owner alone."""
    with new_folder(tmp_path / "weights") as beside:
        save_file({"a": torch.zeros(1)}, beside / "model.safetensors")
    for path in (tmp_path / "weights", tmp_path / "weights" / "model.safetensors"):
        assert path.stat().st_mode & 0o044 == 0o044
