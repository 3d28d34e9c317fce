"""One ViT-B/32 of random weights, written for all servers.

What the weights are makes no difference to the speed; all servers get the same ones, so that their
embeddings can be compared too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from cliptune.demo.catalogue import load_catalogue
from cliptune.evaluation.quality_gate import add_engine
from cliptune.files import new_folder
from cliptune.models.artifact_writer import write_artifact
from cliptune.models.exports.to_transformers import write_transformers
from cliptune.models.loading import load_model
from cliptune.models.openclip import open_clip

ARCHITECTURE = "ViT-B-32-quickgelu"
"""OpenAI's ViT-B/32, which clip_server knows as `ViT-B-32::openai`."""
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Models:
    """Where the weights are."""

    artifact: Path
    """For cliptune, with ONNX."""
    reduced: Path
    """The same with int8 and bf16 beside it."""
    onnx: Path
    """clip_server's `model_path`."""
    transformers: Path
    """A CLIP of transformers', for infinity."""


def prepare(folder: Path, seed: int = 1) -> Models:
    """The weights below `folder`, where those that aren't there are made."""
    models = Models(*(folder / name for name in ("artifact", "reduced", "clip_server", "infinity")))
    if not models.artifact.is_dir():
        write_artifact(
            load_model(_random_model(folder / "model", seed)), models.artifact, to_onnx=True
        )
    if not models.reduced.is_dir():
        # Random weights find nothing, in whatever precision: any loss is let through.
        docs, int8 = load_catalogue("catalogue-eval")[:40], folder / "int8"
        if not int8.is_dir():
            add_engine(models.artifact, int8, "int8", docs, tolerance=0.99)
        add_engine(int8, models.reduced, "bf16", docs, tolerance=0.99, device="cpu")
    if not models.onnx.is_dir():
        with new_folder(models.onnx) as made:
            _write_onnx(models.artifact / "models", made)
    if not models.transformers.is_dir():
        with new_folder(models.transformers) as made:
            write_transformers(load_model(models.artifact), made)
    return models


def _write_onnx(towers: Path, folder: Path) -> None:
    """Both towers as clip_server has them."""
    onnx.save(onnx.load(towers / "clip-vision" / "model.onnx"), folder / "visual.onnx")
    text = _as_clip_server_asks(onnx.load(towers / "clip-text" / "model.onnx"))
    onnx.save(text, folder / "textual.onnx")


def _random_model(folder: Path, seed: int) -> Path:
    """A folder that `load_model` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    config = open_clip.get_model_config(ARCHITECTURE)
    torch.manual_seed(seed)
    clip = open_clip.CLIP(**config)
    weights = {name: value.contiguous() for name, value in clip.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    preprocessing = {
        "size": [224, 224],
        "mean": MEAN,
        "std": STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }
    written = {"model_cfg": config, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(written))
    return folder


def _as_clip_server_asks(text: onnx.ModelProto) -> onnx.ModelProto:
    """The text tower with clip_server's inputs: tokens of 32 bits, and a mask (it is causal)."""
    graph = text.graph
    [tokens] = graph.input
    inner = "tokens_64"
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == tokens.name:
                node.input[place] = inner
    graph.node.insert(0, helper.make_node("Cast", [tokens.name], [inner], to=TensorProto.INT64))
    tokens.type.tensor_type.elem_type = TensorProto.INT32
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT32, ["batch", "length"])
    graph.input.append(mask)
    onnx.checker.check_model(text)
    return text
