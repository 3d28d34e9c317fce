"""Training steps of cliptune: pairs a second, memory, and the share of the GPU's peak.

Each line of output is a JSON object. The real training loop runs on pictures decoded beforehand,
each batch size with gradient caching where a part of it is all that fits well; a step is the time
from the end of one to the end of the next, the median of those after the first two.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from docarray import DocList
from encoding import TITLE, picture
from pydantic import Field
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from cliptune.callback import Callback
from cliptune.documents import ClipDoc
from cliptune.models.formats.source import read_config
from cliptune.models.modules import VisionModule
from cliptune.models.names import parse_model_name
from cliptune.models.network import build_network
from cliptune.training import TrainingOptions, train
from cliptune.training.callbacks.base import RECORDS
from cliptune.training.run_logger import StandardRunLogger

PEAK_BF16 = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L4": 121e12, "L40S": 362e12}
"""FLOP/s of dense bfloat16 products, by a part of the GPU's name, as NVIDIA states them."""


class Meter(Callback):
    """When each step ended."""

    order: ClassVar[int] = RECORDS
    times: list[float] = Field(default_factory=list)

    def on_step_end(self, training: Any) -> None:
        """Wait for the device."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def main() -> None:
    """Train a few steps of each batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    sizes = [(8, None), (16, 8)] if args.tiny else [(256, None), (1024, None), (8192, 1024)]
    steps = 4 if args.tiny else 8
    with tempfile.TemporaryDirectory() as scratch:
        model = random_model(Path(scratch) / "model", "ViT-B-32")
        flops = flops_of_pair("ViT-B-32")
        for size, part in sizes:
            row = measure(model, size, part, steps, args.device, args.processes, Path(scratch))
            row["TFLOP/s"] = row["pairs a second"] * flops / 1e12
            if peak := peak_of(args.device):
                row["share of peak"] = row["pairs a second"] * flops / peak
            print(json.dumps(row), flush=True)


def measure(
    model: Path, size: int, part: int | None, steps: int, device: str, processes: int, scratch: Path
) -> dict[str, Any]:
    """One batch size."""
    given = {
        "model": str(model), "device": device, "batch_size": size, "micro_batch_size": part,
        "epochs": 1, "checkpoint_minutes": None, "precision": "bf16", "augment_crop": 1.0,
        "num_processes": processes, "optimizer": "AdamW",
    }  # fmt: skip
    meter = Meter()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        options = TrainingOptions.parse({k: v for k, v in given.items() if v is not None})
        train(options, pairs(size * steps), None, [meter], Path(folder), StandardRunLogger())
    took = [after - before for before, after in zip(meter.times, meter.times[1:], strict=False)]
    step = statistics.median(took[1:])
    row = {"program": "cliptune", "batch": size, "part": part or size, "processes": processes,
           "step, ms": 1000 * step, "pairs a second": size / step}  # fmt: skip
    if device == "cuda":
        row["memory, GB"] = torch.cuda.max_memory_allocated() / 1e9
    return row


def pairs(count: int) -> DocList[ClipDoc]:
    """Pairs of different titles with, in turn, one of some hundred pictures."""
    pictures = [picture(number) for number in range(min(count, 512))]
    rng = np.random.default_rng(0)
    words = rng.integers(0, 500, (count, TITLE - 4))
    return DocList[ClipDoc](
        ClipDoc(
            text=f"{i} " + " ".join(f"w{w}" for w in words[i]), image=pictures[i % len(pictures)]
        )
        for i in range(count)
    )


def random_model(folder: Path, architecture: str) -> Path:
    """A folder that `load_model` takes, of random weights."""
    config = read_config(parse_model_name(architecture))
    torch.manual_seed(1)
    clip = build_network(config.model_cfg, config.hf_text_config)
    folder.mkdir(parents=True)
    weights = {name: value.contiguous() for name, value in clip.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    preprocessing = config.preprocessing.to_dict()
    written = {"model_cfg": dict(config.model_cfg), "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(written))
    return folder


def flops_of_pair(architecture: str) -> float:
    """FLOPs of a pair's forward and backward pass: three times those of the forward pass."""
    config = read_config(parse_model_name(architecture))
    with torch.device("meta"):
        clip = build_network(config.model_cfg, config.hf_text_config)
    counter = FlopCounterMode(display=False)
    pixels = torch.zeros(1, 3, *config.preprocessing.size, device="meta")
    with counter, torch.no_grad():
        VisionModule(clip)(pixels)
    vision = float(counter.get_total_flops())
    # A text's tokens are few, and its tower is counted by its weights.
    weights = [p.numel() for name, p in clip.named_parameters() if name.startswith("transformer.")]
    text: float = 2.0 * sum(weights) * TITLE
    return 3.0 * (vision + text)


def peak_of(device: str) -> float | None:
    """FLOP/s of the GPU; None: it isn't known."""
    if device != "cuda":
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAK_BF16.items() if part in name), None)


if __name__ == "__main__":
    main()
