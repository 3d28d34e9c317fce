"""cliptune against open_clip's own training program: speed, memory and what is learnt, in one run.

    python benchmarks/training/versus_open_clip.py ../shared/fashion --out figures.json

Both programs are run from their command lines: `cliptune fit` and `python -m
open_clip_train.main`, on one CSV of titles and paths of pictures, with the same start weights,
tokenizer, batch size and number of epochs. `fashion.py` splits the products by title and searches
the part kept aside with its titles. Each seed is one round, with a split of its own; the programs
alternate, and every second round begins with the other one.

**Speed.** Pairs that went through the steps, a second, (1) from the moment that the first step can
begin (libraries and model loaded; in cliptune all pictures decoded) until the last checkpoint is
written, (2) of the whole process. cliptune starts each time without its cache of decoded pictures.
open_clip_train leaves the incomplete batch of an epoch out; those pairs are not counted for it.

**Memory.** The peak over the whole tree of processes, read five times a second: see
`measured_process.resident_bytes`. For cliptune that is the command and the run's own process, for
open_clip_train the program and its data workers.

**What is learnt.** The metrics of the last epoch's weights, by cliptune's evaluation for both.

Each program gets the best of `--learning-rates`, chosen by the reciprocal rank on what the first
seed keeps aside. The rest of cliptune is left at its defaults. open_clip_train gets

- `--precision fp32 --device cpu`: its default is `amp`, which is for GPUs,
- a warm-up of as many steps as cliptune's (its default, 10,000 steps, is longer than the run),
- the number of `--workers` that is fastest here, in two epochs,
- checkpoints after every epoch of which the last is kept, as in cliptune,
- its own defaults for all the rest: AdamW with betas 0.9 and 0.999, weight decay 0.2, a cosine
  schedule, no clipping of gradients, crops of at least 0.9 of a picture, no `--torchcompile`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from docarray import DocList
from fashion import SHOWN, measure, split_by_title
from programs import Task, Trained, cliptune_fit, open_clip_train
from rich.console import Console
from rich.table import Table

from cliptune.data.tables.reader import read_csv
from cliptune.documents import ClipDoc
from cliptune.training import TrainingOptions

console = Console(width=110)
PROGRAMS = ("cliptune", "open_clip_train")
RANKED_BY = "reciprocal_rank"
TRIAL_EPOCHS = 2
"""How many epochs choose the number of workers."""


@dataclass(frozen=True)
class Run:
    """The figures of one training."""

    program: str
    seed: int
    learning_rate: float
    pairs_a_second: float
    """While training."""
    pairs_a_second_in_all: float
    """Of the whole process."""
    seconds_in_all: float
    peak_mb: float
    metrics: dict[str, float]


class Bench:
    """The data, and how both programs are to train on it."""

    def __init__(
        self, docs: DocList[ClipDoc], held_out: float, epochs: int, batch_size: int
    ) -> None:
        """`held_out` is the part of the titles kept aside."""
        self.docs, self.held_out = docs, held_out
        self.epochs, self.batch_size = epochs, batch_size

    def cliptune(self, seed: int, rate: float) -> Run:
        """Train with cliptune."""

        def train(task: Task, folder: Path) -> Trained:
            return cliptune_fit(task, folder, rate)

        return self._run("cliptune", seed, rate, train)

    def open_clip(self, seed: int, rate: float, workers: int) -> Run:
        """Train with open_clip_train."""

        def train(task: Task, folder: Path) -> Trained:
            return open_clip_train(task, folder, rate, workers)

        return self._run("open_clip_train", seed, rate, train)

    def worker_speeds(self, choices: Sequence[int], seed: int) -> dict[int, float]:
        """The pairs a second of open_clip_train with each of the numbers of workers."""
        speeds = {}
        for workers in choices:
            with tempfile.TemporaryDirectory() as scratch:
                task = Task(self._split(seed)[0], TRIAL_EPOCHS, self.batch_size, seed)
                trained = open_clip_train(
                    task, Path(scratch), TrainingOptions().peak_learning_rate, workers
                )
            speeds[workers] = trained.pairs / trained.training_seconds
        return speeds

    def before(self, seed: int) -> dict[str, float]:
        """The metrics of the model that both programs start from."""
        metrics: dict[str, float] = measure("builtin", self._split(seed)[1])
        return metrics

    def _split(self, seed: int) -> tuple[DocList[ClipDoc], DocList[ClipDoc]]:
        training: DocList[ClipDoc]
        held_out: DocList[ClipDoc]
        training, held_out = split_by_title(self.docs, self.held_out, seed)
        return training, held_out

    def _run(
        self, program: str, seed: int, rate: float, train: Callable[[Task, Path], Trained]
    ) -> Run:
        training, held_out = self._split(seed)
        with tempfile.TemporaryDirectory() as scratch:
            trained = train(Task(training, self.epochs, self.batch_size, seed), Path(scratch))
            metrics = measure(trained.model, held_out)
        run = Run(
            program,
            seed,
            rate,
            pairs_a_second=trained.pairs / trained.training_seconds,
            pairs_a_second_in_all=trained.pairs / trained.process.seconds,
            seconds_in_all=trained.process.seconds,
            peak_mb=trained.process.peak_bytes / 1e6,
            metrics=metrics,
        )
        console.print(
            f"{program}, seed {seed}, learning rate {rate:g}: {run.pairs_a_second:.0f} pairs/s, "
            f"{run.peak_mb:.0f} MB, {RANKED_BY} {metrics[RANKED_BY]:.4f}"
        )
        return run


def main() -> None:
    """Run all rounds, print the tables and write the figures."""
    args = _parser().parse_args()
    columns = {"text_column": "productDisplayName", "image_template": "images/{id}.jpg"}
    docs = read_csv(args.folder / "products.csv", columns)
    for doc in docs:
        Path(str(doc.uri)).read_bytes()  # into the system's file cache, for both
    bench = Bench(docs, args.held_out, args.epochs, args.batch_size)
    seeds = args.seeds

    speeds = bench.worker_speeds(args.workers, seeds[0]) if len(args.workers) > 1 else {}
    workers = max(args.workers, key=lambda count: speeds.get(count, 0.0))
    rates = args.learning_rates
    sweep = [
        run
        for rate in (rates if len(rates) > 1 else [])
        for run in (bench.cliptune(seeds[0], rate), bench.open_clip(seeds[0], rate, workers))
    ]
    rate = {program: _best(sweep, program, rates[0]) for program in PROGRAMS}
    ours, theirs = [], []
    for number, seed in enumerate(seeds):
        if number % 2 == 0:
            ours.append(bench.cliptune(seed, rate["cliptune"]))
        theirs.append(bench.open_clip(seed, rate["open_clip_train"], workers))
        if number % 2 == 1:
            ours.append(bench.cliptune(seed, rate["cliptune"]))
    before = [bench.before(seed) for seed in seeds]

    console.print(_costs(ours, theirs))
    console.print(_metrics(before, ours, theirs))
    if sweep:
        console.print(_sweep(sweep))
    tried = ", ".join(f"{count}: {speed:.0f} pairs/s" for count, speed in speeds.items())
    console.print(f"open_clip_train's workers: {workers}" + f" ({tried})" * bool(tried))
    console.print(", ".join(f"{name} {value}" for name, value in _machine().items()))
    if args.out:
        figures = {
            "machine": _machine(),
            "arguments": {name: str(value) for name, value in vars(args).items()},
            "workers": speeds,
            "sweep": [asdict(run) for run in sweep],
            "before": before,
            "cliptune": [asdict(run) for run in ours],
            "open_clip_train": [asdict(run) for run in theirs],
        }
        args.out.write_text(json.dumps(figures, indent=2))


def _best(sweep: list[Run], program: str, otherwise: float) -> float:
    """The learning rate with which `program` learnt most in the sweep."""
    runs = [run for run in sweep if run.program == program]
    best = max(runs, key=lambda run: run.metrics[RANKED_BY], default=None)
    return best.learning_rate if best else otherwise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="with products.csv and images/<id>.jpg")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="one round each")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--held-out", type=float, default=0.25, help="the part of the titles")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="of which to choose")
    parser.add_argument(
        "--learning-rates",
        type=float,
        nargs="+",
        default=[5e-4, 1e-3, 2e-3],
        help="of which to choose; a single one saves the sweep",
    )
    parser.add_argument("--out", type=Path, help="a JSON file for all figures")
    return parser


def _costs(ours: list[Run], theirs: list[Run]) -> Table:
    """Medians, with the least and the most of all rounds."""
    table = Table("median (min to max)", "cliptune", "open_clip_train", "cliptune / open_clip")
    rows: dict[str, Callable[[Run], float]] = {
        "pairs/s while training": lambda run: run.pairs_a_second,
        "pairs/s of the whole process": lambda run: run.pairs_a_second_in_all,
        "seconds in all": lambda run: run.seconds_in_all,
        "peak memory, MB": lambda run: run.peak_mb,
    }
    for name, get in rows.items():
        sides = [[get(run) for run in runs] for runs in (ours, theirs)]
        medians = [statistics.median(values) for values in sides]
        cells = (
            f"{median:,.0f} ({min(values):,.0f} to {max(values):,.0f})"
            for median, values in zip(medians, sides, strict=True)
        )
        table.add_row(name, *cells, f"x {medians[0] / medians[1]:.2f}")
    return table


def _metrics(before: list[dict[str, float]], ours: list[Run], theirs: list[Run]) -> Table:
    """Means and standard deviations over the seeds."""
    sides = {
        "before": before,
        "cliptune": [run.metrics for run in ours],
        "open_clip_train": [run.metrics for run in theirs],
    }
    table = Table("metric (k = 20)", *sides, "gain")
    for name in SHOWN:
        means, cells = [], []
        for metrics in sides.values():
            values = [each[name] for each in metrics]
            means.append(statistics.mean(values))
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{means[-1]:.4f} ± {spread:.4f}")
        table.add_row(name, *cells, f"{means[1] / means[2] - 1:+.1%}")
    return table


def _sweep(runs: list[Run]) -> Table:
    """Each program's learning rates on the first seed."""
    found = {(run.program, run.learning_rate): run.metrics[RANKED_BY] for run in runs}
    table = Table(f"learning rate, {RANKED_BY}", *PROGRAMS)
    for rate in sorted({run.learning_rate for run in runs}):
        table.add_row(f"{rate:g}", *(f"{found[program, rate]:.4f}" for program in PROGRAMS))
    return table


def _machine() -> dict[str, Any]:
    """What the figures hold for."""
    return {
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
    }


if __name__ == "__main__":
    main()
