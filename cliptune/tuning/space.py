"""What trials vary: the options of a training that depend on the data most."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from cliptune.extras import is_installed
from cliptune.training.defaults import PRETRAINED, batch_size_for, family_of
from cliptune.training.optimization.freezing import TowerName
from cliptune.training.options import TrainingOptions

Value = float | int | str
Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
_RATE, _DECAY, _TRAINED = "learning_rate_factor", "weight_decay", "trained"
_DECAYED = {"AdamW": 0.05, "Muon": 0.05}
"""The optimizers whose weight decay is varied, with the defaults that it has there."""
_ADAPTERS = {"rank": 8, "alpha": 16}
_ALL, _UPPER_HALF, _LORA = "all", "upper half", "lora"


@dataclass(frozen=True)
class Axis:
    """One thing that trials vary."""

    name: str
    default: Value
    """What a run without trials would take: the first trial's."""
    distribution: Distribution

    def suggest(self, trial: Trial) -> None:
        """Have the sampler choose a value for `trial`; one that it has stays."""
        one = self.distribution
        if isinstance(one, CategoricalDistribution):
            trial.suggest_categorical(self.name, one.choices)
        elif isinstance(one, IntDistribution):
            trial.suggest_int(self.name, one.low, one.high, log=one.log)
        else:
            trial.suggest_float(self.name, one.low, one.high, log=one.log)

    def describe(self) -> str:
        """One line for the log."""
        one = self.distribution
        if isinstance(one, CategoricalDistribution):
            among = ", ".join(map(str, one.choices))
        else:
            among = f"{one.low:g} to {one.high:g}{' (logarithmic)' if one.log else ''}"
        return f"{self.name}: {among}; default {self.default}"


def make_axes(
    base: TrainingOptions,
    named: Collection[str],
    pairs: int,
) -> list[Axis]:
    """What is varied: all of the known axes that the user has not settled.

    Args:
        base: the options that all trials share.
        named: the fields of `base` that were given: these stay as they are.
        pairs: how many there are to train on.
    """
    axes = []
    if "learning_rate" not in named:
        # Relative to the default of what is trained, since adapters take ten times as much.
        axes.append(Axis(_RATE, 1.0, FloatDistribution(1 / 8, 8, log=True)))
    if "epochs" not in named:
        least, most = max(1, base.epochs // 2), max(2, 2 * base.epochs)
        axes.append(Axis("epochs", base.epochs, IntDistribution(least, most, log=True)))
    if "batch_size" not in named:
        size = batch_size_for(base.model, 1024, pairs, base.epochs)
        least = max(2, size // 4, base.micro_batch_size or 0)
        most = max(least, 4, min(4 * size, pairs // 2))
        size = min(max(size, least), most)
        axes.append(Axis("batch_size", size, IntDistribution(least, most, log=True)))
    decay = _DECAYED.get(base.chosen_optimizer)
    if decay is not None and _DECAY not in base.optimizer_options:
        axes.append(Axis(_DECAY, decay, FloatDistribution(decay / 10, decay * 10, log=True)))
    if "augment_crop" not in named and base.freeze not in (True, "vision"):
        axes.append(Axis("augment_crop", base.augment_crop, FloatDistribution(0.5, 1.0)))
    if family_of(base.model) is PRETRAINED and not {"freeze", "lora"} & set(named):
        # A model that has much to learn learns it in all of its blocks.
        ways = [_ALL, _UPPER_HALF, *([_LORA] if is_installed("lora") else [])]
        axes.append(Axis(_TRAINED, _ALL, CategoricalDistribution(ways)))
    return axes


def options_of(
    base: TrainingOptions, values: Mapping[str, Value], blocks: Mapping[TowerName, int]
) -> TrainingOptions:
    """The options of the trial with `values` on the axes.

    Args:
        base: what all trials share.
        values: by axis.
        blocks: of the model's towers, for `upper half`.
    """
    changes: dict[str, object] = {
        name: values[name] for name in ("epochs", "batch_size", "augment_crop") if name in values
    }
    if _DECAY in values:
        changes["optimizer_options"] = {**base.optimizer_options, _DECAY: values[_DECAY]}
    if values.get(_TRAINED) == _UPPER_HALF:
        changes["freeze"] = {tower: count // 2 for tower, count in blocks.items()}
    if values.get(_TRAINED) == _LORA:
        changes["lora"] = _ADAPTERS
    options = TrainingOptions.parse({**base.model_dump(), **changes})
    if _RATE in values:
        rate = options.peak_learning_rate * float(values[_RATE])
        options = options.model_copy(update={"learning_rate": min(rate, 10.0)})
    return options
