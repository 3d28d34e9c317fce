"""The training loop: fine-tune both towers of a CLIP on pairs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.inference.engines import get_tower
from cliptune.models.artifact import TEXT_TOWER, Artifact, Epoch, open_artifact
from cliptune.models.artifact_writer import write_artifact
from cliptune.models.loading import pick_device
from cliptune.training.batches.pairs import Pairs, batches, read_batch
from cliptune.training.batches.samplers import (
    Order,
    hard_negative_order,
    negatives_order,
    random_order,
    step_seed,
    steps_per_epoch,
)
from cliptune.training.callbacks import Callback, Callbacks
from cliptune.training.distributed import World, own_device
from cliptune.training.health import Health, Sign, finds_less, judge
from cliptune.training.losses import LOSSES, Loss
from cliptune.training.optimization.freezing import training_mode
from cliptune.training.optimization.optimizers import make_optimizer, make_schedule
from cliptune.training.options import TrainingOptions
from cliptune.training.run_logger import Cancelled, RunExamples, RunLogger, SilentRunLogger
from cliptune.training.setup import (
    add_logit_bias,
    choose_learning_rate,
    choose_loss,
    choose_sizes,
    compute_frozen_features,
    load_trainable,
    read_data,
    vary_word_order,
)
from cliptune.training.state import (
    Training,
    load_checkpoint,
    load_order,
    read_position,
    remove_unfinished,
    save_checkpoint,
)
from cliptune.training.step import Objective, Step

# What may differ between a run and its resumption without changing its result.
_NOT_IDENTITY = {"device", "num_workers", "to_onnx", "num_processes", "checkpoint_minutes"}


@dataclass(frozen=True)
class Outcome:
    """What a finished training gives back."""

    artifact: Artifact
    before: dict[str, float]
    after: dict[str, float]
    history: list[Epoch]
    """One entry an epoch."""
    warning: str = ""
    """What went wrong without an error (see `cliptune.training.health`); empty if nothing did."""


def train(
    options: TrainingOptions,
    train_docs: DocList[ClipDoc],
    eval_docs: DocList[ClipDoc] | None,
    callbacks: Sequence[Callback],
    run_dir: Path,
    logger: RunLogger,
    resume_from: Path | None = None,
    csv_options: Mapping[str, object] | None = None,
    pixel_cache: Path | None = None,
) -> Outcome:
    """Fine-tune `options.model` on `train_docs` and write `run_dir/artifact`.

    Each document is one pair of `text` and picture; equal labels (by default: equal texts) are
    right answers to each other. `eval_docs` give `val_loss`. A checkpoint is written to
    `run_dir/checkpoints` after every epoch, every `options.checkpoint_minutes`, and when the
    logger asks to stop; `resume_from` goes on from one, with the weights that the uninterrupted
    run would have had (on a CPU).

    `csv_options` say how the tables were read that the documents come from: the artifact keeps
    them for whoever evaluates it on others. `pixel_cache` is a folder for decoded pictures;
    without one they are kept in memory.

    Started by `torchrun`, the processes share each batch; the first one alone evaluates, runs the
    callbacks, reports and writes.

    Raises:
        BadData: too little or too much unreadable data.
        Cancelled: the logger asked to stop.
        TrainingFailed: the loss is not finite; `run_dir/bad-batch.json` names its documents.
        ProcessesLost: another of the processes has ended.
    """
    started = time.monotonic()
    device = own_device(pick_device(options.device))
    world = World.join(device)
    if not world.is_first:
        logger, callbacks = SilentRunLogger(logger), []
    torch.manual_seed(options.seed)
    model, adapters = load_trainable(options, device, logger)
    start_digest = model.digest
    training = Training(options, model, device, run_dir, logger, world, pixel_cache)
    hooks = Callbacks(callbacks)
    try:
        run = _Run(training, train_docs, eval_docs, start_digest, hooks)
        run.prepare(resume_from)
        hooks.check(run.held_out is not None)
        hooks.call("on_train_begin", training)
        training.stopping = world.any(training.stopping, device)
        while training.position.epoch < options.epochs and not training.stopping:
            run.epoch()
        hooks.call("on_train_end", training)
        run.check_health()  # of the weights that are kept, which may be an earlier epoch's
        if adapters is not None:
            adapters.merge()
        hooks.call("on_merge", training)
        hooks.call("on_finish", training)
        worse = finds_less(training.position.before, training.after, training.position.evaluations)
        if worse:
            training.warn("; ".join(filter(None, [training.warning, worse])))
        outcome = _finish(training, csv_options or {})
    finally:
        hooks.call("on_close", training)
    _report_end(training, time.monotonic() - started)
    return outcome


class _Run:
    """The epochs of a training."""

    def __init__(
        self,
        training: Training,
        train_docs: DocList[ClipDoc],
        eval_docs: DocList[ClipDoc] | None,
        start_digest: str,
        hooks: Callbacks,
    ) -> None:
        self.training, self.hooks = training, hooks
        self.pairs, self.held_out = read_data(training, train_docs, eval_docs)
        self.identity = {
            "options": training.options.model_dump(mode="json", exclude=_NOT_IDENTITY),
            "start_digest": start_digest,
            "pairs": len(self.pairs),
        }
        self.checkpoints = training.run_dir / "checkpoints"
        self.order: Order | None = None
        self.health: Health | None = None
        self._saved = time.monotonic()

    def prepare(self, resume_from: Path | None) -> None:
        """Make all that steps need; go on from a checkpoint if there is one."""
        training, options = self.training, self.training.options
        if training.world.is_first:
            remove_unfinished(self.checkpoints)
        autocast = autocast_dtype(options.precision, training.device)
        if resume_from is None:
            choose_sizes(training, self.pairs, autocast)
        else:
            training.position = read_position(resume_from)
        compute_frozen_features(training, self.pairs, self.held_out)
        vary_word_order(training, self.pairs)
        self.validation = self._objective(LOSSES[options.loss], None, World())
        add_logit_bias(training, self.validation, self.pairs)
        objective = self._objective(choose_loss(training, self.pairs), autocast, training.world)
        if resume_from is None:
            choose_learning_rate(training, objective, self.pairs)
        self.optimizer = make_optimizer(
            options.chosen_optimizer,
            options.optimizer_options,
            training.position.peak_learning_rate,
            training.model.clip,
        )
        steps = steps_per_epoch(len(self.pairs), training.position.batch_size)
        schedule = make_schedule(
            options.scheduler, options.scheduler_options, self.optimizer, options.epochs, steps
        )
        self.step = Step(training, objective, self.optimizer, schedule)
        if resume_from is not None:
            load_checkpoint(
                resume_from,
                training.model.clip,
                self.optimizer,
                schedule,
                self.step.scaler,
                self.identity,
            )
            self.order = load_order(resume_from)
            position = training.position
            training.global_step = position.epoch * steps + position.step
            training.logger.log(
                "INFO", f"resumed in epoch {position.epoch + 1} at step {position.step}"
            )

        self._look_at_start()

    def check_health(self) -> None:
        """Say what is wrong with the model as it is, if something is."""
        if self.health is not None and self.training.position.start is not None:
            fault = judge(Sign(**self.training.position.start), self.health.look())
            self.training.warn(fault and f"epoch {len(self.training.position.history)}: {fault}")

    def _look_at_start(self) -> None:
        """The sample before the first step: what later ones are compared with."""
        training, position = self.training, self.training.position
        if training.world.is_first:
            self.health = Health(self.validation, self.pairs, training.options.seed)
            if position.start is None and training.global_step == 0:
                position.start = asdict(self.health.look())

    def epoch(self) -> None:
        """Train on all pairs once, or on those that are left of an epoch; evaluate; checkpoint.

        Raises:
            Cancelled: the logger asked to stop; a checkpoint was written.
        """
        training, position = self.training, self.training.position
        started = time.monotonic()
        self.order = self.order or self._new_order()
        training_mode(training.model.clip)
        world, seed_of = training.world, partial(step_seed, training.options.seed, position.epoch)
        for number, batch in batches(
            self.pairs,
            self.order,
            start=position.step,
            rank=world.rank,
            world_size=world.size,
            seed_of=seed_of,
        ):
            seed = seed_of(number)
            loss = self.step(batch, seed, self.pairs.ids)
            position.step = number + 1
            position.loss_sum += loss * len(batch)
            position.pairs += len(batch)
            self._report_step(len(self.order))
            self.hooks.call("on_step_end", training)
            if world.any(training.logger.cancelled(), training.device):
                self.save()
                raise Cancelled
            if self._checkpoint_is_due():
                self.save()
        self._end_epoch(started)
        self.order = None
        self.save()
        training.stopping = world.any(training.stopping, training.device)

    def save(self) -> None:
        """Write a checkpoint of where the run stands."""
        training = self.training
        keep_order = self.training.options.sampler != "random" and self.order is not None
        if training.world.is_first:
            save_checkpoint(
                self.checkpoints,
                training.model.clip,
                self.optimizer,
                self.step.schedule,
                self.step.scaler,
                training.position,
                self.identity,
                self.order if keep_order else None,
                keep=training.keep_checkpoints,
            )
        self._saved = time.monotonic()

    def _objective(self, loss: Loss, autocast: torch.dtype | None, world: World) -> Objective:
        training, options = self.training, self.training.options
        return Objective(
            training.model,
            loss,
            training.device,
            micro_batch_size=training.position.micro_batch_size,
            autocast=autocast,
            min_area=options.augment_crop,
            flip=options.augment_flip,
            matryoshka=options.matryoshka,
            world=world,
        )

    def _new_order(self) -> Order:
        training, position = self.training, self.training.position
        seed, size = training.options.seed, position.batch_size
        if self.pairs.negatives:
            return negatives_order(
                self.pairs.negatives, len(self.pairs), size, seed, position.epoch
            )
        if training.options.sampler == "random":
            return random_order(len(self.pairs), size, seed, position.epoch)
        training.model.clip.eval()
        tower = get_tower(training.model, TEXT_TOWER, batch_size=position.micro_batch_size)
        embeddings = torch.from_numpy(tower.encode_distinct(self.pairs.tokens))
        # One process's rounding must not give it another order than the others have.
        embeddings = training.world.from_first(embeddings, training.device)
        return hard_negative_order(embeddings.numpy(), size, seed, position.epoch)

    def _checkpoint_is_due(self) -> bool:
        minutes = self.training.options.checkpoint_minutes
        return minutes is not None and time.monotonic() - self._saved > 60 * minutes

    def _report_step(self, steps: int) -> None:
        position = self.training.position
        values = {"loss": position.loss_sum / position.pairs}
        if position.history and "val_loss" in position.history[-1]:
            values["val_loss"] = position.history[-1]["val_loss"]
        if position.step < steps:  # the epoch's last line waits for its val_loss
            self.training.logger.progress(self._title(), position.step, steps, **values)

    def _end_epoch(self, started: float) -> None:
        training, position = self.training, self.training.position
        entry: Epoch = {
            "epoch": position.epoch + 1,
            "loss": position.loss_sum / max(1, position.pairs),
            "learning_rate": float(max(self.step.schedule.get_last_lr())),
        }
        values = {"loss": entry["loss"]}
        if self.held_out is not None and training.world.is_first:
            values["val_loss"] = entry["val_loss"] = self._validation_loss(self.held_out)
        training.logger.progress(self._title(), position.step, position.step, **values)
        training.epoch_metrics = {}
        position.history.append(entry)
        self.check_health()
        self.hooks.call("on_epoch_end", training)
        entry["metrics"] = dict(training.epoch_metrics)
        entry["seconds"] = time.monotonic() - started
        position.epoch += 1
        position.step, position.loss_sum, position.pairs = 0, 0.0, 0
        training.tell_metrics()

    def _validation_loss(self, held_out: Pairs) -> float:
        """The loss of `held_out` without augmentation, in batches of the training's size."""
        self.training.model.clip.eval()
        order = random_order(
            len(held_out), self.training.position.batch_size, self.training.options.seed, 0
        )
        total = 0.0
        for positions in order:
            batch = read_batch(held_out, positions, slice(0, len(positions)))
            total += self.validation.value(batch) * len(batch)
        return total / len(held_out)

    def _title(self) -> str:
        return f"Training [{self.training.position.epoch + 1}/{self.training.options.epochs}]"


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype to compute in, None for fp32: `auto` is bf16 on accelerators that have it."""
    if precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bf16 else None
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _finish(training: Training, csv_options: Mapping[str, object]) -> Outcome:
    """Write the artifact and tell all metrics."""
    position, options = training.position, training.options
    folder = training.run_dir / "artifact"
    if training.world.is_first:
        write_artifact(
            training.model,
            folder,
            config={**options.model_dump(mode="json"), "csv_options": dict(csv_options)},
            metrics={
                "before": position.before,
                "after": training.after,
                "epochs": position.history,
                "evaluations": position.evaluations,
            },
            calibration=training.calibration,
            to_onnx=options.to_onnx,
            replace=True,
        )
        training.tell_metrics()
        if training.examples_after:
            examples = RunExamples(before=position.examples_before, after=training.examples_after)
            training.logger.examples(examples)
    training.world.wait(training.device)
    artifact = open_artifact(folder)
    metrics = artifact.metrics
    return Outcome(
        artifact, metrics["before"], metrics["after"], metrics["epochs"], training.warning
    )


def _report_end(training: Training, seconds: float) -> None:
    if training.warning:
        training.logger.log("WARNING", f"finished, but {training.warning}")
    else:
        training.logger.log("INFO", "Done ✨")
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    training.logger.log(
        "DEBUG",
        f"Finetuning took {days} days, {hours} hours {minutes} minutes and {rest} seconds",
    )
    for name, value in training.after.items():
        training.logger.log("DEBUG", f"Metric: {name!r} Value: {value:.5f}")
