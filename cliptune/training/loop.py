"""The training loop: fine-tune both towers of a CLIP on pairs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from docarray import DocList
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from cliptune.data.pixels import PixelSet, decode_documents
from cliptune.data.source import with_labels
from cliptune.documents import ClipDoc
from cliptune.errors import BadData, CliptuneError
from cliptune.files import write_text
from cliptune.home import cache_dir
from cliptune.models.artifact import Artifact
from cliptune.models.loading import ClipModel, load_model, pick_device
from cliptune.models.towers import cut_to_longest, split_state
from cliptune.models.writing import write_artifact
from cliptune.training.batches import (
    Batch,
    Pairs,
    augment,
    batches,
    epoch_order,
    make_pairs,
    split_by_label,
    step_seed,
    to_input,
)
from cliptune.training.callbacks import Callback
from cliptune.training.checkpoint import Position, load_checkpoint, save_checkpoint
from cliptune.training.losses import LOSSES
from cliptune.training.optimizers import make_optimizer
from cliptune.training.options import TrainingOptions
from cliptune.training.reporting import Reporter
from cliptune.training.schedules import make_schedule

MAX_LOGIT_SCALE = math.log(100)
"""The bound on the logit scale's logarithm, from the CLIP paper: training is unstable above."""


class TrainingFailed(CliptuneError):
    """Training can't go on, such as after a loss that is not a number."""


class Cancelled(Exception):
    """The reporter says that the run is to stop; raised after a checkpoint was written."""


@dataclass(frozen=True)
class Outcome:
    """What a finished training gives back."""

    artifact: Artifact
    before: dict[str, float]
    after: dict[str, float]
    history: list[dict[str, Any]]
    """One entry an epoch."""


@dataclass
class Training:
    """A run under way; callbacks read and change it."""

    options: TrainingOptions
    model: ClipModel
    device: torch.device
    run_dir: Path
    reporter: Reporter
    position: Position = field(default_factory=Position)
    epoch_metrics: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    examples_after: dict[str, Any] = field(default_factory=dict)
    stopping: bool = False

    def stop(self, reason: str) -> None:
        """End training after this epoch."""
        self.reporter.log("INFO", f"stopping after epoch {self.position.epoch}: {reason}")
        self.stopping = True

    def report_metrics(self) -> None:
        """Tell the reporter all metrics so far."""
        report = {"before": self.position.before, "epochs": self.position.history}
        self.reporter.metrics({**report, "after": self.after} if self.after else report)


def train(
    options: TrainingOptions,
    train_docs: DocList[ClipDoc],
    eval_docs: DocList[ClipDoc] | None,
    callbacks: Sequence[Callback],
    run_dir: Path,
    reporter: Reporter,
    resume_from: Path | None = None,
) -> Outcome:
    """Fine-tune `options.model` on `train_docs` and write `run_dir/artifact`.

    Each document is one pair of `text` and picture; equal labels (by default: equal texts) are
    right answers to each other. `eval_docs` give `val_loss`. A checkpoint is written to
    `run_dir/checkpoints` after every epoch and when the reporter asks to stop; `resume_from`
    goes on from one, with the weights that the uninterrupted run would have had (on a CPU).

    Raises:
        BadData: too little or too much unreadable data.
        Cancelled: the reporter asked to stop.
        TrainingFailed: the loss is not finite; `run_dir/bad-batch.json` names its documents.
    """
    started = time.monotonic()
    torch.manual_seed(options.seed)
    device = pick_device(options.device)
    reporter.log("INFO", f"loading the model {options.model}")
    model = load_model(options.model, device=str(device))
    start_digest = model.digest
    training = Training(options, model, device, run_dir, reporter)
    pairs, held_out = _prepare_data(training, train_docs, eval_docs)
    step_count = len(epoch_order(len(pairs), options.pairs_per_step, 0, 0))

    _freeze(model.clip, options.freeze)
    optimizer = make_optimizer(
        options.optimizer, options.optimizer_options, options.peak_learning_rate, model.clip
    )
    schedule = make_schedule(
        options.scheduler, options.scheduler_options, optimizer, step_count * options.epochs
    )
    identity = {
        "options": options.model_dump(mode="json", exclude={"device", "num_workers", "to_onnx"}),
        "start_digest": start_digest,
        "pairs": len(pairs),
    }
    if resume_from is not None:
        training.position = load_checkpoint(resume_from, model.clip, optimizer, schedule, identity)
        reporter.log(
            "INFO",
            f"resumed in epoch {training.position.epoch + 1} at step {training.position.step}",
        )
    for callback in callbacks:
        callback.on_train_begin(training)

    step = _Step(training, optimizer, schedule)
    checkpoints = run_dir / "checkpoints"
    while training.position.epoch < options.epochs and not training.stopping:
        epoch_started = time.monotonic()
        try:
            _train_epoch(training, pairs, step)
        except Cancelled:
            save_checkpoint(
                checkpoints, model.clip, optimizer, schedule, training.position, identity
            )
            raise
        _end_epoch(training, held_out, callbacks, schedule, epoch_started)
        save_checkpoint(checkpoints, model.clip, optimizer, schedule, training.position, identity)

    for callback in callbacks:
        callback.on_train_end(training)
    for callback in callbacks:
        callback.on_finish(training)
    metrics = {"before": training.position.before, "after": training.after}
    artifact = write_artifact(
        model,
        run_dir / "artifact",
        config=options.model_dump(mode="json"),
        metrics={**metrics, "epochs": training.position.history},
        to_onnx=options.to_onnx,
        replace=True,
    )
    training.report_metrics()
    if training.examples_after:
        examples = {"before": training.position.examples_before, "after": training.examples_after}
        reporter.examples(examples)
    _report_end(training, time.monotonic() - started)
    return Outcome(artifact, metrics["before"], metrics["after"], training.position.history)


