"""Where executors find their settings: arguments first, then the environment, then defaults."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from cliptune.errors import BadInput
from cliptune.home import home

ARTIFACT = "CLIPTUNE_ARTIFACT"
ONNX = "CLIPTUNE_ONNX"
INDEX = "CLIPTUNE_INDEX"
DEVICE = "CLIPTUNE_DEVICE"
PRECISION = "CLIPTUNE_PRECISION"
METRICS_PORT = "CLIPTUNE_METRICS_PORT"
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Where processes of one machine share their metrics; prometheus_client reads it when imported."""
LOG_FORMAT = "CLIPTUNE_LOG_FORMAT"
TRACES = "CLIPTUNE_TRACES"
GENERATIONS = "CLIPTUNE_GENERATIONS"
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


def metrics_port() -> int | None:
    """A port for `/metrics` alone; None: it is on the gateway's HTTP port.

    Raises:
        BadInput: the variable holds no port.
    """
    port = limit(METRICS_PORT, 0)
    if port > 65535:
        raise BadInput(f"{METRICS_PORT} is {port}: use a port from 1 to 65535")
    return port or None


def logs_json() -> bool:
    """Whether logs are JSON.

    Raises:
        BadInput: the variable holds neither `text` nor `json`.
    """
    value = os.environ.get(LOG_FORMAT, "").strip().lower()
    if value not in ("", "text", "json"):
        raise BadInput(f"{LOG_FORMAT} is {value!r}: use text or json")
    return value == "json"


def traces() -> str | None:
    """`http://host:port` of the OTLP collector that traces are sent to; None: nowhere.

    Raises:
        BadInput: the variable holds no such address.
    """
    value = os.environ.get(TRACES, "").strip()
    if not value:
        return None
    parts = urlsplit(value)
    try:
        complete = bool(parts.hostname and parts.port)
    except ValueError:
        complete = False
    if parts.scheme not in ("http", "https") or not complete:
        raise BadInput(f"{TRACES} is {value!r}: use an address such as http://collector:4317")
    return value


def index_folder(given: str | None) -> str:
    """Where the index is: a folder."""
    return given or os.environ.get(INDEX) or str(Path(home()) / "index")


def generations_folder(given: str | None) -> str | None:
    """Where the pointer and the models of an index's generations are; None: with the index."""
    return given or os.environ.get(GENERATIONS) or None


def generations_of(index_uri: str) -> str | None:
    """`generations_folder` of an index that may be another than the one that is served."""
    served = index_folder(None)
    same = served == index_uri or (
        "://" not in index_uri
        and Path(served).expanduser().absolute() == Path(index_uri).expanduser().absolute()
    )
    return generations_folder(None) if same else None
