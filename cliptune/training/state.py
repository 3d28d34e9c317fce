"""A training under way, and its checkpoints: all that is needed to go on with the same result."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cliptune.errors import BadData, BadInput
from cliptune.evaluation.retrieval import ExampleQuery
from cliptune.files import new_folder, remove_folder
from cliptune.models.artifact import Epoch, RunMetrics
from cliptune.models.calibration import Calibration
from cliptune.models.loading import ClipModel
from cliptune.training.batches.samplers import Order
from cliptune.training.distributed import World
from cliptune.training.options import TrainingOptions
from cliptune.training.run_logger import RunLogger

_ORDER_FILE = "order.safetensors"
_NAME = re.compile(r"epoch-(\d{5})-step-(\d{7})")


@dataclass
class Position:
    """Where a run stands: `step` steps into epoch `epoch` (both from 0)."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    """The sum of the epoch's losses so far, weighted by pairs."""
    pairs: int = 0
    history: list[Epoch] = field(default_factory=list)
    """One entry a finished epoch."""
    before: dict[str, float] = field(default_factory=dict)
    examples_before: dict[str, list[ExampleQuery]] = field(default_factory=dict)
    evaluations: dict[str, dict[str, int]] = field(default_factory=dict)
    """By the towers of an evaluation: how much is searched (`Evaluation.counts()`)."""
    start: dict[str, float] | None = None
    """Of training pairs before the first step: a `cliptune.training.health.Sign`."""
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What callbacks need to go on, by callback name."""
    batch_size: int = 0
    """Pairs a step, as chosen when the run began."""
    micro_batch_size: int = 0
    """Pairs that go through the towers at once: other parts would round otherwise."""
    peak_learning_rate: float = 0.0
    """As given, by default, or as a range test has found it when the run began."""


def save_checkpoint(
    folder: Path,
    clip: nn.Module,
    optimizer: Optimizer,
    schedule: LambdaLR,
    scaler: GradScaler,
    position: Position,
    identity: Mapping[str, object],
    order: Order | None = None,
    *,
    keep: int = 1,
) -> Path:
    """Write a checkpoint below `folder`, whole or not at all; the last `keep` stay.

    `identity` says which run it belongs to (options, starting digest): a resume checks it.
    `order` is that of an epoch under way, where it can't be made again from the seed.
    """
    path = folder / f"epoch-{position.epoch:05d}-step-{position.step:07d}"
    if path.exists():
        return path  # of the same step, so the same: it is never taken away to be written again
    with new_folder(path) as beside:
        state = {k: v.detach().cpu().contiguous() for k, v in clip.state_dict().items()}
        save_file(state, beside / "model.safetensors")
        states = {
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "scaler": scaler.state_dict(),
        }
        with (beside / "optimizer.pt").open("wb") as file:
            torch.save(states, file)  # given a path, torch would not say that the disk is full
        if order is not None:
            batches = {f"{i:07d}": torch.from_numpy(batch) for i, batch in enumerate(order)}
            save_file(batches, beside / _ORDER_FILE)
        content = {"identity": identity, "position": asdict(position)}
        (beside / "state.json").write_text(json.dumps(content))
    for old in list_checkpoints(folder)[:-keep]:
        remove_folder(old)
    return path


def read_position(path: Path) -> Position:
    """Where the checkpoint at `path` stands, without its weights.

    Raises:
        BadData: it can't be read.
    """
    try:
        return Position(**json.loads((path / "state.json").read_text())["position"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadData(f"checkpoint {path} can't be read: {error}") from error


def load_order(path: Path) -> Order | None:
    """The order of the epoch under way, if the checkpoint at `path` holds one."""
    file = path / _ORDER_FILE
    if not file.is_file():
        return None
    return [batch.numpy() for _, batch in sorted(load_file(file).items())]


def remove_unfinished(folder: Path) -> None:
    """Remove what processes left in `folder` that were killed while they wrote or removed one."""
    for path in folder.glob(".*") if folder.is_dir() else ():
        shutil.rmtree(path, ignore_errors=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints below `folder`, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def load_checkpoint(
    path: Path,
    clip: nn.Module,
    optimizer: Optimizer,
    schedule: LambdaLR,
    scaler: GradScaler,
    identity: Mapping[str, object],
) -> None:
    """Put the checkpoint at `path` into the model, the optimizer, the schedule and the scaler.

    Raises:
        BadInput: it belongs to other options or another starting model.
        BadData: it can't be read.
    """
    try:
        content = json.loads((path / "state.json").read_text())
        state = load_file(path / "model.safetensors")
        states = torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True)
    except Exception as error:
        raise BadData(f"checkpoint {path} can't be read: {error}") from error
    for name, value in identity.items():
        if content["identity"].get(name) != value:
            raise BadInput(
                f"checkpoint {path} is of another run: its {name} is "
                f"{content['identity'].get(name)!r}, not {value!r}"
            )
    clip.load_state_dict(state)
    optimizer.load_state_dict(states["optimizer"])
    schedule.load_state_dict(states["schedule"])
    if states.get("scaler"):
        scaler.load_state_dict(states["scaler"])


@dataclass
class Training:
    """A run under way; callbacks read and change it."""

    options: TrainingOptions
    model: ClipModel
    device: torch.device
    run_dir: Path
    logger: RunLogger
    world: World = field(default_factory=World)
    pixel_cache: Path | None = None
    """A folder for decoded pictures; None: they are kept in memory."""
    position: Position = field(default_factory=Position)
    epoch_metrics: dict[str, float] = field(default_factory=dict)
    """The metrics of the epoch that is ending."""
    after: dict[str, float] = field(default_factory=dict)
    examples_after: dict[str, list[ExampleQuery]] = field(default_factory=dict)
    calibration: Calibration | None = None
    """What cosines of the model that goes into the artifact mean."""
    keep_checkpoints: int = 1
    learning_rate: float = 0.0
    """The rate of the step under way: the largest, where layers have their own."""
    global_step: int = 0
    """Steps since the run began."""
    last_loss: float = math.nan
    stopping: bool = False
    warning: str = ""
    """What is wrong with the run as it stands, though it goes on; empty if nothing is."""

    def stop(self, reason: str) -> None:
        """End training after this epoch."""
        self.logger.log("INFO", f"stopping after epoch {len(self.position.history)}: {reason}")
        self.stopping = True

    def warn(self, message: str) -> None:
        """Say in the log and in the run's status what is wrong; an empty message takes it back."""
        if message and message != self.warning:
            self.logger.log("WARNING", message)
        self.warning = message

    def tell_metrics(self) -> None:
        """Tell the logger all metrics so far."""
        metrics = RunMetrics(
            before=self.position.before,
            epochs=self.position.history,
            evaluations=self.position.evaluations,
            warning=self.warning,
        )
        if self.after:
            metrics["after"] = self.after
        self.logger.metrics(metrics)