def _prepare_data(
    training: Training, train_docs: DocList[ClipDoc], eval_docs: DocList[ClipDoc] | None
) -> tuple[Pairs, Pairs | None]:
    """Decode every picture once, name the bad ones, tokenise; returns (training, held out)."""
    options, model = training.options, training.model

    def read(docs: DocList[ClipDoc], role: str) -> Pairs:
        docs = with_labels(docs)
        decoded = _decode(training, docs, role)
        return make_pairs(docs, decoded, model.tokenizer, model.context_length)

    pairs = read(train_docs, "training")
    held_out = read(eval_docs, "evaluation") if eval_docs else None
    if held_out is None and options.val_split:
        pairs, held_out = split_by_label(pairs, options.val_split, options.seed)
    if len(pairs) < 2:
        raise BadData(
            f"{len(pairs)} usable training pair(s): contrastive training needs at least 2"
        )
    if len(pairs.labels.unique()) < 2:
        raise BadData(
            "all training pairs have the same label, so that none is a wrong answer to another: "
            "give them different texts or labels"
        )
    return pairs, held_out


def _decode(training: Training, docs: DocList[ClipDoc], role: str) -> PixelSet:
    decoded = decode_documents(
        docs,
        training.model.preprocessing,
        cache_dir=cache_dir() / "pixels",
        workers=training.options.num_workers,
        on_progress=lambda done, total: training.reporter.progress(
            f"Decoding {role} pictures", done, total
        ),
    )
    left_out = f", {len(decoded.problems)} left out" if decoded.problems else ""
    training.reporter.log("INFO", f"{len(decoded.index)} {role} pairs{left_out}")
    for problem in decoded.problems[:20]:
        training.reporter.log(
            "WARNING", f"{role} document {problem.position} (id {problem.id}): {problem.reason}"
        )
    return decoded


def _train_epoch(training: Training, pairs: Pairs, step: _Step) -> None:
    options, position = training.options, training.position
    order = epoch_order(len(pairs), options.pairs_per_step, options.seed, position.epoch)
    training.model.clip.train()
    for number, batch in batches(pairs, order, start=position.step):
        loss = step(batch, step_seed(options.seed, position.epoch, number), pairs.ids)
        position.step = number + 1
        position.loss_sum += loss * len(batch.positions)
        position.pairs += len(batch.positions)
        values = {"loss": position.loss_sum / position.pairs}
        if position.history and "val_loss" in position.history[-1]:
            values["val_loss"] = position.history[-1]["val_loss"]
        if position.step < len(order):  # the epoch's last line waits for its val_loss
            training.reporter.progress(_epoch_title(training), position.step, len(order), **values)
        if training.reporter.cancelled():
            raise Cancelled


def _end_epoch(
    training: Training,
    held_out: Pairs | None,
    callbacks: Sequence[Callback],
    schedule: LambdaLR,
    epoch_started: float,
) -> None:
    position = training.position
    entry: dict[str, Any] = {
        "epoch": position.epoch + 1,
        "loss": position.loss_sum / max(1, position.pairs),
        "learning_rate": schedule.get_last_lr()[0],
    }
    values = {"loss": entry["loss"]}
    if held_out is not None:
        values["val_loss"] = entry["val_loss"] = validation_loss(training, held_out)
    training.reporter.progress(_epoch_title(training), position.step, position.step, **values)
    training.epoch_metrics = {}
    position.history.append(entry)
    for callback in callbacks:
        callback.on_epoch_end(training)
    entry["metrics"] = dict(training.epoch_metrics)
    entry["seconds"] = time.monotonic() - epoch_started
    position.epoch += 1
    position.step, position.loss_sum, position.pairs = 0, 0.0, 0
    training.report_metrics()


