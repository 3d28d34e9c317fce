"""What of cliptune is installed: the client alone, or the extras that train, serve and index."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType

from cliptune.errors import Unavailable

_MODULES = {
    "train": ("torch", "open_clip", "onnxruntime", "onnx", "matplotlib"),
    "serve": ("torch", "open_clip", "onnxruntime", "jina", "fastapi", "lancedb"),
    "index": ("lancedb",),
    "milvus": ("pymilvus",),
    "lora": ("peft",),
    "hf": ("transformers",),
    "parquet": ("pyarrow",),
    "excel": ("python_calamine",),
    "datasets": ("datasets",),
    "mcp": ("mcp",),
    "tune": ("optuna",),
    "suspects": ("cleanlab",),
    "openvino": ("openvino",),
}
"""Modules that an extra of pyproject.toml brings, and that its work can't do without."""


def need(extra: str, what: str) -> None:
    """Refuse `what` where an extra is missing: before it begins, and by the extra's name.

    Raises:
        Unavailable: it isn't installed; the message says how it is.
    """
    missing = [name for name in _MODULES[extra] if not _is_there(name)]
    if missing:
        raise _missing(what, extra, missing[0])


def is_installed(extra: str) -> bool:
    """Whether all that an extra brings is there."""
    return all(_is_there(name) for name in _MODULES[extra])


def import_openvino(what: str) -> ModuleType:
    """OpenVINO for `what`, kept from telling its makers of each import and conversion.

    It would do that through another package, and does without where that isn't there.

    Raises:
        Unavailable: it isn't installed.
    """
    need("openvino", what)
    with hidden("openvino_telemetry"):
        return importlib.import_module("openvino")


def missing_extra(error: ModuleNotFoundError) -> Unavailable | None:
    """What an import that failed says to users; None: the module is of no extra."""
    name = (error.name or "").partition(".")[0]
    for extra, modules in _MODULES.items():
        if name in modules:
            return _missing("this", extra, name)
    return None


@contextmanager
def hidden(*packages: str) -> Iterator[None]:
    """Have `import package` fail meanwhile, for those that nobody has imported yet.

    For libraries that import others only because they are installed.
    """
    hidden = [name for name in packages if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # what makes an import fail
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def stubbed(name: str, **attributes: object) -> Iterator[None]:
    """Have `import name` give a module of these attributes meanwhile, unless it is imported.

    For libraries that import others for what is not used here.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = module = ModuleType(name)
    vars(module).update(attributes)
    try:
        yield
    finally:
        del sys.modules[name]


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # it is kept from being imported
        return False


def _missing(what: str, extra: str, module: str) -> Unavailable:
    return Unavailable(f"{what} needs: pip install 'cliptune[{extra}]' ({module} is not installed)")
