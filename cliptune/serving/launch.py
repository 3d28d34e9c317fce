"""`serve` and `serve_training`: a Flow for as long as a `with` block lasts."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cliptune.errors import AlreadyExists, BadInput, Unavailable
from cliptune.files import make_folder, open_file
from cliptune.home import home
from cliptune.index.open import absolute_uri
from cliptune.serving import settings
from cliptune.serving.flow_process import CLIP_SERVICE_PORT, GRPC_PORT, HOST, HTTP_PORT
from cliptune.serving.keys import KEYS_FILE, KeyFile
from cliptune.serving.resources import flow_file

log = logging.getLogger("cliptune")
START_TIMEOUT = 300.0
"""Seconds that a Flow has to start: models are read, on slow machines."""


class PortInUse(AlreadyExists):
    """Another process listens on the port; the message names it."""


@contextmanager
def serve(
    artifact: str | Path = "builtin",
    *,
    index: str | Path | None = None,
    index_storage: str | None = None,
    grpc_port: int = 51000,
    http_port: int = 51001,
    clip_service_port: int = 0,
    host: str = "127.0.0.1",
    is_onnx: bool = False,
    precision: str | None = None,
    ssl_certfile: str | Path | None = None,
    ssl_keyfile: str | Path | None = None,
    api_keys: str | Path | None = None,
) -> Iterator[None]:
    """Serve a model as text-to-image search, until the block ends.

    Args:
        artifact: an artifact's zip or folder, `Run.artifact_id`, or a model's name.
        index: the index's folder, or a Milvus collection's address (`cliptune.index.open_index`);
            None: CLIPTUNE_INDEX, or `index` in CLIPTUNE_HOME.
        index_storage: how a new folder's index keeps embeddings, `float32` or `float16` (half the
            room, see `LanceOptions`); None: CLIPTUNE_INDEX_STORAGE, or as the index has them.
        grpc_port: for `Client("grpc://…")`.
        http_port: for HTTP, and the search page at `/`.
        clip_service_port: for clip-as-service's clients over gRPC (`cliptune serve` takes 51002);
            0: none. Over HTTP and WebSocket they are answered at `http_port`.
        host: 0.0.0.0 to be reached from other machines: with `api_keys` and TLS, or a proxy that
            asks for passwords.
        is_onnx: run the artifact's ONNX models instead of torch.
        precision: `int8` or `bf16`, where `cliptune quantize` added it; None: CLIPTUNE_PRECISION,
            or `fp32`.
        ssl_certfile: a certificate (PEM, with its chain) for TLS on both ports; None:
            CLIPTUNE_SSL_CERTFILE, or no TLS.
        ssl_keyfile: the certificate's key; None: CLIPTUNE_SSL_KEYFILE.
        api_keys: a file of `cliptune keys`; None: CLIPTUNE_API_KEYS_FILE, or everybody may do
            everything.

    When the block ends, requests that were taken are answered first, for up to CLIPTUNE_DRAIN
    seconds (30).

    Raises:
        BadInput: the certificate or the API keys can't be read.
        PortInUse: a port is taken.
        NotFound, BadArtifact: the model can't be opened.
        Unavailable: the Flow did not start; the message has the end of its log.
    """
    from cliptune.sdk.models import locate_model

    environment = {
        settings.ARTIFACT: locate_model(artifact),
        settings.ONNX: "1" if is_onnx else "0",
        settings.PRECISION: settings.precision(precision),
        settings.INDEX: absolute_uri(index) if index else settings.index_folder(None),
        settings.INDEX_STORAGE: settings.index_storage(index_storage) or "",
        **_security(ssl_certfile, ssl_keyfile, api_keys),
    }
    environment[CLIP_SERVICE_PORT] = str(clip_service_port)
    if clip_service_port:
        if clip_service_port in (grpc_port, http_port):
            raise BadInput(f"clip_service_port is {clip_service_port}, as another port")
        check_port(host, clip_service_port)
    with _flow("search", grpc_port, http_port, host, environment):
        yield


@contextmanager
def serve_training(
    *,
    grpc_port: int = 52000,
    http_port: int = 52001,
    host: str = "127.0.0.1",
    ssl_certfile: str | Path | None = None,
    ssl_keyfile: str | Path | None = None,
    api_keys: str | Path | None = None,
    hub_models: str | None = None,
) -> Iterator[None]:
    """Serve the Trainer, until the block ends: others start and watch runs on this machine.

    Runs that it started go on after it has ended. TLS and API keys as in `serve`. `hub_models`
    says which models of the Hugging Face hub clients may name: organisations, or beginnings of
    `ORG/NAME`, separated by commas; None: CLIPTUNE_HUB_MODELS, or none.

    Raises:
        BadInput: the certificate or the API keys can't be read.
        PortInUse: a port is taken.
        Unavailable: the Flow did not start; the message has the end of its log.
    """
    environment = {"CLIPTUNE_SERVER": "", **_security(ssl_certfile, ssl_keyfile, api_keys)}
    environment[settings.HUB_MODELS] = ",".join(settings.hub_models(hub_models))
    with _flow("train", grpc_port, http_port, host, environment):
        yield


def _security(
    certificate: str | Path | None, key: str | Path | None, api_keys: str | Path | None
) -> dict[str, str]:
    """The gateway's environment, checked here: its errors would be lines of a log."""
    given = {settings.SSL_CERTFILE: certificate, settings.SSL_KEYFILE: key, KEYS_FILE: api_keys}
    found = {name: str(Path(path).absolute()) for name, path in given.items() if path}
    environment = {**os.environ, **found}
    settings.tls_files(environment)
    if keys := environment.get(KEYS_FILE, "").strip():
        KeyFile(Path(keys))
    return found


