"""What a run needs before its first step: the model with what is trained of it, data, sizes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator
from contextlib import closing
from functools import partial

import torch
from docarray import DocList
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from cliptune.data.validation import texts_of
from cliptune.documents import ClipDoc
from cliptune.errors import BadInput
from cliptune.models.loading import ClipModel, load_model
from cliptune.training.batches.features import add_frozen_features
from cliptune.training.batches.pairs import (
    Batch,
    Pairs,
    batches,
    check_trainable,
    label_together,
    read_batch,
    read_pairs,
    split_by_label,
)
from cliptune.training.batches.samplers import random_order, step_seed, steps_per_epoch
from cliptune.training.batches.word_order import WordOrder
from cliptune.training.defaults import batch_size_for
from cliptune.training.losses import LOSSES, Loss, calibrated_bias, clip_loss
from cliptune.training.memory import largest_fitting
from cliptune.training.optimization.freezing import freeze_parameters, training_mode
from cliptune.training.optimization.lora import Adapters
from cliptune.training.optimization.optimizers import make_optimizer
from cliptune.training.optimization.range_test import SPAN, STEPS, range_test
from cliptune.training.options import TrainingOptions
from cliptune.training.run_logger import RunLogger
from cliptune.training.state import Training
from cliptune.training.step import Objective, Step, TrainingFailed

_CALIBRATION_PAIRS = 512


def load_trainable(
    options: TrainingOptions, device: torch.device, logger: RunLogger
) -> tuple[ClipModel, Adapters | None]:
    """The model to start from, frozen as asked for, with adapters if there are to be some."""
    logger.log("INFO", f"loading the model {options.model}")
    model = load_model(
        options.model,
        device=str(device),
        context_length=options.context_length,
        tell=lambda words: logger.log("WARNING", words),
    )
    logger.log("INFO", model.config.summary)
    freeze_parameters(model.clip, options.freeze)
    adapters = None
    if options.lora is not None:
        adapters = Adapters(model.clip, options.lora)
    trained = sum(p.numel() for p in model.clip.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in model.clip.parameters())
    if trained < whole:
        words = f" in {adapters.count} adapters" if adapters else ""
        logger.log("INFO", f"{trained:,} of {whole:,} parameters are trained{words}")
    return model, adapters


def read_data(
    training: Training, train_docs: DocList[ClipDoc], eval_docs: DocList[ClipDoc] | None
) -> tuple[Pairs, Pairs | None]:
    """The training pairs, and those held out for `val_loss`.

    Raises:
        BadData: too little to train on, or too many unreadable pictures.
    """
    options = training.options

    def read(docs: DocList[ClipDoc], role: str) -> Pairs:
        workers, cache = options.num_workers, training.pixel_cache
        return read_pairs(docs, role, training.model, workers, training.logger, cache)

    if not training.world.is_first:
        training.world.wait(training.device)  # rank 0 decodes; its cache is read then
    pairs = read(train_docs, "training")
    held_out = None
    if eval_docs:
        held_out = read(eval_docs, "evaluation")
        label_together(pairs, held_out)
    elif options.val_split:
        pairs, held_out = split_by_label(pairs, options.val_split, options.seed)
    if held_out is not None:
        held_out.choices = None  # measured by the first text, the same one each time
    if training.world.is_first:
        training.world.wait(training.device)
    check_trainable(pairs)
    return pairs, held_out


def choose_sizes(training: Training, pairs: Pairs, autocast: torch.dtype | None) -> None:
    """Settle how many pairs a step takes, and how many go through the towers at once.

    They are rank 0's choice, and stay for the whole run, resumes included.

    Raises:
        BadInput: there are more processes than pairs in a batch.
    """
    options, world, position = training.options, training.world, training.position
    fitting = options.micro_batch_size
    if fitting is None:
        fitting = largest_fitting(
            training.model,
            pairs.all_tokens,
            training.device,
            autocast,
            1 if training.device.type == "cuda" else training.world.local_size,
        )
    size = options.batch_size or batch_size_for(
        options.model, fitting * world.size, len(pairs), options.epochs
    )
    chosen = torch.tensor([size, min(fitting, -(-size // world.size))])
    chosen = world.from_first(chosen, training.device)
    position.batch_size, position.micro_batch_size = (int(value) for value in chosen)
    fewest = len(pairs) // steps_per_epoch(len(pairs), position.batch_size)
    if fewest < world.size:
        raise BadInput(
            f"{len(pairs)} training pairs make batches of {fewest}, too few for {world.size} "
            "processes: use a larger batch_size or a smaller num_processes"
        )
    parts = "" if fitting >= size / world.size else f" in parts of {position.micro_batch_size}"
    shared = f", shared by {world.size} processes" if world.size > 1 else ""
    training.logger.log("INFO", f"{position.batch_size} pairs a step{parts}{shared}")


def compute_frozen_features(training: Training, pairs: Pairs, held_out: Pairs | None) -> None:
    """Put all pairs once through the towers' trunks that are not trained."""
    logger = training.logger
    for each in filter(None, (pairs, held_out)):
        add_frozen_features(
            training.model,
            each,
            training.device,
            training.position.micro_batch_size,
            lambda done, total: logger.progress("Embedding by the frozen tower", done, total),
        )
    if pairs.image_features is not None and training.options.augment_crop < 1:
        logger.log("INFO", "the vision tower is frozen: pictures are embedded once, not cropped")


