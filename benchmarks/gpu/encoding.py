"""Pictures and titles a second: cliptune's towers against the bare model, of random weights.

Each line of output is a JSON object: model, engine, batch, and rates. "bare" is the compiled
network fed with pixels, or tokens, that lie on the device already; "from pixels" is what cliptune
makes of resized pictures, "from JPEG" of files' bytes of 640 x 480. Medians of alternating rounds.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cliptune.data.pictures.preprocessing import normalise
from cliptune.inference.forwards import halve_weights, onnx_forward, torch_forward
from cliptune.inference.towers import Forward, VisionTower
from cliptune.models.formats.source import read_config
from cliptune.models.modules import TextModule, VisionModule
from cliptune.models.names import parse_model_name
from cliptune.models.network import build_network

Bare = Callable[[torch.Tensor], torch.Tensor]
Engine = tuple[str, tuple[Forward, Forward, Bare, Bare]]
"""Its name; cliptune's pictures and texts, and those of the bare network."""
TITLE = 12
"""Tokens of a title."""


def main() -> None:
    """Measure all models, engines and batches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    device = torch.device(args.device)
    models = ["ViT-B-32"] if args.tiny else ["ViT-B-32", "ViT-L-14"]
    batches = [1, 4] if args.tiny else [1, 16, 64, 256]
    rounds, seconds = (1, 0.2) if args.tiny else (3, 0.4)
    for name in models:
        config = read_config(parse_model_name(name))
        torch.manual_seed(1)
        clip = build_network(config.model_cfg, config.hf_text_config).to(device).eval()
        size = config.preprocessing.size
        files = [picture(number) for number in range(max(batches))]
        pixels = np.random.default_rng(1).integers(0, 256, (max(batches), *size, 3), np.uint8)
        tokens = np.random.default_rng(2).integers(1, 1000, (max(batches), TITLE)).astype(np.int64)
        for engine, forwards in engines(clip, device, size, args.tiny):
            vision, text, bare_vision, bare_text = forwards
            tower = VisionTower(vision, config.preprocessing, "", config.model_cfg["embed_dim"])
            for batch in batches:
                tower.batch_size = batch
                inputs = torch.from_numpy(normalise(pixels[:batch], config.preprocessing))
                texts = torch.from_numpy(tokens[:batch])
                calls: dict[str, Callable[[], object]] = {
                    "pictures, bare": partial(bare_vision, inputs.to(device)),
                    "pictures from pixels": partial(tower.encode_pixels, pixels[:batch]),
                    "pictures from JPEG": partial(tower.encode, files[:batch]),
                    "titles, bare": partial(bare_text, texts.to(device)),
                    "titles from tokens": partial(text, tokens[:batch]),
                }
                found = alternating(calls, batch, rounds, seconds, device)
                ratios = {
                    f"{what} / bare": found[f"pictures from {what}"] / found["pictures, bare"]
                    for what in ("pixels", "JPEG")
                }
                row = {"model": name, "engine": engine, "batch": batch, **found, **ratios}
                print(json.dumps(row), flush=True)


def engines(
    clip: torch.nn.Module, device: torch.device, size: tuple[int, int], tiny: bool
) -> list[Engine]:
    """cliptune's engines of both towers, and the bare ones of the same precision."""
    vision, text = VisionModule(clip), TextModule(clip)
    found: list[Engine] = []
    kinds = [("fp32", None, False), ("bf16", torch.bfloat16, False)]
    kinds += [] if tiny else [("bf16, compiled", torch.bfloat16, True)]
    for name, dtype, compiled in kinds:
        modules = [copy.deepcopy(module) for module in (vision, text)]
        if dtype is not None:
            for module in modules:
                halve_weights(module)
        ours = [torch_forward(module, device, dtype, compiled) for module in modules]
        bare = [_reduced(m if tiny else torch.compile(m), device, dtype) for m in modules]
        found.append((name, (ours[0], ours[1], bare[0], bare[1])))
    if (onnx := onnx_engines(vision, text, device, size)) is not None:
        bare = [_reduced(m if tiny else torch.compile(m), device, None) for m in (vision, text)]
        found.append(("ONNX Runtime", (*onnx, bare[0], bare[1])))
    return found


def onnx_engines(
    vision: torch.nn.Module, text: torch.nn.Module, device: torch.device, size: tuple[int, int]
) -> tuple[Forward, Forward] | None:
    """Both towers by ONNX Runtime on the device; None: this one has no CUDA."""
    import onnxruntime

    if (
        device.type == "cuda"
        and "CUDAExecutionProvider" not in onnxruntime.get_available_providers()
    ):
        return None
    made = []
    with tempfile.TemporaryDirectory() as folder:
        for name, module, example in (
            ("vision", vision, torch.zeros(2, 3, *size)),
            ("text", text, torch.ones(2, TITLE, dtype=torch.int64)),
        ):
            path = Path(folder) / f"{name}.onnx"
            torch.onnx.export(
                module, (example.to(device),), path, dynamo=False, opset_version=17,
                input_names=["input"], output_names=["embedding"],
                dynamic_axes={"input": {0: "n"}, "embedding": {0: "n"}},
            )  # fmt: skip
            made.append(onnx_forward(path, device.type))
    return made[0], made[1]


def _reduced(
    run: Callable[..., torch.Tensor], device: torch.device, dtype: torch.dtype | None
) -> Bare:
    def forward(rows: torch.Tensor) -> torch.Tensor:
        autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
        with torch.inference_mode(), autocast:
            return run(rows)

    return forward


def alternating(
    calls: dict[str, Callable[[], object]],
    batch: int,
    rounds: int,
    seconds: float,
    device: torch.device,
) -> dict[str, float]:
    """Rows a second of each call: the median of rounds in which all take turns."""
    for call in calls.values():
        call()  # what is compiled or chosen at the first
        call()
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            _wait(device)
            began, done = time.perf_counter(), 0
            while done == 0 or time.perf_counter() - began < seconds:
                call()
                # Calls that are only queued take no time.
                _wait(device)
                done += batch
            rates[name].append(done / (time.perf_counter() - began))
    return {name: round(statistics.median(found), 1) for name, found in rates.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def picture(number: int) -> bytes:
    """A JPEG of 640 x 480."""
    noise = np.random.default_rng(number).integers(0, 256, (12, 16, 3), np.uint8)
    image: Image.Image = Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


if __name__ == "__main__":
    main()
