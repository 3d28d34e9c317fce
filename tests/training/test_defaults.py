"""What a run takes where nothing is said, by the model's family and the size of the data."""

from __future__ import annotations

from typing import Any

import pytest

from cliptune.training import TrainingOptions
from cliptune.training.defaults import batch_size_for

PLENTY = 100_000


@pytest.mark.parametrize(
    ("values", "optimizer", "rate"),
    [
        ({}, "Muon", 2e-3),
        ({"optimizer": "auto"}, "Muon", 2e-3),
        ({"model": "ViT-B-32::random"}, "Muon", 2e-3),
        ({"optimizer": "Adam"}, "Adam", 1e-3),
        ({"lora": {"rank": 8}}, "AdamW", 1e-3),
        ({"model": "ViT-B-32::openai"}, "AdamW", 1e-5),
        ({"model": "/models/mine"}, "AdamW", 1e-5),
        ({"model": "ViT-B-32::openai", "optimizer": "Muon"}, "Muon", 1e-5),
        ({"model": "ViT-B-32::openai", "lora": {"rank": 8}}, "AdamW", 1e-4),
        ({"learning_rate": 3e-4}, "Muon", 3e-4),
    ],
)
def test_optimizer_and_learning_rate(values: dict[str, Any], optimizer: str, rate: float) -> None:
    options = TrainingOptions.parse(values)
    assert options.chosen_optimizer == optimizer
    assert options.peak_learning_rate == pytest.approx(rate)


@pytest.mark.parametrize(
    ("values", "pairs", "smoothing", "word_order"),
    [
        ({}, 1000, 0.1, 0.5),
        ({}, 999, 0, 0),
        ({"model": "RN50::random"}, 1000, 0.1, 0.5),
        ({"model": "ViT-B-32::openai"}, PLENTY, 0, 0),
        ({"model": "/models/mine", "label_smoothing": 0.2, "augment_word_order": 1}, 2, 0.2, 1),
        ({"label_smoothing": 0, "augment_word_order": 0}, PLENTY, 0, 0),
    ],
)
def test_smoothing_and_word_order(
    values: dict[str, Any], pairs: int, smoothing: float, word_order: float
) -> None:
    options = TrainingOptions.parse(values)
    assert options.smoothing(pairs) == smoothing
    assert options.word_order(pairs) == word_order


def test_siglip_has_no_smoothing_by_default() -> None:
    assert TrainingOptions.parse({"loss": "SigLIPLoss"}).smoothing(PLENTY) == 0


@pytest.mark.parametrize(
    ("fitting", "pairs", "expected"),
    [
        (PLENTY, 2_700, 128),  # at least 16 steps an epoch
        (PLENTY, 100_000, 1024),  # never more than that
        (300, 100_000, 256),  # what fits
        (PLENTY, 40, 16),  # little data: not below 16
        (3, 100_000, 2),
        (1, 100_000, 2),  # contrast needs two; they go through one by one
    ],
)
def test_the_batch_size_of_pretrained_models(fitting: int, pairs: int, expected: int) -> None:
    assert batch_size_for("ViT-B-32::openai", fitting, pairs, epochs=5) == expected


@pytest.mark.parametrize(
    ("fitting", "pairs", "epochs", "expected"),
    [
        (PLENTY, 500, 5, 16),
        (PLENTY, 2_000, 5, 64),
        (PLENTY, 6_000, 5, 64),  # of at least 400 steps
        (PLENTY, 6_000, 20, 256),  # which more epochs have of larger batches
        (PLENTY, 18_000, 5, 128),
        (PLENTY, 1_000_000, 5, 1024),
        (32, 6_000, 5, 32),
    ],
)
def test_the_batch_size_of_new_models(fitting: int, pairs: int, epochs: int, expected: int) -> None:
    assert batch_size_for("builtin", fitting, pairs, epochs) == expected
