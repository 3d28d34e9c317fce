"""What runs the towers: torch, ONNX Runtime and OpenVINO in each of their precisions, bare.

A line for each, of a ViT-B/32 with random weights: titles a second in batches of 32 of 12 tokens,
pictures a second in batches of 16 (decoding left out), milliseconds of one title, and the least
cosine with torch in fp32. They take turns within one run, see `cliptune.inference.speed`; times are
medians. Figures are of this machine; their ratios carry over to those with the same instructions.

    OMP_NUM_THREADS=2 python benchmarks/serving/engines.py
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from models import prepare
from numpy.typing import NDArray

from cliptune.inference.engines import RUNS, both_towers, possible_engines
from cliptune.inference.speed import call_seconds
from cliptune.inference.towers import unit_length
from cliptune.models.artifact import open_artifact
from cliptune.settings import Engine, Precision


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--models", type=Path, default=Path("build/benchmarks/engines"))
    parser.add_argument("--seconds", type=float, default=10.0, help="for each figure")
    args = parser.parse_args()
    artifact = prepare(args.models).reduced
    dice = np.random.default_rng(0)
    titles = dice.integers(300, 40_000, (32, 12))
    titles[:, 0], titles[:, -1] = 49_406, 49_407  # CLIP's begin and end of a text
    pixels = dice.standard_normal((16, 3, 224, 224), dtype=np.float32)
    threads = len(os.sched_getaffinity(0))
    opened = open_artifact(artifact)
    kinds: list[tuple[Engine, Precision]] = [
        (engine, precision)
        for engine, precisions in RUNS.items()
        for precision in precisions
        if engine in possible_engines(opened, precision, "cpu")
    ]
    calls: dict[tuple[str, str, str], Callable[[], object]] = {}
    cosines: dict[tuple[str, str], float] = {}
    exact: dict[str, NDArray[np.float32]] = {}
    for engine, precision in kinds:
        towers = both_towers(
            artifact, engine=engine, precision=precision, device="cpu", threads=threads
        )
        batches = (("titles", towers[0].forward, titles), ("pictures", towers[1].forward, pixels))
        for what, forward, batch in batches:
            calls[engine, precision, what] = partial(forward, batch)
            found = unit_length(forward(batch))
            cosine = float((found * exact.setdefault(what, found)).sum(axis=1).min())
            cosines[engine, precision] = min(cosine, cosines.get((engine, precision), 1.0))
        calls[engine, precision, "one"] = partial(towers[0].forward, titles[:1])
    took = call_seconds(calls, args.seconds)
    print("| engine | precision | titles a second | pictures a second | one title, ms | cosine |")
    print("| --- | --- | --: | --: | --: | --: |")
    for kind in kinds:
        seconds = [took[(*kind, what)] for what in ("titles", "pictures", "one")]
        figures = f"{32 / seconds[0]:.0f} | {16 / seconds[1]:.1f} | {seconds[2] * 1000:.1f}"
        print(f"| {kind[0]} | {kind[1]} | {figures} | {cosines[kind]:.4f} |")


if __name__ == "__main__":
    main()
