"""How fast a model is on this machine: what of it matters is its network, not its weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from cliptune.inference.engines import torch_forward
from cliptune.models.formats.source import read_config
from cliptune.models.loading import pick_device
from cliptune.models.modules import TextModule, VisionModule
from cliptune.models.names import parse_model_name
from cliptune.models.network import build_network

TITLE_TOKENS = 16
"""Of the texts that are timed, where the tower may be cut to them: a product's title."""


@dataclass(frozen=True)
class Speed:
    """Of both towers, torch in float32."""

    pictures: float
    """A second, decoding left out."""
    texts: float
    """A second."""
    parameters: int


def measure_speed(
    name: str, *, device: str | None = None, batch_size: int = 8, seconds: float = 2.0
) -> Speed:
    """Time the network of the model `name` with random weights: nothing but its config is needed.

    Each tower is given batches of `batch_size` for about `seconds`, after one that doesn't count.
    """
    config = read_config(parse_model_name(name))
    where = pick_device(device)
    clip = build_network(config.model_cfg, config.hf_text_config).to(where)
    text = TextModule(clip)
    length = TITLE_TOKENS if text.cuttable else config.context_length
    tokens = np.ones((batch_size, length), dtype=np.int64)
    pixels = np.zeros((batch_size, 3, *config.preprocessing.size), dtype=np.float32)
    pictures = torch_forward(VisionModule(clip), where)
    texts = torch_forward(text, where)
    parameters = sum(p.numel() for p in clip.parameters())
    return Speed(
        _rate(lambda: pictures(pixels), batch_size, seconds, where),
        _rate(lambda: texts(tokens), batch_size, seconds, where),
        parameters,
    )


def _rate(run: Callable[[], object], size: int, seconds: float, device: torch.device) -> float:
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        run()
        done += size
    return done / (time.perf_counter() - started)
