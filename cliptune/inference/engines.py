"""The two engines: torch and ONNX Runtime, from a model in memory, its name, or an artifact."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Literal, TypedDict, Unpack, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cliptune.errors import BadInput
from cliptune.inference.towers import Forward, TextTower, VisionTower
from cliptune.models.artifact import TEXT_TOWER, VISION_TOWER, Artifact, check_tower, open_artifact
from cliptune.models.loading import (
    ClipModel,
    build_empty,
    load_model,
    load_weights,
    pick_device,
    tell_outdated,
)
from cliptune.models.modules import TextModule, VisionModule
from cliptune.models.names import artifact_path
from cliptune.models.tokenizers import load_tokenizer

Precision = Literal["fp32", "int8", "bf16"]


class TowerOptions(TypedDict, total=False):
    """How a tower runs."""

    is_onnx: bool
    """By the artifact's ONNX file, instead of torch."""
    precision: Precision
    """Other than `fp32` for artifacts that `cliptune quantize` has admitted it to: `int8` runs on
    ONNX Runtime, `bf16` on torch."""
    device: str | None
    """None: the accelerator that is there."""
    batch_size: int
    """32 by default."""
    threads: int | None
    """Of ONNX Runtime (torch's are set by `torch.set_num_threads`)."""
    compiled: bool
    """By torch's compiler: that takes a minute at the first batch, and pays on GPUs."""


@overload
def get_tower(
    model: str | Path | ClipModel,
    select_model: Literal["clip-text"],
    **options: Unpack[TowerOptions],
) -> TextTower: ...
@overload
def get_tower(
    model: str | Path | ClipModel,
    select_model: Literal["clip-vision"],
    **options: Unpack[TowerOptions],
) -> VisionTower: ...
@overload
def get_tower(
    model: str | Path | ClipModel, select_model: str | None, **options: Unpack[TowerOptions]
) -> TextTower | VisionTower: ...
def get_tower(
    model: str | Path | ClipModel, select_model: str | None, **options: Unpack[TowerOptions]
) -> TextTower | VisionTower:
    """One tower of `model`, ready to encode.

    `model` is an artifact (folder or zip), a model's name (see `load_model`), or a model in
    memory, whose weights the tower then shares.

    Raises:
        BadInput: `select_model` names no tower, or ONNX or a precision is asked of something else
            than an artifact, or they exclude each other.
        NotFound, BadArtifact: as `open_artifact`, `Artifact.onnx_path` and `load_model` do.
    """
    tower = check_tower(select_model)
    is_onnx, precision = options.get("is_onnx", False), options.get("precision", "fp32")
    device, batch_size = options.get("device"), options.get("batch_size", 32)
    if precision not in get_args(Precision):
        raise BadInput(f"precision is {precision!r}: use {', '.join(get_args(Precision))}")
    if is_onnx and precision == "bf16":
        raise BadInput("precision 'bf16' runs on torch, and is_onnx asks for ONNX Runtime")
    if batch_size < 1:
        raise BadInput(f"batch_size is {batch_size}: use a number from 1")
    if isinstance(model, ClipModel):
        if is_onnx:
            raise BadInput("a model in memory has no ONNX engine: write it as an artifact first")
        where = pick_device(device) if device else next(model.clip.parameters()).device
        model.clip.to(where)
    elif path := artifact_path(model):
        artifact = open_artifact(path, only=(tower,))
        tell_outdated(artifact)
        artifact.check_precision(precision)
        where = pick_device(device)
        if is_onnx or precision == "int8":
            file = artifact.onnx_path(tower, precision)
            forward = onnx_forward(file, device, options.get("threads"))
        else:
            forward = _torch_forward(artifact, tower, where, options)
        return _tower(artifact, tower, forward, where, batch_size)
    elif is_onnx or precision != "fp32":
        raise BadInput(
            f"{str(model)!r} is not an artifact, and only artifacts hold ONNX models and engines "
            f"of reduced precision: `cliptune export {model} --format onnx --out FOLDER` writes "
            "one, and FOLDER is to be given in its place"
        )
    else:
        where = pick_device(device)
        model = load_model(model, device=str(where))
    module = model.text_module if tower == TEXT_TOWER else model.vision_module
    forward = torch_forward(module, where, compiled=options.get("compiled", False))
    return _tower(model, tower, forward, where, batch_size)


