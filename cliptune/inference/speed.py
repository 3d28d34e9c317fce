"""How fast a model is on this machine: what of it matters is its network, not its weights."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cliptune.inference.forwards import torch_forward
from cliptune.models.formats.source import read_config
from cliptune.models.loading import pick_device
from cliptune.models.modules import TextModule, VisionModule
from cliptune.models.names import parse_model_name
from cliptune.models.network import build_network

Name = TypeVar("Name", bound=Hashable)
TITLE_TOKENS = 16
"""Of the texts that are timed, where the tower may be cut to them: a product's title."""
TURNS = 5
"""In which the calls that are compared share the time."""


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
    tokens = example_titles(batch_size, config.context_length, cuttable=text.cuttable)
    pixels = example_pictures(batch_size, config.preprocessing.size)
    pictures = torch_forward(VisionModule(clip), where)
    texts = torch_forward(text, where)
    took = call_seconds(
        {"pictures": lambda: pictures(pixels), "texts": lambda: texts(tokens)}, seconds
    )
    parameters = sum(p.numel() for p in clip.parameters())
    return Speed(batch_size / took["pictures"], batch_size / took["texts"], parameters)


def example_titles(count: int, context_length: int, *, cuttable: bool) -> NDArray[np.int64]:
    """Tokens [count, L] to time a text tower with: some, all alike, as many as a title has."""
    length = min(TITLE_TOKENS, context_length) if cuttable else context_length
    return np.ones((count, length), dtype=np.int64)


def example_pictures(count: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """Pixels [count, 3, H, W] to time a vision tower with."""
    return np.zeros((count, 3, *size), dtype=np.float32)


def call_seconds(calls: Mapping[Name, Callable[[], object]], seconds: float) -> dict[Name, float]:
    """How many seconds one call of each takes: the median of about `seconds` of calls.

    Each is called once before, which doesn't count. They take turns, so that a moment in which
    the machine is busy with something else is no single one's.
    """
    for call in calls.values():
        call()
    took: dict[Name, list[float]] = {name: [] for name in calls}
    for turn in range(1, TURNS + 1):
        for name, call in calls.items():
            while sum(took[name]) < seconds * turn / TURNS:
                started = time.perf_counter()
                call()
                took[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in took.items()}
