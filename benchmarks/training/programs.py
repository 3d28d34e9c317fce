"""Two programs that fine-tune the built-in CLIP on a CSV: `cliptune fit` and open_clip's own.

Each is run as a user would, from the command line and with nothing cached.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch
from docarray import DocList
from measured_process import Measured, run_measured
from safetensors.torch import save_file

from cliptune.documents import ClipDoc
from cliptune.models.registry import BUILTIN_FOLDER
from cliptune.settings import current
from cliptune.training.batches.samplers import steps_per_epoch

REQUIREMENTS = (
    "webdataset==1.0.2",
    "pandas==3.1.1",
    "braceexpand==0.1.7",
    "python-dateutil==2.9.0.post0",
    "six==1.17.0",
)
"""What open_clip_train imports and cliptune's environment does not have."""


@dataclass(frozen=True)
class Task:
    """What both programs are to do."""

    docs: DocList[ClipDoc]
    """With `text` and the path of a picture as `uri`."""
    epochs: int
    batch_size: int
    seed: int


@dataclass(frozen=True)
class Trained:
    """What a program took to do its task."""

    pairs: int
    """How many pairs went through all its steps."""
    training_seconds: float
    """From the moment that the first step can begin until the last checkpoint is written."""
    process: Measured
    model: Path
    """What it has trained, a name for `load_model`."""


def cliptune_fit(task: Task, folder: Path, learning_rate: float) -> Trained:
    """Do `task` by `cliptune fit` in the empty `folder`, which is its `CLIPTUNE_HOME` too.

    All but the peak learning rate is as `cliptune fit` does it by default.
    """
    write_csv(task.docs, folder / "train.csv")
    process = run_measured(
        [
            Path(sys.executable).with_name("cliptune"),
            *("fit", "train.csv", "--text-column", "title", "--image-column", "filepath"),
            *("--epochs", str(task.epochs), "--batch-size", str(task.batch_size)),
            *("--learning-rate", str(learning_rate)),
            *("--option", f"seed={task.seed}", "--name", "run"),
        ],
        folder,
        {"CLIPTUNE_HOME": str(folder)},
    )
    run = folder / "runs" / "default" / "run"
    (checkpoint,) = (run / "checkpoints").iterdir()
    seconds = (checkpoint / "state.json").stat().st_mtime - _first_step_time(run)
    return Trained(len(task.docs) * task.epochs, seconds, process, run / "artifact")


def _first_step_time(run: Path) -> float:
    """When a run of cliptune had its data and its model ready, as `time.time()`."""
    for line in (run / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "log" and "pairs a step" in event["message"]:
            return datetime.fromisoformat(event["time"]).timestamp()
    raise RuntimeError(f"{run / 'events.jsonl'} does not tell when the first step began")


def open_clip_train(task: Task, folder: Path, learning_rate: float, workers: int) -> Trained:
    """Do `task` by `python -m open_clip_train.main` in the empty `folder`.

    Args:
        task: what to do.
        folder: where all that it reads and writes is put.
        learning_rate: the peak.
        workers: how many processes decode pictures.
    """
    write_csv(task.docs, folder / "train.csv")
    start = folder / "start"
    start.mkdir()
    weights = BUILTIN_FOLDER / "open_clip_model.safetensors"
    write_model(start, weights)
    warmup_steps = round(0.1 * task.epochs * steps_per_epoch(len(task.docs), task.batch_size))
    process = run_measured(
        [
            *(sys.executable, "-m", "open_clip_train.main", "--model", "local-dir:start"),
            *("--dataset-type", "csv", "--train-data", "train.csv", "--csv-separator", ","),
            *("--epochs", str(task.epochs), "--batch-size", str(task.batch_size)),
            *("--lr", str(learning_rate), "--warmup", str(warmup_steps)),
            *("--seed", str(task.seed), "--workers", str(workers)),
            *("--device", "cpu", "--precision", "fp32"),
            *("--delete-previous-checkpoint", "--logs", ".", "--name", "run"),
        ],
        folder,
        {"PYTHONPATH": str(packages())},
    )
    checkpoint = folder / "run" / "checkpoints" / f"epoch_{task.epochs}.pt"
    began = next(at for at, line in process.lines if line.endswith("Start epoch 0"))
    seconds = checkpoint.stat().st_mtime - began
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    trained = folder / "trained"
    trained.mkdir()
    save_file({name: value.contiguous() for name, value in state.items()}, trained / weights.name)
    write_model(trained, trained / weights.name)
    full_batches = len(task.docs) // task.batch_size  # it leaves the rest of an epoch out
    return Trained(full_batches * task.batch_size * task.epochs, seconds, process, trained)


def write_csv(docs: DocList[ClipDoc], path: Path) -> None:
    """The titles and the pictures' paths, as both programs read them."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["title", "filepath"])
        writer.writerows([doc.text, Path(str(doc.uri)).resolve()] for doc in docs)


def write_model(folder: Path, weights: Path) -> None:
    """A model folder of open_clip's with `weights` and the built-in model's config and tokenizer.

    open_clip looks for a tokenizer's merges where the config says.
    """
    merges = folder / "bpe.txt.gz"
    shutil.copyfile(BUILTIN_FOLDER / merges.name, merges)
    if weights.parent != folder:
        shutil.copyfile(weights, folder / weights.name)
    config = json.loads((BUILTIN_FOLDER / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"bpe_path": str(merges)}
    (folder / "open_clip_config.json").write_text(json.dumps(config))


def packages() -> Path:
    """The folder with `REQUIREMENTS`, installed the first time below `CLIPTUNE_HOME`."""
    folder = current().cache_dir / "benchmarks" / "open_clip_train"
    if not (folder / "webdataset").is_dir():
        target = ("--quiet", "--no-deps", "--target", str(folder))
        subprocess.run([*_installer(), *target, *REQUIREMENTS], check=True)
    return folder


def _installer() -> list[str]:
    """`pip install` for this Python, by uv if there is one."""
    own_uv = Path(__file__).parents[2] / ".uv" / "bin" / "uv"
    uv = shutil.which("uv") or (str(own_uv) if own_uv.is_file() else None)
    if uv:
        return [uv, "pip", "install", "--python", sys.executable]
    return [sys.executable, "-m", "pip", "install"]
