"""Where executors find their settings: arguments first, then the environment, then defaults."""

from __future__ import annotations

import os
from pathlib import Path

from cliptune.errors import BadInput
from cliptune.home import home

ARTIFACT = "CLIPTUNE_ARTIFACT"
ONNX = "CLIPTUNE_ONNX"
INDEX = "CLIPTUNE_INDEX"
DEVICE = "CLIPTUNE_DEVICE"
PRECISION = "CLIPTUNE_PRECISION"
SERVER = "CLIPTUNE_SERVER"
"""The train Flow that the SDK's calls go to; a Trainer itself must not have it."""

_YES, _NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


def artifact(given: str | None) -> str:
    """The model to serve: an artifact's path, or a model's name."""
    return given or os.environ.get(ARTIFACT) or "builtin"


def is_onnx(given: bool | None) -> bool:
    """Whether ONNX Runtime runs it."""
    if given is not None:
        return given
    value = os.environ.get(ONNX, "").strip().lower()
    if value not in _YES + _NO:
        raise BadInput(f"{ONNX} is {value!r}: use 1 or 0")
    return value in _YES


def precision(given: str | None) -> str:
    """`fp32`, `int8` or `bf16`."""
    return given or os.environ.get(PRECISION) or "fp32"


def device(given: str | None) -> str | None:
    """`cpu`, `cuda`, …; None is the accelerator that is there."""
    return given or os.environ.get(DEVICE) or None


def limit(variable: str, default: int) -> int:
    """A limit on requests, from the environment of the gateway and of the executors.

    Raises:
        BadInput: the variable holds no whole number from 1 to 2^31 - 1.
    """
    value = os.environ.get(variable, "").strip()
    if not value:
        return default
    if not value.isascii() or not value.isdigit() or not 1 <= int(value) < 2**31:
        raise BadInput(f"{variable} is {value!r}: use a whole number from 1 to {2**31 - 1}")
    return int(value)


def index_folder(given: str | None) -> str:
    """Where the index is: a folder, or a Milvus collection's address."""
    return given or os.environ.get(INDEX) or str(Path(home()) / "index")
