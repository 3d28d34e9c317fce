"""Towers on a GPU: the embeddings of the processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cliptune.demo.catalogue import load_catalogue
from cliptune.inference.engines import both_towers

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(("compiled", "batch_size"), [(False, 32), (False, 1), (True, 16)])
def test_embeddings_are_those_of_the_processor(
    gpu: torch.device, compiled: bool, batch_size: int
) -> None:
    docs = load_catalogue("catalogue-eval")[:50]
    texts, pictures = [str(doc.text) for doc in docs], [doc.image or doc.uri for doc in docs]
    options = {"batch_size": batch_size, "compiled": compiled and gpu.type == "cuda"}
    for here, there in zip(
        both_towers("builtin", device="cpu"),
        both_towers("builtin", device=str(gpu), **options),  # type: ignore[arg-type]
        strict=True,
    ):
        given = texts if here.name == "clip-text" else pictures
        expected = here.encode(given)  # type: ignore[arg-type]
        found = there.encode(given)  # type: ignore[arg-type]
        assert np.abs(found - expected).max() < 1e-3