def choose_loss(training: Training, pairs: Pairs) -> Loss:
    """The loss that is made less: CLIP's with smoothed targets, where the options say so."""
    smoothing = training.options.smoothing(len(pairs))
    if not smoothing:
        return LOSSES[training.options.loss]
    training.logger.log("INFO", f"targets are smoothed by {smoothing:g}")
    return partial(clip_loss, label_smoothing=smoothing)


def vary_word_order(training: Training, pairs: Pairs) -> None:
    """Have texts read with their words in another order, where the options say so."""
    part, model = training.options.word_order(len(pairs)), training.model
    if not part:
        return
    if pairs.text_features is not None:
        if training.options.augment_word_order:
            training.logger.log(
                "INFO", "the text tower is frozen: texts are embedded once, as they are"
            )
        return
    training.logger.log("INFO", f"{part:.0%} of the texts are read with their words in any order")
    assert pairs.table is not None  # noqa: S101 - `make_pairs` gives it
    texts = pairs.choices.texts if pairs.choices else texts_of(pairs.table.docs)
    tokenize = partial(model.tokenizer, context_length=model.context_length)
    pairs.word_order = WordOrder(part, texts, tokenize)


def add_logit_bias(training: Training, objective: Objective, pairs: Pairs) -> None:
    """Give a model that has none the bias that SigLIP's loss needs, fit to its cosines."""
    model, options = training.model, training.options
    if LOSSES[options.loss] is not LOSSES["SigLIPLoss"] or model.clip.logit_bias is not None:
        return
    order = random_order(len(pairs), _CALIBRATION_PAIRS, options.seed, 0)
    batch = read_batch(pairs, order[0], slice(0, len(order[0])))
    model.clip.eval()
    images, texts = objective.embeddings(batch)
    with torch.no_grad():
        logits = model.clip.logit_scale.exp() * images @ texts.T
        bias = calibrated_bias(logits, batch.labels.to(logits.device))
    model.clip.logit_bias = nn.Parameter(bias)
    model.model_cfg = {**model.model_cfg, "init_logit_bias": float(bias)}
    training.logger.log("INFO", f"SigLIP's logit bias begins at {float(bias):.2f}")


def choose_learning_rate(training: Training, objective: Objective, pairs: Pairs) -> None:
    """Settle the peak rate: as given or by default, or by a range test on the training data.

    Its steps are those that the run would begin with, at other rates; all weights are put back.

    Raises:
        TrainingFailed: the loss is not a number from the start.
    """
    options, position, world = training.options, training.position, training.world
    position.peak_learning_rate = around = options.peak_learning_rate
    if options.learning_rate != "auto":
        return
    clip = training.model.clip
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    optimizer = make_optimizer(options.chosen_optimizer, options.optimizer_options, around, clip)
    schedule = LambdaLR(optimizer, lambda _: 1.0)
    step, rates = Step(training, objective, optimizer, schedule), schedule.get_last_lr()

    def train_at(rate: float) -> float:
        for group, own in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = own * rate / around
        number, batch = next(drawn)
        loss, norm = step.gradients(batch, step_seed(options.seed, number))
        if math.isfinite(norm):
            step.apply()
        training.logger.progress("Finding the learning rate", number + 1, STEPS, loss=loss)
        return loss

    training_mode(clip)
    with closing(_drawn_batches(training, pairs)) as drawn:
        found = range_test(train_at, around)
    clip.load_state_dict(before)
    optimizer.zero_grad(set_to_none=True)
    if not found.rates:
        raise TrainingFailed(
            f"the loss is not a number at a learning rate of {around / SPAN:.2g}, from the start: "
            "look at the model and the data, or use precision='fp32'"
        )
    chosen = torch.tensor(found.suggestion, dtype=torch.float64)
    position.peak_learning_rate = world.from_first(chosen, training.device).item()
    training.logger.log(
        "INFO",
        f"learning rate {position.peak_learning_rate:.2g}, by a range test of {len(found.rates)} "
        f"steps from {found.rates[0]:.2g} to {found.rates[-1]:.2g} (by default {around:.2g})",
    )


def _drawn_batches(training: Training, pairs: Pairs) -> Generator[tuple[int, Batch], None, None]:
    """Batches of the pairs in random order, epoch after epoch, with their numbers."""
    options, world, number = training.options, training.world, 0
    for epoch in itertools.count():
        order = random_order(len(pairs), training.position.batch_size, options.seed, epoch)
        seed_of = partial(step_seed, options.seed, epoch)
        for _, batch in batches(
            pairs, order, start=0, rank=world.rank, world_size=world.size, seed_of=seed_of
        ):
            yield number, batch
            number += 1
