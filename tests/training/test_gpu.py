"""Training on a GPU, in full and in half precision: it learns what it learns on the processor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cliptune.demo.catalogue import load_catalogue
from cliptune.training import TrainingOptions, train
from cliptune.training.run_logger import StandardRunLogger

pytestmark = pytest.mark.gpu


def losses(device: str, folder: Path, **more: object) -> list[float]:
    """Of each epoch of the built-in model's training."""
    given = {"device": device, "epochs": 2, "batch_size": 32, "augment_crop": 1.0, **more}
    docs = load_catalogue("catalogue-train")[:128]
    options = TrainingOptions.parse(given)
    done = train(options, docs, None, [], folder, StandardRunLogger())
    return [epoch["loss"] for epoch in done.history]


@pytest.mark.parametrize(
    ("more", "tolerance"),
    [
        ({"precision": "fp32"}, 2e-3),
        ({"precision": "bf16"}, 5e-2),
        ({"precision": "fp32", "micro_batch_size": 8}, 2e-3),
    ],
    ids=str,
)
def test_losses_are_those_of_the_processor(
    gpu: torch.device, tmp_path: Path, more: dict[str, object], tolerance: float
) -> None:
    expected = losses("cpu", tmp_path / "cpu", precision="fp32", augment_flip=False)
    found = losses(str(gpu), tmp_path / "gpu", augment_flip=False, **more)
    assert len(found) == len(expected) == 2
    assert found == pytest.approx(expected, abs=tolerance)
