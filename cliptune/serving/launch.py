"""`serve` and `serve_training`: a Flow for as long as a `with` block lasts."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from cliptune.errors import AlreadyExists, BadInput, CliptuneError, NotFound, Unavailable
from cliptune.extras import need
from cliptune.files import make_folder, open_file
from cliptune.gateway.access.api_keys import KeyFile
from cliptune.index.open import absolute_uri, is_server, open_index
from cliptune.observability.startup import Failure
from cliptune.protocol import wire_errors
from cliptune.serving.flow_process import FlowState, how_it_ended
from cliptune.settings import Settings, variable_of

log = logging.getLogger("cliptune")
START_TIMEOUT = 300.0
"""Seconds that a Flow has to start: models are read, on slow machines."""
MAX_LOG = 16 * 2**20
"""Bytes of a log that is gone on with; a longer one is put aside as `….log.1` at the next start."""


class PortInUse(AlreadyExists):
    """Another process listens on the port; the message names it."""


class Service:
    """A service that was started: `serve` and `serve_training` give it to their block."""

    def __init__(self, process: subprocess.Popen[bytes], state_file: Path, log_file: Path) -> None:
        """Take its process, and where it says how it is."""
        self._process, self._state_file, self.log_file = process, state_file, log_file

    def check(self) -> None:
        """See whether it still serves.

        Raises:
            Unavailable: it has ended by itself; the message says why, as far as it is known.
        """
        if self._process.poll() is not None:
            raise self.failure("the service has ended by itself")

    def failure(self, what: str) -> Unavailable:
        """The error for people: `what`, the reason, and where the log is.

        Its `__cause__` is the error that the part at fault raised.
        """
        failures = FlowState.read(self._state_file).failures
        # All parts that need the model fail alike where it is damaged: once is enough.
        parts: dict[str, list[str]] = {}
        for one in failures:
            parts.setdefault(one.message, []).append(one.part)
        reasons = [f"{', '.join(names)}: {message}" for message, names in parts.items()]
        error = Unavailable(
            f"{what}: {'; '.join(reasons) or self._last_words()} (log: {self.log_file})"
        )
        error.__cause__ = _as_error(failures[0]) if failures else None
        return error

    def wait_until_ready(self) -> None:
        """Wait for it to answer.

        Raises:
            Unavailable: it can't start, or not in time.
        """
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            phase = FlowState.read(self._state_file).phase
            if phase == "ready":
                return
            if phase == "failed" or self._process.poll() is not None:
                raise self.failure("the service did not start")
            time.sleep(0.1)
        raise self.failure(f"the service was not ready after {START_TIMEOUT:g} s")

    def _last_words(self) -> str:
        code = self._process.poll()
        return "it still loads" if code is None else how_it_ended(code)


def _as_error(failure: Failure) -> CliptuneError:
    """The error that a part of the service raised."""
    return wire_errors.from_json({"type": failure.type, "message": failure.message})


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
    is_onnx: bool | None = None,
    engine: str | None = None,
    precision: str | None = None,
    ssl_certfile: str | Path | None = None,
    ssl_keyfile: str | Path | None = None,
    api_keys: str | Path | None = None,
    root_path: str | None = None,
    trusted_proxies: str | None = None,
    public_url: str | None = None,
    record_searches: str | Path | None = None,
) -> Iterator[Service]:
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
        is_onnx: as `engine="onnx"`; None: CLIPTUNE_ONNX, or no.
        engine: what runs the model: `torch`, `onnx` (ONNX Runtime), `openvino`, or `auto`, the one
            that is quickest on this machine; None: CLIPTUNE_ENGINE, or the precision's own.
        precision: `int8` or `bf16`, where `cliptune quantize` added it; None: CLIPTUNE_PRECISION,
            or `fp32`.
        ssl_certfile: a certificate (PEM, with its chain) for TLS on both ports; None:
            CLIPTUNE_SSL_CERTFILE, or no TLS.
        ssl_keyfile: the certificate's key; None: CLIPTUNE_SSL_KEYFILE.
        api_keys: a file of `cliptune keys`; None: CLIPTUNE_API_KEYS_FILE, or everybody may do
            everything.
        root_path: the path that the HTTP side lives below behind a proxy, such as `/shop`; None:
            CLIPTUNE_ROOT_PATH, or none.
        trusted_proxies: addresses and networks of proxies, separated by commas, whose
            `X-Forwarded-…` headers are taken over; None: CLIPTUNE_TRUSTED_PROXIES, or none.
        public_url: the address by which clients reach the HTTP side: pictures' URLs begin with it;
            None: CLIPTUNE_PUBLIC_URL, or they begin with the path alone.
        record_searches: the folder where searches are recorded, and what people chose; None:
            CLIPTUNE_RECORD_SEARCHES, or nothing is recorded.

    When the block ends, requests that were taken are answered first, for up to CLIPTUNE_DRAIN
    seconds (30).

    The block is given the `Service`, which `check`s whether it still serves.

    Raises:
        BadInput: the certificate or the API keys can't be read; a setting in the environment is
            none; the host isn't one of this machine.
        PortInUse: a port is taken.
        Unavailable: the index's server can't be reached; or the Flow did not start. The message
            says why, and `__cause__` is the error of the part at fault: `NotFound` or
            `BadArtifact` where the model can't be opened.
    """
    need("serve", "serve")
    from cliptune.sdk.models import locate_model

    settings = Settings.read(
        artifact=locate_model(artifact),
        engine=engine,
        onnx=is_onnx,
        precision=precision,
        index=absolute_uri(index) if index else None,
        index_storage=index_storage,
        grpc_port=grpc_port,
        http_port=http_port,
        clip_service_port=clip_service_port,
        host=host,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
        api_keys_file=api_keys,
        root_path=root_path,
        trusted_proxies=trusted_proxies,
        public_url=public_url,
        record_searches=record_searches,
    )
    if is_server(settings.index_uri):
        # A service waits for a store that is away; who starts it here may have its address wrong.
        with open_index(settings.index_uri) as there:
            there.status()
    with _flow("search", settings) as service:
        yield service


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
    root_path: str | None = None,
    trusted_proxies: str | None = None,
) -> Iterator[Service]:
    """Serve the Trainer, until the block ends: others start and watch runs on this machine.

    Runs that it started go on after it has ended. TLS, API keys and proxies as in `serve`.
    `hub_models` says which models of the Hugging Face hub clients may name: organisations, or
    beginnings of `ORG/NAME`, separated by commas; None: CLIPTUNE_HUB_MODELS, or none.

    Raises:
        BadInput: the certificate or the API keys can't be read.
        PortInUse: a port is taken.
        Unavailable: the Flow did not start; the message says why, as `serve`'s.
    """
    need("serve", "serve_training")
    need("train", "serve_training")
    settings = Settings.read(
        server="",  # runs of a Trainer are this machine's
        grpc_port=grpc_port,
        http_port=http_port,
        host=host,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
        api_keys_file=api_keys,
        hub_models=hub_models,
        root_path=root_path,
        trusted_proxies=trusted_proxies,
    )
    with _flow("train", settings) as service:
        yield service


