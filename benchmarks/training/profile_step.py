"""Where the time of a training goes: what is done once, and each part of a step.

    python benchmarks/training/profile_step.py ../shared/fashion

Runs the real training several times with timers around its own functions: first with an empty
pixel store, then again, with a frozen tower, with LoRA, and with titles padded to the context
length. What runs inside a timed function counts for that function. A GPU is waited for at both
ends of each, which costs what would overlap otherwise.
"""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from docarray import DocList
from fashion import split_by_title
from results import add_output_options, show, write

from cliptune.callback import Callback, EvaluationCallback
from cliptune.data.tables.reader import read_csv
from cliptune.documents import ClipDoc
from cliptune.models.modules import TextModule, VisionModule
from cliptune.training import TrainingOptions, loop, step
from cliptune.training.batches import pairs
from cliptune.training.callbacks.base import RECORDS
from cliptune.training.losses import LOSSES
from cliptune.training.optimization.optimizers import OPTIMIZERS
from cliptune.training.run_logger import StandardRunLogger

Functions = dict[str, list[tuple[Any, str]]]
"""By the name of a phase, the (owner, attribute) of the functions that it is made of."""

ONCE: Functions = {
    "loading the model": [(loop, "load_trainable")],
    "pictures: decoding, or checking the store": [(pairs, "decode_documents")],
    "tokenising all titles": [(pairs, "make_pairs")],
    "finding what fits into memory": [(loop, "choose_sizes")],
    "the frozen tower's features": [(loop, "compute_frozen_features")],
    "evaluation before": [(EvaluationCallback, "on_train_begin")],
    "evaluation after": [(EvaluationCallback, "on_finish")],
    "writing the artifact": [(loop, "write_artifact")],
}
WAITING, LOSS, READING = "waiting for input", "loss and its gradient", "reading, in the background"
STEP: Functions = {
    WAITING: [],
    "normalising, random crops": [(step, f) for f in ("to_input", "draw_crops", "crop")],
    "text tower": [(TextModule, "forward"), (step, "cut_to_longest")],
    "image tower": [(VisionModule, "forward")],
    LOSS: [(torch.Tensor, "backward")],
    "backward through the towers": [(torch.autograd, "backward")],
    "clipping the gradients": [(torch.nn.utils, "clip_grad_norm_")],
    "optimizer": [(OPTIMIZERS["AdamW"], "step")],
    "evaluation, once an epoch": [(EvaluationCallback, "on_epoch_end")],
    "checkpoint, once an epoch": [(loop, "save_checkpoint")],
}
ALL = "all of a step"


class Stopwatch:
    """The seconds of each phase; within a phase of the same thread no other one is counted."""

    def __init__(self) -> None:
        """Nothing is counted yet."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._thread = threading.local()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens within."""
        if getattr(self._thread, "busy", False):
            yield
            return
        self._thread.busy = True
        started = _now()
        try:
            yield
        finally:
            self.seconds[name] += _now() - started
            self._thread.busy = False

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, counted as `name`."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return function(*args, **kwargs)

        return call

    def waited_for(self, iterate: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """`iterate`, with what each of its items is waited for."""

        def call(*args: Any, **kwargs: Any) -> Iterator[Any]:
            coming = iterate(*args, **kwargs)
            while True:
                with self.phase(WAITING):
                    item = next(coming, None)
                if item is None:
                    return
                yield item

        return call

    def attach(self) -> None:
        """Put timers around the training's functions, for the rest of this process."""
        for name, functions in {**ONCE, **STEP, READING: [(pairs, "read_batch")]}.items():
            for owner, attribute in functions:
                setattr(owner, attribute, self.timed(name, getattr(owner, attribute)))
        names = vars(loop)
        names["batches"] = self.waited_for(names["batches"])
        for name, loss in LOSSES.items():
            LOSSES[name] = self.timed(LOSS, loss)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Clock(Callback):
    """The seconds of all epochs together."""

    order: ClassVar[int] = RECORDS
    seconds: float = 0.0
    steps: int = 0

    def on_train_begin(self, training: Any) -> None:
        """Begin, after the first evaluation."""
        self.seconds = -_now()

    def on_train_end(self, training: Any) -> None:
        """After the last checkpoint."""
        self.seconds += _now()
        self.steps = training.global_step


def profile(
    stopwatch: Stopwatch,
    docs: tuple[DocList[ClipDoc], DocList[ClipDoc]],
    options: dict[str, Any],
) -> dict[str, float]:
    """Train once on the first `docs` and evaluate on the others.

    Returns the seconds of each phase of `ONCE`, and the seconds of a step by each of `STEP`.
    """
    stopwatch.seconds.clear()
    clock = Clock()
    callbacks = [EvaluationCallback(query_data=docs[1]), clock]
    with tempfile.TemporaryDirectory() as scratch:
        settings = TrainingOptions.parse(options)
        loop.train(settings, docs[0], None, callbacks, Path(scratch), StandardRunLogger())
    seconds = stopwatch.seconds
    a_step = {name: seconds[name] / clock.steps for name in (*STEP, READING)}
    return {**{name: seconds[name] for name in ONCE}, **a_step, ALL: clock.seconds / clock.steps}


def main() -> None:
    """Run all variants and print the two tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="with products.csv and images/<id>.jpg")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--model", default="builtin")
    add_output_options(parser)
    args = parser.parse_args()

    columns = {"text_column": "productDisplayName", "image_template": "images/{id}.jpg"}
    docs = split_by_title(read_csv(args.folder / "products.csv", columns), 0.25, 1)
    options = {"model": args.model, "epochs": args.epochs, "batch_size": args.batch_size}
    variants: dict[str, dict[str, Any]] = {
        "first run": {"epochs": 1},
        "both towers": {},
        "padded titles": {},
        "freeze='vision'": {"freeze": "vision"},
        "LoRA, rank 8": {"lora": {"rank": 8}},
    }
    stopwatch = Stopwatch()
    stopwatch.attach()
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as home, patch.dict(os.environ, CLIPTUNE_HOME=home):
        for name, own in variants.items():
            padded = patch.object(step, "cut_to_longest", lambda tokens: tokens)
            with padded if name == "padded titles" else nullcontext():
                found[name] = profile(stopwatch, docs, {**options, **own})

    once = [[phase, *(f"{found[v][phase]:.2f}" for v in variants)] for phase in ONCE]
    show("Once a run, seconds", ["", *variants], once, args.markdown)
    del found["first run"]
    for figures in found.values():
        figures["the rest"] = figures[ALL] - sum(figures[phase] for phase in STEP)
    rows = [
        [phase, *(f"{1000 * f[phase]:.1f} ({f[phase] / f[ALL]:.1%})" for f in found.values())]
        for phase in (*STEP, "the rest", ALL, READING)
    ]
    title = f"A step of {args.batch_size} of {len(docs[0])} pairs, ms (part of the step)"
    show(title, ["", *found], rows, args.markdown)
    write(args.out, found)


if __name__ == "__main__":
    main()
