"""The tensors of a TorchScript archive, whose program is not run, nor even loaded.

OpenAI published its CLIPs so. An archive is a zip: `code/` has the program, `data.pkl` its objects
with their attributes, `data/N` and `constants/N` the bytes of its tensors. Here the objects are
unpickled with nothing but tensors and bags of attributes for classes, so that what an archive asks
for beyond that is refused.
"""

from __future__ import annotations

import collections
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cliptune.errors import BadInput

_STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
}


def is_torchscript(path: Path) -> bool:
    """Whether the file at `path` is an archive of a program and its tensors."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The tensors of the archive at `path`, by the names of the attributes that hold them.

    Raises:
        BadInput: it is cut short, or asks for more than tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = archive.namelist()[0].partition("/")[0]
            with archive.open(f"{root}/data.pkl") as file:
                program = _Unpickler(file, archive, f"{root}/data").load()
    except (zipfile.BadZipFile, KeyError, EOFError, ValueError, TypeError, IndexError) as error:
        raise BadInput(f"{path} can't be read as TorchScript: {error}") from error
    except pickle.UnpicklingError as error:
        raise BadInput(
            f"{path} holds more than a model's tensors, and was not opened: {error}"
        ) from None
    return dict(_tensors(program, "", set()))


class _Attributes:
    """In the place of the program's objects: what they are made of, and nothing that they do."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder
        self._read: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What may be made; the only way by which a pickle can reach code."""
        if module == "__torch__" or module.startswith("__torch__."):
            return _Attributes
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        allowed = _ALLOWED.get((module, name))
        if allowed is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return allowed

    def persistent_load(self, pid: Any) -> Tensor:
        """The bytes of a tensor, as a flat one of its dtype."""
        _, dtype, key, _, count = pid
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError(f"a storage of {pid!r}")
        if key not in self._read:
            data = self._archive.read(f"{self._folder}/{key}")
            if len(data) != count * dtype.itemsize:
                raise pickle.UnpicklingError(f"the storage {key} has {len(data)} bytes")
            self._read[key] = torch.frombuffer(bytearray(data), dtype=dtype)
        return self._read[key]


def _tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: object) -> Tensor:
    return storage.as_strided(tuple(size), tuple(stride), offset)


def _first(value: object, *_: object) -> object:
    return value


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("collections", "OrderedDict"): collections.OrderedDict,
    **{
        ("torch.jit._pickle", name): _first
        for name in ("build_intlist", "build_doublelist", "build_boollist", "restore_type_tag")
    },
}


def _tensors(thing: object, prefix: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(thing, _Attributes) or id(thing) in seen:
        return
    seen.add(id(thing))
    for name, value in vars(thing).items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        else:
            yield from _tensors(value, f"{prefix}{name}.", seen)
