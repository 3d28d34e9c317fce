"""The two engines: torch and ONNX Runtime, from a model in memory, its name, or an artifact."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Literal, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cliptune.errors import BadInput
from cliptune.inference.towers import Forward, TextTower, VisionTower
from cliptune.models.artifact import (
    TEXT_TOWER,
    Artifact,
    check_tower,
    open_artifact,
)
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


@overload
def get_tower(
    model: str | Path | ClipModel,
    select_model: Literal["clip-text"],
    *,
    is_onnx: bool = ...,
    precision: Precision = ...,
    device: str | None = ...,
    batch_size: int = ...,
    threads: int | None = ...,
    compiled: bool = ...,
) -> TextTower: ...
@overload
def get_tower(
    model: str | Path | ClipModel,
    select_model: Literal["clip-vision"],
    *,
    is_onnx: bool = ...,
    precision: Precision = ...,
    device: str | None = ...,
    batch_size: int = ...,
    threads: int | None = ...,
    compiled: bool = ...,
) -> VisionTower: ...
@overload
def get_tower(
    model: str | Path | ClipModel,
    select_model: str | None,
    *,
    is_onnx: bool = ...,
    precision: Precision = ...,
    device: str | None = ...,
    batch_size: int = ...,
    threads: int | None = ...,
    compiled: bool = ...,
) -> TextTower | VisionTower: ...
def get_tower(
    model: str | Path | ClipModel,
    select_model: str | None,
    *,
    is_onnx: bool = False,
    precision: Precision = "fp32",
    device: str | None = None,
    batch_size: int = 32,
    threads: int | None = None,
    compiled: bool = False,
) -> TextTower | VisionTower:
    """One tower of `model`, ready to encode.

    `model` is an artifact (folder or zip), a model's name (see `load_model`), or a model in
    memory, whose weights the tower then shares. `is_onnx` takes the artifact's ONNX file, and
    `threads` says how many ONNX Runtime uses (torch's are set by `torch.set_num_threads`).
    `precision` other than fp32 is for artifacts that `cliptune quantize` has admitted it to:
    `int8` runs on ONNX Runtime, `bf16` on torch. `compiled` has torch compile the tower: that takes
    a minute at its first batch, and pays on GPUs.

    Raises:
        BadInput: `select_model` names no tower, or ONNX or a precision is asked of something else
            than an artifact, or they exclude each other.
        NotFound, BadArtifact: as `open_artifact`, `Artifact.onnx_path` and `load_model` do.
    """
    tower = check_tower(select_model)
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
        return _for_device(_from_model(model, tower, where, batch_size, compiled), where)
    if path := artifact_path(model):
        artifact = open_artifact(path, only=(tower,))
        tell_outdated(artifact)
        artifact.check_precision(precision)
        forward = _artifact_forward(artifact, tower, is_onnx, precision, device, threads, compiled)
        made = _from_artifact(artifact, tower, forward, batch_size)
        return _for_device(made, pick_device(device))
    if is_onnx or precision != "fp32":
        raise BadInput(
            f"{str(model)!r} is not an artifact, and only artifacts hold ONNX models and engines "
            f"of reduced precision: `cliptune export {model} --format onnx --out FOLDER` writes "
            "one, and FOLDER is to be given in its place"
        )
    where = pick_device(device)
    loaded = load_model(model, device=str(where))
    return _for_device(_from_model(loaded, tower, where, batch_size, compiled), where)


def _from_model(
    model: ClipModel, tower: str, device: torch.device, batch_size: int, compiled: bool
) -> TextTower | VisionTower:
    if tower == TEXT_TOWER:
        module = model.text_module
        return TextTower(
            forward=torch_forward(module, device, compiled=compiled),
            tokenizer=model.tokenizer,
            context_length=model.context_length,
            digest=model.digest,
            output_dim=model.output_dim,
            cuttable=module.cuttable,
            batch_size=batch_size,
        )
    return VisionTower(
        forward=torch_forward(model.vision_module, device, compiled=compiled),
        preprocessing=model.preprocessing,
        digest=model.digest,
        output_dim=model.output_dim,
        batch_size=batch_size,
    )


def _artifact_forward(
    artifact: Artifact,
    tower: str,
    is_onnx: bool,
    precision: Precision,
    device: str | None,
    threads: int | None,
    compiled: bool,
) -> Forward:
    if is_onnx or precision == "int8":
        return onnx_forward(artifact.onnx_path(tower, precision), device, threads)
    where = pick_device(device)
    module = _tower_module(artifact, tower).to(where)
    if precision == "bf16":
        _halve_weights(module)
        return torch_forward(module, where, torch.bfloat16, compiled)
    return torch_forward(module, where, compiled=compiled)


def _from_artifact(
    artifact: Artifact, tower: str, forward: Forward, batch_size: int
) -> TextTower | VisionTower:
    if tower == TEXT_TOWER:
        text_cfg = artifact.model_cfg["text_cfg"]
        return TextTower(
            forward=forward,
            tokenizer=load_tokenizer(text_cfg, artifact.tokenizer_folder),
            context_length=int(text_cfg.get("context_length", 77)),
            digest=artifact.digest,
            output_dim=artifact.output_dim,
            cuttable=artifact.input_map[tower]["cut_to_longest"],
            batch_size=batch_size,
        )
    return VisionTower(
        forward=forward,
        preprocessing=artifact.preprocessing,
        digest=artifact.digest,
        output_dim=artifact.output_dim,
        batch_size=batch_size,
    )


def _for_device(tower: TextTower | VisionTower, device: torch.device) -> TextTower | VisionTower:
    """`tower`, which on a GPU gets batches undivided: small ones leave it idle."""
    if isinstance(tower, TextTower) and device.type != "cpu":
        tower.call_cost = math.inf
    return tower


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