def flow_file(name: str) -> Path:
    """The YAML of the Flow `name`: `search` or `train`.

    Raises:
        NotFound: the installation is incomplete.
    """
    room = Path(__file__).resolve().parent
    # A checkout first: what lies there is what its owner edits.
    for folder in (room.parents[1] / "flows", room / "flows"):
        if (file := folder / f"{name}.yml").is_file():
            return file
    raise NotFound(f"no {name}.yml beside or in {room}: install cliptune again")


def check_port(host: str, port: int, what: str = "port") -> None:
    """See whether this process could listen there.

    Args:
        host: a name or an address, of IPv4 or IPv6.
        port: from 1 to 65535.
        what: the argument that the port was given by, for the message.

    Raises:
        PortInUse: another process does.
        BadInput: the port is none or needs more rights; the host is unknown or elsewhere.
    """
    if not 1 <= port <= 65535:
        raise BadInput(f"{what} is {port}: expected a port from 1 to 65535")
    try:
        passive = socket.AI_PASSIVE
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=passive)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(
            f"host {host!r}: {reason}; use a name or an address of this machine"
        ) from None
    elsewhere: OSError | None = None
    bound = False
    for family, *_, address in addresses:
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                bound = True
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(
                    f"{what} {port} of {host} is in use: end what listens there, or choose another"
                ) from None
            if error.errno in (errno.EACCES, errno.EPERM):
                raise BadInput(
                    f"{what} {port} of {host}: {error.strerror}; ports below 1024 need the "
                    "system's leave, others don't"
                ) from None
            elsewhere = error  # a name may stand for an address that this machine lacks
    if elsewhere and not bound:
        raise BadInput(
            f"host {host!r}: {elsewhere.strerror}; use an address of this machine, 127.0.0.1, or "
            "0.0.0.0 for all of them"
        )


