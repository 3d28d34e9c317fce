"""Where executors find their settings: arguments first, then the environment, then defaults."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cliptune.errors import BadInput
from cliptune.home import home
from cliptune.limits import limit

if TYPE_CHECKING:
    from cliptune.index.metadata import Storage

ARTIFACT = "CLIPTUNE_ARTIFACT"
ONNX = "CLIPTUNE_ONNX"
INDEX = "CLIPTUNE_INDEX"
INDEX_STORAGE = "CLIPTUNE_INDEX_STORAGE"
DEVICE = "CLIPTUNE_DEVICE"
PRECISION = "CLIPTUNE_PRECISION"
COMPILE = "CLIPTUNE_COMPILE"
METRICS_PORT = "CLIPTUNE_METRICS_PORT"
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Where processes of one machine share their metrics; prometheus_client reads it when imported."""
LOG_FORMAT = "CLIPTUNE_LOG_FORMAT"
TRACES = "CLIPTUNE_TRACES"
GENERATIONS = "CLIPTUNE_GENERATIONS"
SERVER = "CLIPTUNE_SERVER"
"""The train Flow that the SDK's calls go to; a Trainer itself must not have it."""

SSL_CERTFILE = "CLIPTUNE_SSL_CERTFILE"
SSL_KEYFILE = "CLIPTUNE_SSL_KEYFILE"
DRAIN = "CLIPTUNE_DRAIN"
HUB_MODELS = "CLIPTUNE_HUB_MODELS"
HOST = "CLIPTUNE_HOST"
ROOT_PATH = "CLIPTUNE_ROOT_PATH"
TRUSTED_PROXIES = "CLIPTUNE_TRUSTED_PROXIES"
PUBLIC_URL = "CLIPTUNE_PUBLIC_URL"

_PATH = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
_YES, _NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


def artifact(given: str | None) -> str:
    """The model to serve: an artifact's path, or a model's name."""
    return given or os.environ.get(ARTIFACT) or "builtin"


def is_onnx(given: bool | None) -> bool:
    """Whether ONNX Runtime runs it."""
    return _flag(ONNX) if given is None else given


def compiled(on_gpu: bool) -> bool:
    """Whether torch compiles the towers; by default on a GPU."""
    return _flag(COMPILE) if os.environ.get(COMPILE, "").strip() else on_gpu


def _flag(variable: str) -> bool:
    value = os.environ.get(variable, "").strip().lower()
    if value not in _YES + _NO:
        raise BadInput(f"{variable} is {value!r}: use 1 or 0")
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


def hub_models(given: str | None) -> tuple[str, ...]:
    """Which models of the Hugging Face hub a train Flow's clients may name; empty: none.

    Each is an organisation, or the beginning of `ORG/NAME`; commas separate them.

    Raises:
        BadInput: one of them can't be the beginning of a repository's name.
    """
    text = os.environ.get(HUB_MODELS, "") if given is None else given
    allowed = tuple(part for part in (part.strip() for part in text.split(",")) if part)
    for part in allowed:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]*)?", part, re.ASCII):
            raise BadInput(
                f"{HUB_MODELS}: {part!r} is neither an organisation nor the beginning of ORG/NAME, "
                "such as laion or timm/vit_"
            )
    return allowed


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
    except ssl.SSLError as error:  # in words such as "PEM lib"
        raise BadInput(
            f"TLS: {certificate} is no certificate in PEM, or {key} is not its key, without a "
            f"password ({error.reason or error})"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"TLS: {certificate} with {key}: {reason}") from None
    return {"ssl_certfile": certificate, "ssl_keyfile": key}


def root_path(environment: Mapping[str, str] = os.environ) -> str:
    """The path that the service lives below behind a proxy, without a slash at its end.

    Raises:
        BadInput: the variable holds no path.
    """
    value = environment.get(ROOT_PATH, "").strip().rstrip("/")
    if value and not _PATH.fullmatch(value):
        raise BadInput(f"{ROOT_PATH} is {value[:200]!r}: use a path such as /search-by-picture")
    return value


def trusted_proxies(
    environment: Mapping[str, str] = os.environ,
) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Networks of the proxies whose `X-Forwarded-…` headers are taken over; by default none.

    Raises:
        BadInput: the variable holds something else.
    """
    found = []
    for value in environment.get(TRUSTED_PROXIES, "").split(","):
        if value.strip():
            try:
                found.append(ipaddress.ip_network(value.strip()))
            except ValueError as error:
                raise BadInput(
                    f"{TRUSTED_PROXIES}: {error}: use addresses or networks such as 10.0.0.0/8, "
                    "separated by commas"
                ) from None
    return tuple(found)


def public_url(environment: Mapping[str, str] = os.environ) -> str:
    """The address by which clients reach the HTTP side, without a slash at its end; empty: unknown.

    Raises:
        BadInput: the variable holds no such address.
    """
    value = environment.get(PUBLIC_URL, "").strip().rstrip("/")
    if not value:
        return ""
    parts = urlsplit(value)
    plain = not (parts.query or parts.fragment or parts.username or parts.password)
    if parts.scheme not in ("http", "https") or not parts.netloc or not plain:
        raise BadInput(
            f"{PUBLIC_URL} is {value[:200]!r}: use one such as https://search.shop.example"
        )
    return value


def bind_host(given: str) -> str:
    """Where the gateway listens: CLIPTUNE_HOST, or what its Flow's file says."""
    return os.environ.get(HOST, "").strip() or given


def bracketed(host: str) -> str:
    """A host as it stands before a port: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


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


def grpc_credentials() -> Any:
    """gRPC's server credentials of `tls_files`; None: without TLS."""
    if not (files := tls_files()):
        return None
    import grpc

    pair = Path(files["ssl_keyfile"]).read_bytes(), Path(files["ssl_certfile"]).read_bytes()
    return grpc.ssl_server_credentials((pair,))


def index_folder(given: str | None) -> str:
    """Where the index is: a folder, or a Milvus collection's address."""
    return given or os.environ.get(INDEX) or str(Path(home()) / "index")


def index_storage(given: str | None) -> Storage | None:
    """How a new index keeps embeddings; None: it wasn't chosen.

    Raises:
        BadInput: there is no such storage.
    """
    from cliptune.index.metadata import check_storage

    chosen = given or os.environ.get(INDEX_STORAGE)
    try:
        return check_storage(chosen) if chosen else None
    except BadInput as error:
        raise error if given else BadInput(f"{INDEX_STORAGE}: {error}") from None


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
