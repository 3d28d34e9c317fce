"""Files of weights to state dicts: safetensors, and pickles of tensors alone; code is never run."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cliptune.errors import BadInput
from cliptune.models.formats.torchscript import is_torchscript, read_torchscript

State = dict[str, Tensor]
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz")
"""Of files that are weights."""
_LFS = b"version https://git-lfs"
_PREFIXES = ("module.", "_orig_mod.")
"""What training in parallel, and torch's compiler, put before the names of weights."""
# What a learning rate is as a number of numpy: open_clip's training program writes such.
_NUMBERS = [
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
    np.dtypes.BoolDType,
]


def read_checkpoint(path: Path) -> State:
    """The tensors of the file at `path`, by their names.

    Reads safetensors, the index of several of them (`….index.json`), what `torch.save` writes of
    tensors and numbers (a state dict, or a training program's checkpoint with one under
    `state_dict`), and TorchScript archives, whose program is left alone.

    Raises:
        BadInput: it is cut short, none of these, or holds more than tensors; the message says what.
    """
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    with path.open("rb") as file:
        begin = file.read(len(_LFS))
    if begin == _LFS:
        raise BadInput(
            f"{path} is what Git keeps in the place of a large file, not the weights: fetch them "
            "by `git lfs pull`, or download the file itself"
        )
    if not begin:
        raise BadInput(f"{path} is empty: download it again")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _plain_names(_read_torch(path), path)


def _read_shards(index: Path) -> State:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{index} is no index of weights: {error}") from error
    if any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise BadInput(f"{index} names files of another folder")
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise BadInput(
            f"{index.parent} holds {len(names) - len(missing)} of the {len(names)} files of the "
            f"weights, and {missing[0]} is missing: download the model again"
        )
    state: State = {}
    for name in names:
        state |= read_checkpoint(index.parent / name)
    return state


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise BadInput(
            f"{path} is no whole safetensors file ({error}): it may be cut short; download or copy "
            "it again"
        ) from error


def _read_torch(path: Path) -> object:
    if is_torchscript(path):
        return read_torchscript(path)
    try:
        with torch.serialization.safe_globals(_NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked:
            raise BadInput(
                f"{path} holds more than tensors (it asks for {asked[1]}), and opening it could "
                "run code: it was not opened. If you trust who made it, have them save the "
                "weights alone: safetensors.torch.save_file(model.state_dict(), FILE)"
            ) from error
        raise BadInput(
            f"{path} can't be read: neither safetensors nor a checkpoint of tensors alone"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        words = " ".join(str(error).split())[:200]
        raise BadInput(
            f"{path} is no whole checkpoint ({words}): it may be cut short; download or copy it "
            "again"
        ) from error


def _plain_names(content: object, path: Path) -> State:
    """The state dict in what a file held, without prefixes that all names have."""
    if isinstance(content, Mapping):
        content = content.get("state_dict", content)
    if not isinstance(content, Mapping) or not content or not all(map(_is_weight, content.items())):
        raise BadInput(f"{path} holds no state dict: tensors by their names are expected")
    state: dict[str, Any] = dict(content)
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _is_weight(item: tuple[object, object]) -> bool:
    name, value = item
    return isinstance(name, str) and isinstance(value, Tensor)