def _epoch_title(training: Training) -> str:
    return f"Training [{training.position.epoch + 1}/{training.options.epochs}]"


class _Step:
    """One optimisation step on one batch."""

    def __init__(
        self, training: Training, optimizer: torch.optim.Optimizer, schedule: LambdaLR
    ) -> None:
        self.training = training
        self.optimizer = optimizer
        self.schedule = schedule
        self.trainable = [p for p in training.model.clip.parameters() if p.requires_grad]
        self.autocast = autocast_dtype(training.options.precision, training.device)
        self.scaler = torch.amp.GradScaler(
            training.device.type, enabled=self.autocast is torch.float16
        )

    def __call__(self, batch: Batch, seed: int, ids: list[str]) -> float:
        """Train on `batch`; returns its loss."""
        training, options = self.training, self.training.options
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # for dropout, where a model has some
        pixels = augment(
            to_input(batch.pixels, training.model.preprocessing, training.device),
            min_area=options.augment_crop,
            flip=options.augment_flip,
            generator=generator,
        )
        loss = contrastive_loss(training, pixels, batch.tokens, batch.labels, self.autocast)
        value = loss.item()
        if not math.isfinite(value):
            self._fail(value, [ids[i] for i in batch.positions])
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if options.max_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.trainable, options.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        with torch.no_grad():
            training.model.clip.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        return value

    def _fail(self, loss: float, ids: list[str]) -> None:
        position, rate = self.training.position, self.schedule.get_last_lr()[0]
        where = {"epoch": position.epoch + 1, "step": position.step + 1, "learning_rate": rate}
        path = self.training.run_dir / "bad-batch.json"
        write_text(path, json.dumps({**where, "loss": str(loss), "ids": ids}, indent=2))
        raise TrainingFailed(
            f"the loss is {loss} in epoch {where['epoch']} at step {where['step']} (learning rate "
            f"{rate:.2g}): try a lower learning rate; the batch's ids are in {path.name}"
        )


def contrastive_loss(
    training: Training,
    pixels: Tensor,
    tokens: Tensor,
    labels: Tensor,
    autocast: torch.dtype | None,
) -> Tensor:
    """The run's loss of one batch: pixels float [N, 3, H, W], tokens int64 [N, L], labels [N]."""
    model, device = training.model, training.device
    text_module, vision_module = model.text_module, model.vision_module
    if text_module.cuttable:
        tokens = cut_to_longest(tokens)
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        images = vision_module(pixels)
        texts = text_module(tokens.to(device))
    return LOSSES[training.options.loss](
        F.normalize(images.float(), dim=-1),
        F.normalize(texts.float(), dim=-1),
        model.clip.logit_scale.exp(),
        labels.to(device),
    )


@torch.no_grad()
def validation_loss(training: Training, pairs: Pairs) -> float:
    """The mean loss over held-out pairs, in batches of the training's size, without crops."""
    training.model.clip.eval()
    order = epoch_order(len(pairs), training.options.pairs_per_step, training.options.seed, 0)
    total = 0.0
    for _, batch in batches(pairs, order):
        pixels = to_input(batch.pixels, training.model.preprocessing, training.device)
        loss = contrastive_loss(training, pixels, batch.tokens, batch.labels, None)
        total += loss.item() * len(batch.positions)
    return total / len(pairs)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype to compute in, None for fp32: `auto` is bf16 on accelerators that have it."""
    if precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bf16 else None
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _freeze(clip: nn.Module, freeze: bool | str) -> None:
    """Stop gradients as `TrainingOptions.freeze` says."""
    text, vision = split_state(dict(clip.named_parameters()))
    frozen: set[str] = set()
    if freeze in (True, "vision"):
        frozen |= vision.keys()
    if freeze in (True, "text"):
        frozen |= {name for name in text if "logit_" not in name}
    if freeze is True:
        heads = ("text_projection", "visual.proj", "visual.head.", "text.proj")
        frozen = {name for name in frozen if not name.startswith(heads)}
    for name, parameter in clip.named_parameters():
        parameter.requires_grad_(name not in frozen)


def _report_end(training: Training, seconds: float) -> None:
    training.reporter.log("INFO", "Done ✨")
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    training.reporter.log(
        "DEBUG",
        f"Finetuning took {days} days, {hours} hours {minutes} minutes and {rest} seconds",
    )
    for name, value in training.after.items():
        training.reporter.log("DEBUG", f"Metric: {name!r} Value: {value:.5f}")
