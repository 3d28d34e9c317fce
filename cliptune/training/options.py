"""The options of a training run, validated where they enter."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from cliptune.errors import BadInput, near_matches
from cliptune.models.registry import BUILTIN
from cliptune.training.batches.samplers import Sampler
from cliptune.training.defaults import (
    AUTO,
    augment_word_order_for,
    label_smoothing_for,
    learning_rate_for,
    optimizer_for,
)
from cliptune.training.losses import LOSSES, clip_loss
from cliptune.training.optimization.freezing import Freeze
from cliptune.training.optimization.lora import LoraOptions
from cliptune.training.optimization.optimizers import OPTIMIZERS, SCHEDULES

Precision = Literal["auto", "fp32", "bf16", "fp16"]


class TrainingOptions(BaseModel):
    """How to fine-tune. Every field has a default that works; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = BUILTIN
    """The model to start from: a name of `describe_models()`, a folder, or an artifact."""
    context_length: int | None = Field(None, ge=1)
    """Tokens of a text that are read; None: as many as the model was trained for. More, such as
    248, stretch its position embeddings (see `cliptune.models.context`)."""
    loss: str = "CLIPLoss"
    """A name of `cliptune.training.losses.LOSSES`."""
    label_smoothing: float | None = Field(None, ge=0, lt=1)
    """The part of CLIPLoss's targets that all answers share, the wrong ones too; None: 0.1 for the
    built-in model and random weights, from 1,000 pairs on, 0 for all others."""
    matryoshka: tuple[int, ...] = ()
    """Lengths such as `[64, 128, 256]` at which the first numbers of an embedding are trained to be
    one themselves, beside the whole: `cliptune shorten` then makes a model of that length."""
    optimizer: str = AUTO
    """A name of `cliptune.training.optimization.optimizers.OPTIMIZERS`; `auto` is Muon for the
    built-in model and for random weights, AdamW for all others and for adapters."""
    optimizer_options: dict[str, object] = Field(default_factory=dict)
    """Arguments of that optimizer, such as `{'weight_decay': 0.1, 'betas': [0.9, 0.98]}`, and
    `layer_wise_lr_decay`, by which the rate falls from block to block towards the input."""
    learning_rate: float | Literal["auto"] | None = None
    """The peak learning rate; None fits the model (see `cliptune.training.defaults`): 2e-3 by Muon
    for the built-in model and random weights, 1e-3 by other optimizers; 1e-5 for all others, 1e-4
    for adapters. `auto` finds it by a range test of at most 100 steps on the data (see
    `cliptune.training.optimization.range_test`)."""
    epochs: int = Field(5, ge=0, le=100_000)
    batch_size: int | None = Field(None, ge=2)
    """Pairs a step; None: the largest power of two that fits into memory at once, at most 1,024
    and 1/16 of the pairs; for the built-in model and random weights also 1/400 of the pairs of
    all epochs, or 64. An epoch is cut in equal batches of at most that size."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Pairs that go through the towers at once; None: as many as fit into memory. A smaller part
    needs less memory and gives the gradients of the whole batch (gradient caching)."""
    sampler: Sampler = "random"
    """`hard_negatives` puts groups of pairs with like texts into one batch, by the model's
    embeddings."""
    scheduler: str = "cosine"
    """A name of `cliptune.training.optimization.optimizers.SCHEDULES`."""
    scheduler_options: dict[str, object] = Field(default_factory=dict)
    """`num_warmup_steps` (an int, or a fraction of all steps; default 0.1), `scheduler_step`
    (`'batch'` or `'epoch'`) and the schedule's own."""
    freeze: Freeze = False
    """Train without the named tower (its features are then computed once, from pictures as they
    are), or without the first N blocks of towers: `{'vision': 8, 'text': 4}`; True trains the
    projections and the logit scale only."""
    lora: LoraOptions | None = None
    """Train low-rank adapters of that rank (`{'rank': 8}`) instead of the weights themselves."""
    max_grad_norm: float | None = Field(1.0, gt=0)
    """Gradients are clipped to this norm; None: not at all."""
    device: str | None = None
    """`cpu`, `cuda`, `cuda:1`; None: the accelerator that is there."""
    precision: Precision = "auto"
    """Autocast: `auto` is bf16 where an accelerator has it, else fp32."""
    num_workers: int = Field(4, ge=0, le=256)
    """Threads that decode pictures."""
    val_split: float = Field(0.0, ge=0, lt=1)
    """The part of the training labels kept aside for `val_loss`, where no eval data is given."""
    augment_crop: float = Field(0.9, gt=0, le=1)
    """Pictures are cropped at random to at least this part of their area; 1: not cropped."""
    augment_flip: bool = True
    """Mirror half of the pictures."""
    augment_word_order: float | None = Field(None, ge=0, le=1)
    """The part of the texts whose words are put in another order, drawn anew each time; None: half
    of them for the built-in model and random weights, from 1,000 pairs on, none for all others."""
    to_onnx: bool = False
    """Export both towers to ONNX too."""
    num_processes: int = Field(1, ge=1, le=64)
    """Processes that share each batch, through `torchrun`: one for each GPU."""
    checkpoint_minutes: float | None = Field(10.0, gt=0)
    """A checkpoint is written after every epoch and this often; None: after epochs only."""
    seed: int = Field(42, ge=0, lt=2**31)
    """The same seed gives the same losses on a CPU."""

    @field_validator("loss", "optimizer", "scheduler")
    @classmethod
    def _is_known(cls, value: str, field: ValidationInfo) -> str:
        what = str(field.field_name)
        tables: dict[str, Mapping[str, object]] = {
            "loss": LOSSES,
            "optimizer": {AUTO: None, **OPTIMIZERS},
            "scheduler": SCHEDULES,
        }
        known = tables[what]
        if value not in known:
            raise ValueError(f"unknown {what}, {near_matches(value, known)}")
        return value

    @field_validator("learning_rate", mode="before")
    @classmethod
    def _is_rate(cls, value: object) -> object:
        if value is None or value == AUTO:
            return value
        is_number = isinstance(value, int | float | str) and not isinstance(value, bool)
        rate = math.nan
        with contextlib.suppress(ValueError):
            rate = float(value) if is_number else rate  # type: ignore[arg-type]
        if not 0 < rate <= 10:
            raise ValueError("use a number above 0, up to 10, or 'auto'")
        return rate

    @field_validator("freeze", mode="before")
    @classmethod
    def _known_freeze(cls, value: object) -> object:
        counts = value.values() if isinstance(value, dict) else ()
        is_known = isinstance(value, bool) or value in ("vision", "text")
        is_blocks = isinstance(value, dict) and value.keys() <= {"vision", "text"}
        if not is_known and not (is_blocks and all(type(n) is int and n >= 0 for n in counts)):
            raise ValueError(
                "use False, True, 'vision', 'text', or towers' first blocks, such as "
                "{'vision': 8, 'text': 4}"
            )
        return value

    @field_validator("matryoshka")
    @classmethod
    def _is_increasing(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(length < 1 for length in value) or sorted(set(value)) != list(value):
            raise ValueError("use increasing lengths from 1, such as [64, 128, 256]")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> TrainingOptions:
        parts, size = self.micro_batch_size, self.batch_size
        if parts and size and parts > size:
            raise ValueError(f"micro_batch_size {parts} is larger than batch_size {size}")
        if size and size < self.num_processes:
            raise ValueError(
                f"batch_size {size} is smaller than num_processes {self.num_processes}"
            )
        if self.num_processes > 1 and ":" in (self.device or ""):
            raise ValueError(
                f"device {self.device!r} is one device, and num_processes is {self.num_processes}: "
                "name its kind alone, and each process takes one of its own"
            )
        if self.lora is not None and self.freeze is True:
            raise ValueError("lora trains adapters inside the towers, and freeze=True freezes them")
        if self.label_smoothing and LOSSES[self.loss] is not clip_loss:
            raise ValueError(
                f"label_smoothing is {self.label_smoothing:g}: {self.loss} has none, CLIPLoss has"
            )
        return self

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> TrainingOptions:
        """Options from `values`.

        Raises:
            BadInput: an option is unknown or has a bad value; the message repeats it.
        """
        known = list(cls.model_fields)
        for name in values:
            if name not in known:
                raise BadInput(f"unknown option {name!r}: {near_matches(name, known)}")
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise BadInput(explain(error)) from error

    @property
    def chosen_optimizer(self) -> str:
        """`optimizer`, or what `auto` stands for."""
        return optimizer_for(self.model, self.optimizer, adapters=self.lora is not None)

    def smoothing(self, pairs: int) -> float:
        """`label_smoothing`, or the default with so many pairs; 0 where the loss has none."""
        if LOSSES[self.loss] is not clip_loss:
            return 0.0
        if self.label_smoothing is not None:
            return self.label_smoothing
        return label_smoothing_for(self.model, pairs)

    def word_order(self, pairs: int) -> float:
        """`augment_word_order`, or the default with so many pairs."""
        if self.augment_word_order is not None:
            return self.augment_word_order
        return augment_word_order_for(self.model, pairs)

    @property
    def peak_learning_rate(self) -> float:
        """`learning_rate`, or the default; of `auto` the default, around which is searched."""
        if isinstance(self.learning_rate, float):
            return self.learning_rate
        return learning_rate_for(self.model, self.chosen_optimizer, adapters=self.lora is not None)


def explain(error: ValidationError) -> str:
    """A pydantic error as one line that repeats each bad value."""
    parts = []
    for problem in error.errors(include_url=False):
        where = ".".join(str(part) for part in problem["loc"] if part not in get_args(Precision))
        message = problem["msg"].removeprefix("Value error, ")
        parts.append(f"{where} is {problem['input']!r}: {message}" if where else message)
    return "; ".join(parts)
