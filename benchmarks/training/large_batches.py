"""What a batch of any size costs with gradient caching: memory and time, beside plain batches.

    python benchmarks/training/large_batches.py

Trains the built-in model for a few steps on the built-in catalogue, each batch size in a process
of its own: cut in parts of `--part` pairs, and in one part, as far as `--plain` goes. Memory is the
peak of the process (VmHWM) and what it had before the first step; a step's time is the median.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

from docarray import DocList
from results import add_output_options, show, write

from cliptune.callback import Callback
from cliptune.data.source import load_documents
from cliptune.documents import ClipDoc
from cliptune.training import TrainingOptions, train
from cliptune.training.callbacks.base import RECORDS
from cliptune.training.run_logger import StandardRunLogger


class Meter(Callback):
    """When each step ended, and the memory before the first."""

    order: ClassVar[int] = RECORDS
    times: ClassVar[list[float]] = []
    memory_before: ClassVar[list[float]] = []

    def on_train_begin(self, training: Any) -> None:
        """All is loaded."""
        Meter.memory_before.append(memory_mb("VmRSS"))
        Meter.times.append(time.perf_counter())

    def on_step_end(self, training: Any) -> None:
        """A step is done."""
        Meter.times.append(time.perf_counter())


def memory_mb(kind: str) -> float:
    """`VmRSS` or `VmHWM`, the peak, of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(kind):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {kind}")


def pairs(count: int) -> DocList[ClipDoc]:
    """`count` pairs of different titles: the catalogue's, numbered where they come again."""
    catalogue = load_documents("catalogue-train")
    docs = DocList[ClipDoc]()
    for i in range(count):
        doc = catalogue[i % len(catalogue)]
        docs.append(ClipDoc(text=f"{doc.text} {i}", image=doc.image, uri=doc.uri))
    return docs


def train_here(batch_size: int, part: int, steps: int) -> dict[str, float]:
    """Train `steps` steps in this process."""
    options = {
        "batch_size": batch_size,
        "micro_batch_size": part,
        "epochs": steps,
        "checkpoint_minutes": None,
    }
    with tempfile.TemporaryDirectory() as scratch:
        settings = TrainingOptions.parse(options)
        docs = pairs(batch_size)
        train(settings, docs, None, [Meter()], Path(scratch), StandardRunLogger())
    # From the end of an epoch's step to the next: the first has none before it.
    took = [b - a for a, b in zip(Meter.times, Meter.times[1:], strict=False)]
    before, peak = Meter.memory_before[0], memory_mb("VmHWM")
    step = statistics.median(took)
    return {"step": step, "pairs_a_second": batch_size / step, "before": before, "peak": peak}


def train_apart(batch_size: int, part: int, steps: int) -> dict[str, float]:
    """The same in a fresh process."""
    command = [sys.executable, __file__, "--one", f"{batch_size}:{part}:{steps}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    metrics: dict[str, float] = json.loads(output.splitlines()[-1])
    return metrics


def main() -> None:
    """Run all sizes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--part", type=int, default=256, help="micro_batch_size")
    parser.add_argument("--plain", type=int, default=1024, help="the largest batch in one part")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    add_output_options(parser)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(train_here(*map(int, args.one.split(":")))))
        return

    runs = [(size, min(size, args.part)) for size in args.sizes]
    runs += [(size, size) for size in args.sizes if args.part < size <= args.plain]
    found = {run: train_apart(*run, args.steps) for run in sorted(runs)}
    rows = [
        [
            f"{size:,}",
            f"{part:,}",
            f"{figures['peak']:,.0f}",
            f"{figures['peak'] - figures['before']:,.0f}",
            f"{figures['step']:.2f}",
            f"{figures['pairs_a_second']:.0f}",
        ]
        for (size, part), figures in found.items()
    ]
    header = ["batch", "in parts of", "peak MB", "of it for training", "s a step", "pairs/s"]
    show("Gradient caching, built-in model", header, rows, args.markdown)
    write(args.out, {f"{size}:{part}": figures for (size, part), figures in found.items()})


if __name__ == "__main__":
    main()