def both_towers(
    model: str | Path | ClipModel, **options: Unpack[TowerOptions]
) -> tuple[TextTower, VisionTower]:
    """The text tower and the vision tower of `model`; see `get_tower`."""
    return get_tower(model, TEXT_TOWER, **options), get_tower(model, VISION_TOWER, **options)


def _torch_forward(
    artifact: Artifact, tower: str, device: torch.device, options: TowerOptions
) -> Forward:
    module = _tower_module(artifact, tower).to(device)
    autocast = None
    if options.get("precision") == "bf16":
        _halve_weights(module)
        autocast = torch.bfloat16
    return torch_forward(module, device, autocast, options.get("compiled", False))


def _tower(
    source: ClipModel | Artifact,
    tower: str,
    forward: Forward,
    device: torch.device,
    batch_size: int,
) -> TextTower | VisionTower:
    """The tower that `forward` runs, with what `source` says of it."""
    lengths = tuple(source.matryoshka) if isinstance(source, Artifact) else ()
    if tower != TEXT_TOWER:
        digest, output_dim = source.digest, source.output_dim
        return VisionTower(
            forward, source.preprocessing, digest, output_dim, batch_size, lengths=lengths
        )
    if isinstance(source, Artifact):
        text_cfg = source.model_cfg["text_cfg"]
        tokenizer = load_tokenizer(text_cfg, source.tokenizer_folder)
        context_length = text_cfg.get("context_length", 77)
        cuttable, calibration = source.input_map[tower]["cut_to_longest"], source.calibration
    else:
        tokenizer, context_length = source.tokenizer, source.context_length
        cuttable, calibration = source.text_module.cuttable, None
    text_tower = TextTower(
        forward,
        tokenizer,
        context_length,
        source.digest,
        source.output_dim,
        cuttable,
        batch_size,
        calibration=calibration,
        lengths=lengths,
    )
    if device.type != "cpu":
        text_tower.call_cost = math.inf  # small batches leave a GPU idle
    return text_tower


def _tower_module(artifact: Artifact, tower: str) -> nn.Module:
    """One tower with its weights; the other one is dropped so that it takes no memory."""
    clip, _ = build_empty(artifact)
    load_weights(clip, artifact.weights(tower), partial=True)
    if tower == TEXT_TOWER:
        clip.visual = nn.Identity()
        return TextModule(clip).eval()
    return VisionModule(clip).eval()


def _halve_weights(module: nn.Module) -> None:
    """Keep the weights of matrix products as bfloat16, as which autocast computes with them.

    It would make them so at each call otherwise, which takes longer than the products (on a CPU
    with bfloat16 a ViT-B/32 is 3 times as fast by this). Norms and sums stay float32.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.MultiheadAttention):
            part.to(torch.bfloat16)


def torch_forward(
    module: nn.Module,
    device: torch.device,
    autocast: torch.dtype | None = None,
    compiled: bool = False,
) -> Forward:
    """`module` as an engine: numpy in, numpy out, without gradients; `autocast` None: fp32.

    Compiled, it is one program for batches of all sizes and texts of all lengths.
    """
    run = torch.compile(module, dynamic=True) if compiled else module

    def forward(batch: NDArray[np.generic]) -> NDArray[np.float32]:
        rows = torch.from_numpy(np.ascontiguousarray(batch))
        if compiled and len(rows) == 1:
            rows = rows.expand(2, *rows.shape[1:])  # a size of 1 would be compiled on its own
        if device.type == "cuda":
            rows = rows.pin_memory()  # so that it is copied while the batch before is computed
        reduced = torch.autocast(device.type, dtype=autocast, enabled=autocast is not None)
        with torch.inference_mode(), reduced:
            embeddings = run(rows.to(device, non_blocking=True))
            rows_out: NDArray[np.float32] = embeddings[: len(batch)].float().cpu().numpy()
        return rows_out

    return forward


def onnx_forward(path: Path, device: str | None = None, threads: int | None = None) -> Forward:
    """The ONNX file at `path` as an engine of ONNX Runtime; `threads` None: one for each core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    # Threads that spin while they wait would take the other executors' cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    available = onnxruntime.get_available_providers()
    wanted = [] if device == "cpu" else ["CUDAExecutionProvider"]
    providers = [p for p in wanted if p in available] + ["CPUExecutionProvider"]
    if device and device.startswith("cuda") and len(providers) == 1:
        raise BadInput(f"device {device!r}: this onnxruntime has no CUDA (it has {available})")
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    run = functools.partial(session.run, ["embedding"])
    name = session.get_inputs()[0].name
    return lambda batch: run({name: batch})[0]
