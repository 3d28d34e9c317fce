"""The options of a training run, validated where they enter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cliptune.errors import BadInput, near_matches
from cliptune.models.registry import BUILTIN
from cliptune.training.losses import LOSSES
from cliptune.training.optimizers import OPTIMIZERS
from cliptune.training.schedules import SCHEDULES

Precision = Literal["auto", "fp32", "bf16", "fp16"]

# The built-in model is small and was trained briefly: it wants a far larger step than a CLIP
# that has seen hundreds of millions of pictures.
_LEARNING_RATES = {BUILTIN: 5e-4}
_DEFAULT_LEARNING_RATE = 1e-5
_DEFAULT_BATCH_SIZE = 128


class TrainingOptions(BaseModel):
    """How to fine-tune. Every field has a default that works; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = BUILTIN
    """The model to start from: a name of `describe_models()`, a folder, or an artifact."""
    loss: str = "CLIPLoss"
    """A name of `cliptune.training.losses.LOSSES`."""
    optimizer: str = "AdamW"
    """A name of `cliptune.training.optimizers.OPTIMIZERS`."""
    optimizer_options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of that optimizer, such as `{'weight_decay': 0.1, 'betas': [0.9, 0.98]}`."""
    learning_rate: float | None = Field(None, gt=0, le=10)
    """The peak learning rate; None: 5e-4 for the built-in model, 1e-5 for the others."""
    epochs: int = Field(5, ge=0, le=100_000)
    batch_size: int | None = Field(None, ge=2)
    """Pairs a step; None: 128. An epoch is cut in equal batches of at most that size."""
    scheduler: str = "cosine"
    """A name of `cliptune.training.schedules.SCHEDULES`."""
    scheduler_options: dict[str, Any] = Field(default_factory=dict)
    """`num_warmup_steps` (an int, or a fraction of all steps; default 0.1) and the schedule's."""
    freeze: bool | Literal["vision", "text"] = False
    """Train without the named tower; True trains the projections and the logit scale only."""
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
    to_onnx: bool = False
    """Export both towers to ONNX too."""
    seed: int = Field(42, ge=0, lt=2**31)
    """The same seed gives the same losses on a CPU."""

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, value: str) -> str:
        return _known("loss", value, LOSSES)

    @field_validator("optimizer")
    @classmethod
    def _known_optimizer(cls, value: str) -> str:
        return _known("optimizer", value, OPTIMIZERS)

    @field_validator("scheduler")
    @classmethod
    def _known_scheduler(cls, value: str) -> str:
        return _known("scheduler", value, SCHEDULES)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> TrainingOptions:
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
    def peak_learning_rate(self) -> float:
        """`learning_rate`, or the model's default."""
        return self.learning_rate or _LEARNING_RATES.get(self.model, _DEFAULT_LEARNING_RATE)

    @property
    def pairs_per_step(self) -> int:
        """`batch_size`, or its default."""
        return self.batch_size or _DEFAULT_BATCH_SIZE


def explain(error: ValidationError) -> str:
    """A pydantic error as one line that repeats each bad value."""
    parts = []
    for problem in error.errors(include_url=False):
        where = ".".join(str(part) for part in problem["loc"] if part not in get_args(Precision))
        message = problem["msg"].removeprefix("Value error, ")
        parts.append(f"{where} is {problem['input']!r}: {message}")
    return "; ".join(parts)


def _known(what: str, value: str, known: Mapping[str, Any]) -> str:
    if value not in known:
        raise ValueError(f"unknown {what}, {near_matches(value, known)}")
    return value
