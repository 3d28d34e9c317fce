"""What a run takes where its options leave the choice: optimizer, learning rate, batch size, …

No number suits all. A model that has seen hundreds of millions of pictures is to keep what it
knows; the built-in one has never seen a photograph, and has nearly everything to learn in a few
hundred steps. `docs/training.md` has the rule, and the measurements behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

from cliptune.models.registry import BUILTIN

AUTO = "auto"
"""The optimizer's name that leaves the choice to the model's family."""

_ADAPTERS_FACTOR = 10


@dataclass(frozen=True)
class Family:
    """How models that have seen about as much are trained."""

    optimizer: str
    learning_rate: float
    """The peak, of that optimizer."""
    other_rate: float
    """The peak of any other optimizer."""
    steps: int
    """A run's batches are made smaller, down to `SMALLEST_CAP`, for it to have so many."""
    label_smoothing: float
    """Of CLIP's loss."""
    augment_word_order: float
    """The part of the texts whose words are put in another order."""


NEW = Family("Muon", 2e-3, other_rate=1e-3, steps=400, label_smoothing=0.1, augment_word_order=0.5)
"""The built-in model, and those with random weights."""
PRETRAINED = Family(
    "AdamW", 1e-5, other_rate=1e-5, steps=0, label_smoothing=0.0, augment_word_order=0.0
)
"""All others: fine-tuned as in Goyal et al., "Finetune like you pretrain", 2023."""

FEWEST_REGULARISED = 1000
"""Pairs from which on smoothing and changed texts gain: of 500 they didn't, of 200 they lost."""
SMALLEST_CAP = 64
_MIN_BATCH, _MAX_BATCH, _MIN_STEPS_AN_EPOCH = 16, 1024, 16


def family_of(model: str) -> Family:
    """The family of a model by its name."""
    return NEW if model == BUILTIN or model.endswith("::random") else PRETRAINED


def optimizer_for(model: str, optimizer: str, *, adapters: bool) -> str:
    """`optimizer`, or what `auto` stands for; adapters are trained by AdamW."""
    if optimizer != AUTO:
        return optimizer
    return PRETRAINED.optimizer if adapters else family_of(model).optimizer


def learning_rate_for(model: str, optimizer: str, *, adapters: bool) -> float:
    """The peak learning rate of `optimizer` (not `auto`).

    Adapters of a pre-trained model take ten times as much as its weights (Schulman et al., "LoRA
    without regret", 2025).
    """
    family = family_of(model)
    rate = family.learning_rate if optimizer == family.optimizer else family.other_rate
    return rate * _ADAPTERS_FACTOR if adapters and family is PRETRAINED else rate


def label_smoothing_for(model: str, pairs: int) -> float:
    """The part of CLIP's loss's targets that all answers share, with so many training pairs."""
    return family_of(model).label_smoothing if pairs >= FEWEST_REGULARISED else 0.0


def augment_word_order_for(model: str, pairs: int) -> float:
    """The part of the texts whose words are put in another order, with so many training pairs."""
    return family_of(model).augment_word_order if pairs >= FEWEST_REGULARISED else 0.0


def batch_size_for(model: str, fitting: int, pairs: int, epochs: int) -> int:
    """Pairs a step: the largest power of two that fits into memory, up to 1,024.

    A large batch has more wrong answers to learn from, but too few steps learn less. So an epoch
    has at least 16 batches (unless that makes them smaller than 16), and a run of a new model has
    400 (unless that makes them smaller than 64).

    Args:
        model: the name of the model to start from.
        fitting: how many pairs fit into the memory of all processes at once.
        pairs: of an epoch.
        epochs: of the run.
    """
    most = min(fitting, max(_MIN_BATCH, pairs // _MIN_STEPS_AN_EPOCH), _MAX_BATCH)
    if steps := family_of(model).steps:
        most = min(most, max(SMALLEST_CAP, pairs * epochs // steps))
    return max(2, 1 << (max(1, most).bit_length() - 1))
