"""How long a training step takes on a CPU: fp32, bf16, a fused optimizer, compiled towers.

    python benchmarks/training/precisions.py ../shared/fashion_large --markdown

The real training loop, on pictures that are decoded beforehand. Variants take turns; a round
begins with another one. A step is the time from the end of one to the end of the next: the median
of those after the first two. Shown are medians over the rounds, least and greatest, the ratio to
fp32 within each round, and the last loss: the variants see the same batches.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from products import documents, read_products
from pydantic import Field
from results import add_output_options, show, write

from cliptune.callback import Callback
from cliptune.models.modules import VisionModule
from cliptune.training import TrainingOptions, train
from cliptune.training.callbacks.base import RECORDS
from cliptune.training.run_logger import StandardRunLogger

sys.path.append(str(Path(__file__).parents[1] / "gpu"))
from training import random_model

STEPS = 8
SIZES = {"builtin": 128, "ViT-B-32": 32}
"""Pairs a step."""


class Meter(Callback):
    """When each step ended, and its loss."""

    order: ClassVar[int] = RECORDS
    times: list[float] = Field(default_factory=list)
    losses: list[float] = Field(default_factory=list)

    def on_step_end(self, training: Any) -> None:
        """Note both."""
        self.times.append(time.perf_counter())
        self.losses.append(training.last_loss)

    @property
    def step(self) -> float:
        """Seconds."""
        pairs = zip(self.times[1:], self.times[2:], strict=False)
        return statistics.median(after - before for before, after in pairs)


def _compiled() -> AbstractContextManager[Any]:
    return patch.object(VisionModule, "forward", torch.compile(VisionModule.forward))


@dataclass(frozen=True)
class Variant:
    """One way to take a step."""

    options: dict[str, Any] = field(default_factory=dict)
    around: Callable[[], AbstractContextManager[Any]] = nullcontext


BASE: dict[str, Any] = {"optimizer": "AdamW", "precision": "fp32"}
VARIANTS = {
    "fp32": Variant(),
    "bf16": Variant({"precision": "bf16"}),
    "fused optimizer": Variant({"optimizer_options": {"fused": True}}),
    "image tower compiled": Variant(around=_compiled),
    "bf16, image tower compiled": Variant({"precision": "bf16"}, _compiled),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="with parquet files of products")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    add_output_options(parser)
    args = parser.parse_args()
    products = read_products(args.folder)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.models:
            path = name if name == "builtin" else str(random_model(Path(scratch) / name, name))
            docs = documents(products[: STEPS * SIZES[name]])
            seconds: dict[str, list[float]] = {one: [] for one in args.variants}
            losses: dict[str, float] = {}
            for turn in range(args.rounds):
                shift = turn % len(args.variants)
                for one in args.variants[shift:] + args.variants[:shift]:
                    variant, meter = VARIANTS[one], Meter()
                    options = {**BASE, "model": path, "batch_size": SIZES[name], "epochs": 1}
                    options |= {"checkpoint_minutes": None, **variant.options}
                    with tempfile.TemporaryDirectory() as run, variant.around():
                        parsed = TrainingOptions.parse(options)
                        train(parsed, docs, None, [meter], Path(run), StandardRunLogger())
                    seconds[one].append(meter.step)
                    losses[one] = meter.losses[-1]
            figures[name] = {"seconds": seconds, "losses": losses}
            _show(f"{name}, {SIZES[name]} pairs a step", seconds, losses, args.markdown)
            write(args.out, figures)


def _show(
    title: str, seconds: dict[str, list[float]], losses: dict[str, float], markdown: bool
) -> None:
    rows = []
    for name, taken in seconds.items():
        ratios = [base / one for base, one in zip(seconds["fp32"], taken, strict=True)]
        rows.append(
            [
                name,
                f"{1000 * statistics.median(taken):.0f}",
                f"{1000 * min(taken):.0f}–{1000 * max(taken):.0f}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
                f"{losses[name]:.4f}",
            ]
        )
    header = ["", "ms a step", "least–greatest", "times as fast as fp32", "last loss"]
    show(title, header, rows, markdown)


if __name__ == "__main__":
    main()
