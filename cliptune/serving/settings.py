"""Where executors find their settings: arguments first, then the environment, then defaults."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path

from cliptune.errors import BadInput
from cliptune.home import home
from cliptune.limits import limit

ARTIFACT = "CLIPTUNE_ARTIFACT"
ONNX = "CLIPTUNE_ONNX"
INDEX = "CLIPTUNE_INDEX"
DEVICE = "CLIPTUNE_DEVICE"
PRECISION = "CLIPTUNE_PRECISION"
SERVER = "CLIPTUNE_SERVER"
"""The train Flow that the SDK's calls go to; a Trainer itself must not have it."""

SSL_CERTFILE = "CLIPTUNE_SSL_CERTFILE"
SSL_KEYFILE = "CLIPTUNE_SSL_KEYFILE"
DRAIN = "CLIPTUNE_DRAIN"

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


def drain_seconds() -> int:
    """How long a server that was told to end works on what it has taken."""
    return limit(DRAIN, 30)


def tls_files(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`ssl_certfile` and `ssl_keyfile` of the gateway; empty: without TLS.

    Raises:
        BadInput: only one of them is given, or they are not a certificate and its key.
    """
    certificate, key = (environment.get(v, "").strip() for v in (SSL_CERTFILE, SSL_KEYFILE))
    if not certificate and not key:
        return {}
    if not certificate or not key:
        raise BadInput(f"{SSL_CERTFILE} and {SSL_KEYFILE} go together: only one of them is set")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"TLS: {certificate} with {key}: {reason}") from None
    return {"ssl_certfile": certificate, "ssl_keyfile": key}


def index_folder(given: str | None) -> str:
    """Where the index is: a folder."""
    return given or os.environ.get(INDEX) or str(Path(home()) / "index")
