"""A model's towers, each run by an engine: from a model in memory, its name, or an artifact."""

from __future__ import annotations

import logging
import math
from functools import partial
from pathlib import Path
from typing import Literal, TypedDict, Unpack, cast, get_args, overload

import torch
from torch import nn

from cliptune.errors import BadInput
from cliptune.extras import is_installed
from cliptune.inference.choice import Task, quickest
from cliptune.inference.forwards import (
    halve_weights,
    onnx_forward,
    onnx_has_cuda,
    openvino_forward,
    openvino_has_bf16,
    torch_forward,
)
from cliptune.inference.speed import example_pictures, example_titles
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
from cliptune.settings import ENGINES, Engine, EngineOrAuto, Precision

log = logging.getLogger("cliptune")
RUNS: dict[Engine, tuple[Precision, ...]] = {
    "torch": ("fp32", "bf16"),
    "onnx": ("fp32", "int8"),
    "openvino": ("fp32", "bf16"),
}
"""The precisions of each engine. The first engine of a precision is the one that runs it where
none is named."""
_TITLES = (1, 32)
_PICTURES = (8,)
"""Batches by which engines are compared: a search is one title, what is indexed comes in many."""


class TowerOptions(TypedDict, total=False):
    """How a tower runs."""

    engine: EngineOrAuto | None
    """`onnx` and `openvino` run an artifact's ONNX file; `auto` is the quickest here of those that
    can run it, see `cliptune.inference.choice`. None: the first that `RUNS` has for `precision`."""
    precision: Precision
    """Other than `fp32` for artifacts that `cliptune quantize` has admitted it to."""
    device: str | None
    """None: the accelerator that is there; `openvino` runs on the CPU."""
    batch_size: int
    """32 by default."""
    threads: int | None
    """Of ONNX Runtime and OpenVINO (torch's are set by `torch.set_num_threads`)."""
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
        BadInput: `select_model` names no tower, or another engine than torch or a precision is
            asked of something else than an artifact, or they exclude each other.
        NotFound, BadArtifact: as `open_artifact`, `Artifact.onnx_path` and `load_model` do.
        Unavailable: OpenVINO is asked for and not installed.
    """
    tower = check_tower(select_model)
    precision, batch_size = options.get("precision", "fp32"), options.get("batch_size", 32)
    engine, device = _engine_for(options.get("engine"), precision), options.get("device")
    if batch_size < 1:
        raise BadInput(f"batch_size is {batch_size}: use a number from 1")
    by_torch = engine in ("torch", "auto") and precision == "fp32"
    if isinstance(model, ClipModel):
        if not by_torch:
            raise BadInput(
                f"a model in memory is run by torch in fp32, not by {engine} in {precision}: write "
                "it as an artifact first"
            )
        where = pick_device(device) if device else next(model.clip.parameters()).device
        model.clip.to(where)
    elif path := artifact_path(model):
        artifact = open_artifact(path, only=(tower,))
        tell_outdated(artifact)
        artifact.check_precision(precision)
        if engine == "auto":
            run_by, forward = _quickest(artifact, tower, options)
        else:
            run_by, forward = engine, _load(engine, artifact, tower, options)
        where = _place(run_by, device)
        _tell_unmeasured(artifact, run_by, precision)
        return _tower(artifact, tower, run_by, forward, where, batch_size)
    elif not by_torch:
        raise BadInput(
            f"{str(model)!r} is not an artifact, and only artifacts hold ONNX models and reduced "
            f"precisions: `cliptune export {model} --format onnx --out FOLDER` writes "
            "one, and FOLDER is to be given in its place"
        )
    else:
        where = pick_device(device)
        model = load_model(model, device=str(where))
    module = model.text_module if tower == TEXT_TOWER else model.vision_module
    forward = torch_forward(module, where, compiled=options.get("compiled", False))
    return _tower(model, tower, "torch", forward, where, batch_size)


def both_towers(
    model: str | Path | ClipModel, **options: Unpack[TowerOptions]
) -> tuple[TextTower, VisionTower]:
    """The text tower and the vision tower of `model`; see `get_tower`."""
    return get_tower(model, TEXT_TOWER, **options), get_tower(model, VISION_TOWER, **options)


def possible_engines(artifact: Artifact, precision: Precision, device: str | None) -> list[Engine]:
    """Those that can run an artifact's towers in `precision` here; `device` None: as `get_tower`.

    On a GPU those that run on it.
    """
    where = pick_device(device)
    found: list[Engine] = ["torch"]
    if artifact.has_onnx:
        if where.type == "cpu" or (where.type == "cuda" and onnx_has_cuda()):
            found.append("onnx")
        if where.type == "cpu" and is_installed("openvino"):
            found.append("openvino")
    able = [one for one in found if precision in RUNS[one]]
    if precision == "bf16" and "openvino" in able and not openvino_has_bf16():
        able.remove("openvino")
    return able


def _engine_for(engine: str | None, precision: str) -> EngineOrAuto:
    """The engine that is meant, or that of the precision where none is named.

    Raises:
        BadInput: there is no such engine or precision, or it doesn't run the precision.
    """
    if precision not in get_args(Precision):
        raise BadInput(f"precision is {precision!r}: use {', '.join(get_args(Precision))}")
    able = [one for one in ENGINES if precision in RUNS[one]]
    if engine is None or (engine == "auto" and len(able) == 1):
        return able[0]
    if engine not in (*ENGINES, "auto"):
        raise BadInput(f"engine is {engine!r}: use {', '.join(ENGINES)} or auto")
    if engine not in (*able, "auto"):
        raise BadInput(
            f"precision is {precision!r}, which the engine {engine!r} does not run: use "
            f"{' or '.join(able)}, or precision {' or '.join(RUNS[cast('Engine', engine)])}"
        )
    return cast("EngineOrAuto", engine)


def _place(engine: Engine, device: str | None) -> torch.device:
    """Where `engine` runs.

    Raises:
        BadInput: `device` isn't here, or not for this engine.
    """
    if engine != "openvino":
        return pick_device(device)
    where = pick_device(device or "cpu")
    if where.type != "cpu":
        raise BadInput(f"device is {device!r}: the engine openvino runs on the CPU, use cpu")
    return where


def _load(engine: Engine, artifact: Artifact, tower: str, options: TowerOptions) -> Forward:
    """A tower of an artifact by `engine`; raises as `get_tower`."""
    device, threads = options.get("device"), options.get("threads")
    precision = options.get("precision", "fp32")
    where = _place(engine, device)
    if engine == "onnx":
        return onnx_forward(artifact.onnx_path(tower, precision), device, threads)
    if engine == "openvino":
        return openvino_forward(artifact.onnx_path(tower), precision, threads)
    module = _tower_module(artifact, tower).to(where)
    autocast = None
    if precision == "bf16":
        halve_weights(module)
        autocast = torch.bfloat16
    return torch_forward(module, where, autocast, options.get("compiled", False))


def _quickest(artifact: Artifact, tower: str, options: TowerOptions) -> tuple[Engine, Forward]:
    """A tower of an artifact by the engine that is quickest here."""
    precision, compiled = options.get("precision", "fp32"), options.get("compiled", False)
    device = str(pick_device(options.get("device")))
    options = {**options, "device": device}
    loaded = {
        engine: partial(_load, engine, artifact, tower, options)
        for engine in possible_engines(artifact, precision, device)
    }
    task = Task(artifact.digest, tower, precision, device, options.get("threads"), compiled)
    if tower == VISION_TOWER:
        size = artifact.preprocessing.size
        pictures = [example_pictures(count, size) for count in _PICTURES]
        return quickest(loaded, task, pictures, "pictures")
    length, cuttable = _text_length(artifact), _is_cuttable(artifact)
    titles = [example_titles(count, length, cuttable=cuttable) for count in _TITLES]
    return quickest(loaded, task, titles, "titles")


def _tell_unmeasured(artifact: Artifact, engine: Engine, precision: Precision) -> None:
    """Warn where others than `engine` were measured when the precision was admitted."""
    measured = artifact.metadata.get("engines", {}).get(precision, {}).get("engines")
    if isinstance(measured, list) and engine not in measured:
        log.warning(
            "%s of this artifact was measured by %s, and %s runs it: `cliptune quantize` measures "
            "each engine that the machine has",
            precision,
            " and ".join(measured),
            engine,
        )


def _text_length(artifact: Artifact) -> int:
    """How many tokens its text tower reads."""
    length: int = artifact.model_cfg["text_cfg"].get("context_length", 77)
    return length


def _is_cuttable(artifact: Artifact) -> bool:
    """Whether its text tower may be given fewer."""
    return artifact.input_map[TEXT_TOWER]["cut_to_longest"]


def _tower(
    source: ClipModel | Artifact,
    tower: str,
    engine: Engine,
    forward: Forward,
    device: torch.device,
    batch_size: int,
) -> TextTower | VisionTower:
    """The tower that `forward` runs, with what `source` says of it."""
    lengths = tuple(source.matryoshka) if isinstance(source, Artifact) else ()
    if tower != TEXT_TOWER:
        digest, output_dim = source.digest, source.output_dim
        return VisionTower(
            forward,
            source.preprocessing,
            digest,
            output_dim,
            batch_size,
            engine=engine,
            lengths=lengths,
        )
    if isinstance(source, Artifact):
        tokenizer = load_tokenizer(source.model_cfg["text_cfg"], source.tokenizer_folder)
        context_length = _text_length(source)
        cuttable, calibration = _is_cuttable(source), source.calibration
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
        engine=engine,
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
