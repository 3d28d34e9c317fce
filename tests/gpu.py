"""Tests that need a GPU: `pytest -m gpu`; elsewhere they are skipped.

GPU_TESTS_ON=cpu runs them on the processor, which shows that they work.
"""

from __future__ import annotations

import os

import pytest
import torch

DEVICE = os.environ.get("GPU_TESTS_ON", "cuda")


@pytest.fixture
def gpu() -> torch.device:
    """The device of tests marked `gpu`."""
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(DEVICE)