def check_ports(settings: Settings) -> None:
    """`check_port` of each port that a Flow of these settings listens on.

    Raises:
        PortInUse: as `check_port`.
        BadInput: as `check_port`, and if two are the same.
    """
    ports = {
        "grpc_port": settings.grpc_port,
        "http_port": settings.http_port,
        "clip_service_port": settings.clip_service_port,
        variable_of("metrics_port"): settings.metrics_port,
    }
    taken: dict[int, str] = {}
    for name, port in ports.items():
        if not port:
            continue
        if port in taken:
            raise BadInput(f"{taken[port]} and {name} are both {port}: they must differ")
        taken[port] = name
        check_port(settings.host or "127.0.0.1", port, name)


@contextmanager
def _flow(name: str, settings: Settings) -> Iterator[Service]:
    # What can be wrong with them is told here: its errors would be lines of a log.
    settings.tls_files()
    if settings.api_keys_file:
        KeyFile(settings.api_keys_file)
    check_ports(settings)
    log_file = settings.home / "logs" / f"{name}-{settings.grpc_port}.log"
    with (
        _open_log(log_file) as output,
        tempfile.TemporaryDirectory() as folder,
    ):
        state_file = Path(folder) / "state.json"
        command = [sys.executable, "-m", "cliptune.serving.flow_process"]
        process = subprocess.Popen(  # noqa: S603  (our own module)
            [*command, str(flow_file(name)), str(state_file)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**settings.environment(), "JINA_LOG_NO_COLOR": "1"},
            start_new_session=True,  # Ctrl-C reaches only us, and we end it in order
        )
        service = Service(process, state_file, log_file)
        try:
            service.wait_until_ready()
            try:
                yield service
            finally:
                if process.poll() is not None:
                    log.error("%s", service.failure("the service has ended by itself"))
        finally:
            _stop(process, patience=settings.drain + 20)


def _open_log(path: Path) -> IO[bytes]:
    """The log to go on with: what former starts have left in it stays.

    Raises:
        Unavailable: it can't be written.
    """
    try:
        make_folder(path.parent)
        if path.exists() and path.stat().st_size > MAX_LOG:
            path.replace(path.with_name(f"{path.name}.1"))
        output = os.fdopen(open_file(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab")
        output.write(f"--- {datetime.now().isoformat(' ', 'seconds')}\n".encode())
        output.flush()
        return output
    except OSError as error:
        raise Unavailable(
            f"the log {path} can't be written: {error.strerror} (CLIPTUNE_HOME chooses another "
            "folder)"
        ) from error


def _stop(process: subprocess.Popen[bytes], patience: float) -> None:
    """End the Flow in order, and after `patience` seconds whatever of it is left by force."""
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