def check_port(host: str, port: int) -> None:
    """Raise `PortInUse` if something listens there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OverflowError:
            raise BadInput(f"port {port}: expected 1 to 65535") from None
        except OSError as error:
            raise PortInUse(f"port {port} of {host} can't be used: {error.strerror}") from None


@contextmanager
def _flow(
    name: str, grpc_port: int, http_port: int, host: str, environment: dict[str, str]
) -> Iterator[None]:
    if grpc_port == http_port:
        raise BadInput(f"grpc_port and http_port are both {grpc_port}: they must differ")
    for port in (grpc_port, http_port):
        check_port(host, port)
    ports = {GRPC_PORT: str(grpc_port), HTTP_PORT: str(http_port), HOST: host}
    logs = make_folder(home() / "logs")
    log_file = logs / f"{name}-{grpc_port}.log"
    with tempfile.TemporaryDirectory() as folder:
        state_file = Path(folder) / "state.json"
        command = [sys.executable, "-m", "cliptune.serving.flow_process"]
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(open_file(log_file, flags), "wb") as output:
            process = subprocess.Popen(  # noqa: S603  (our own module)
                [*command, str(flow_file(name)), str(state_file)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **ports, **environment, "JINA_LOG_NO_COLOR": "1"},
                start_new_session=True,  # Ctrl-C reaches only us, and we end it in order
            )
        try:
            _wait_until_ready(process, state_file, log_file)
            try:
                yield
            finally:
                if process.poll() is not None:
                    log.error("the service has ended by itself: %s", _reason(log_file))
        finally:
            _stop(process)


def _wait_until_ready(process: subprocess.Popen, state_file: Path, log_file: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        state = json.loads(state_file.read_text()) if state_file.exists() else {}
        if state.get("state") == "ready":
            return
        if state.get("state") == "failed" or process.poll() is not None:
            raise Unavailable(f"the service did not start: {_reason(log_file)}")
        time.sleep(0.1)
    raise Unavailable(f"the service was not ready after {START_TIMEOUT:g} s; its log: {log_file}")


def _reason(log_file: Path) -> str:
    """The last error in a log; the log's place if there is none."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", log_file.read_text(errors="replace"))
    found = re.findall(r"^\s*(?:cliptune\.errors\.)?(\w+(?:Error|Bad\w*|NotFound|Unavailable): .+)",
                       text, re.MULTILINE)  # fmt: skip
    return f"{found[-1].strip() if found else 'see its log'} (log: {log_file})"


def _stop(process: subprocess.Popen) -> None:
    """End the Flow in order, and whatever of it is left by force."""
    patience = settings.drain_seconds() + 20
    try:
        if process.stdin:
            process.stdin.close()
        if process.poll() is None:
            process.terminate()
        process.wait(patience)
    except subprocess.TimeoutExpired:
        pass
    finally:  # also when a second Ctrl-C comes
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
