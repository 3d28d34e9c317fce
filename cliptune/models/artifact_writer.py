"""Writing an artifact from a model in memory."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import yaml
from safetensors.torch import save_file

from cliptune.files import new_folder
from cliptune.models.artifact import (
    CALIBRATION,
    FORMAT,
    NETWORK,
    TEXT_TOWER,
    VISION_TOWER,
    Artifact,
    Metadata,
    TowerInterface,
    open_artifact,
    write_checksums,
)
from cliptune.models.calibration import Calibration
from cliptune.models.digest import combine_digests, weights_digest
from cliptune.models.loading import ClipModel
from cliptune.models.modules import split_state
from cliptune.models.onnx import export_towers
from cliptune.models.tokenizers import describe_tokenizer, save_text_config, save_tokenizer

_RECORDED_PACKAGES = ("cliptune", "torch", "open_clip_torch", "onnx", "safetensors")


def write_artifact(
    model: ClipModel,
    folder: Path,
    *,
    config: Mapping[str, object] | None = None,
    metrics: Mapping[str, object] | None = None,
    calibration: Calibration | None = None,
    to_onnx: bool = False,
    replace: bool = False,
    private: bool = False,
) -> Artifact:
    """Write `model` as an artifact folder, whole or not at all, and open it again.

    `config` holds the run's options and `metrics` its figures, both JSON-able; `calibration` says
    what its cosines mean, where that was measured. With `to_onnx` each tower is exported to ONNX as
    well; `replace` and `private` are `new_folder`'s.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in model.clip.state_dict().items()}
    text, vision = split_state(state)
    digests = {TEXT_TOWER: weights_digest(text), VISION_TOWER: weights_digest(vision)}
    preprocessing = model.preprocessing.to_dict()
    with new_folder(folder, replace=replace, private=private) as beside:
        models = beside / "models"
        for tower, weights in ((TEXT_TOWER, text), (VISION_TOWER, vision)):
            (models / tower).mkdir(parents=True)
            save_file(weights, models / tower / "model.safetensors")
            _dump(models / tower / "metadata.yml", {"name": tower, "digest": digests[tower]})
        if to_onnx:
            export_towers(model, models)
        save_tokenizer(model.tokenizer, models / "tokenizer", model.folder)
        save_text_config(model.clip, models / "tokenizer")
        network = {"model_cfg": model.model_cfg, "preprocess_cfg": preprocessing}
        (models / NETWORK).write_text(json.dumps(network, indent=2))
        _dump(models / "input-map.yml", _input_map(model))
        _dump(beside / "config.yml", config or {})
        _dump(beside / "metrics.yml", metrics or {})
        if calibration is not None:
            _dump(beside / CALIBRATION, asdict(calibration))
        metadata = Metadata(
            format=FORMAT,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            base_model=model.base,
            digest=combine_digests(digests[TEXT_TOWER], digests[VISION_TOWER], model.model_cfg),
            output_dim=model.output_dim,
            activation=model.activation,
            preprocessing=preprocessing,
            tokenizer=describe_tokenizer(model.tokenizer, model.model_cfg["text_cfg"]),
            onnx=to_onnx,
            versions=_versions(),
        )
        _dump(beside / "metadata.yml", metadata)
        write_checksums(beside)
    return open_artifact(folder)


def _input_map(model: ClipModel) -> dict[str, TowerInterface]:
    height, width = model.preprocessing.size
    return {
        TEXT_TOWER: {
            "input": {"name": "input_ids", "dtype": "int64", "shape": ["batch", "length"]},
            "output": {"name": "embedding", "dtype": "float32", "dim": model.output_dim},
            "cut_to_longest": model.text_module.cuttable,
            "context_length": model.context_length,
        },
        VISION_TOWER: {
            "input": {
                "name": "pixel_values",
                "dtype": "float32",
                "shape": ["batch", 3, height, width],
            },
            "output": {"name": "embedding", "dtype": "float32", "dim": model.output_dim},
        },
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except ModuleNotFoundError:
            continue  # a checkout that is not installed has no version of its own
    return versions


def _dump(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(yaml.safe_dump(json.loads(json.dumps(value)), sort_keys=False))


def add_calibration(source: Artifact, folder: Path, calibration: Calibration) -> Artifact:
    """Copy an artifact to the new `folder`, with a calibration in place of the one it may have."""
    with new_folder(folder) as beside:
        shutil.copytree(source.path, beside, dirs_exist_ok=True)
        _dump(beside / CALIBRATION, asdict(calibration))
        write_checksums(beside)
    return open_artifact(folder)
