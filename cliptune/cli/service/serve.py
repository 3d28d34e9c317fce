"""`cliptune serve` and `train-server`: the services."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cliptune.cli.options import default_of, of_setting
from cliptune.cli.terminal import console

if TYPE_CHECKING:
    from cliptune.serving.launch import Service

CertFile = Annotated[Path | None, of_setting("ssl_certfile")]
KeyFile = Annotated[Path | None, of_setting("ssl_keyfile")]
ApiKeys = Annotated[Path | None, of_setting("api_keys_file", "--api-keys")]
Host = Annotated[str, of_setting("host", own_default=True)]
GrpcPort = Annotated[int, of_setting("grpc_port", own_default=True)]
HttpPort = Annotated[int, of_setting("http_port", own_default=True)]
RootPath = Annotated[str | None, of_setting("root_path")]
TrustedProxies = Annotated[str | None, of_setting("trusted_proxies")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(epilog="Example: cliptune serve --artifact artifacts/brave-otter-3f2a.zip")(serve)
    app.command("train-server", epilog="Example: cliptune train-server --grpc-port 52000")(
        train_server
    )


def serve(
    artifact: Annotated[str, of_setting("artifact")] = default_of("artifact"),
    index_folder: Annotated[str | None, of_setting("index", "--index")] = None,
    index_storage: Annotated[str | None, of_setting("index_storage")] = None,
    grpc_port: GrpcPort = 51000,
    http_port: HttpPort = 51001,
    clip_service_port: Annotated[int, of_setting("clip_service_port", own_default=True)] = 51002,
    host: Host = "127.0.0.1",
    engine: Annotated[str | None, of_setting("engine")] = None,
    onnx: Annotated[
        bool | None, typer.Option("--onnx/--torch", help="As --engine onnx, --engine torch.")
    ] = None,
    precision: Annotated[str, of_setting("precision")] = default_of("precision"),
    ssl_certfile: CertFile = None,
    ssl_keyfile: KeyFile = None,
    api_keys: ApiKeys = None,
    root_path: RootPath = None,
    trusted_proxies: TrustedProxies = None,
    public_url: Annotated[str | None, of_setting("public_url")] = None,
    record_searches: Annotated[Path | None, of_setting("record_searches")] = None,
) -> None:
    """Serve a model as text-to-image search: gRPC, HTTP, and a search page."""
    from cliptune.serving import serve as start
    from cliptune.settings import bracketed

    end_on_signals()
    with start(
        artifact,
        index=index_folder,
        index_storage=index_storage,
        grpc_port=grpc_port,
        http_port=http_port,
        clip_service_port=clip_service_port,
        host=host,
        engine=_engine(engine, onnx),
        precision=precision,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
        api_keys=api_keys,
        root_path=root_path,
        trusted_proxies=trusted_proxies,
        public_url=public_url,
        record_searches=record_searches,
    ) as service:
        tls, shown = "s" if ssl_certfile else "", bracketed(host)
        if clip_service_port:
            console.print(f"for clip-as-service's clients: grpc{tls}://{shown}:{clip_service_port}")
        console.print(
            f"gRPC  grpc{tls}://{shown}:{grpc_port}\nHTTP  http{tls}://{shown}:{http_port}\n"
            f"[bold]search page: http{tls}://{shown}:{http_port}/[/]   (Ctrl-C ends)"
        )
        _tell_of_swap(index_folder)
        stay_up(service, host, api_keys)


def train_server(
    grpc_port: GrpcPort = 52000,
    http_port: HttpPort = 52001,
    host: Host = "127.0.0.1",
    ssl_certfile: CertFile = None,
    ssl_keyfile: KeyFile = None,
    api_keys: ApiKeys = None,
    hub_models: Annotated[str | None, of_setting("hub_models")] = None,
    root_path: RootPath = None,
    trusted_proxies: TrustedProxies = None,
) -> None:
    """Serve the Trainer: others start and watch runs on this machine."""
    from cliptune.serving import serve_training
    from cliptune.settings import bracketed

    end_on_signals()
    with serve_training(
        grpc_port=grpc_port,
        http_port=http_port,
        host=host,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
        api_keys=api_keys,
        hub_models=hub_models,
        root_path=root_path,
        trusted_proxies=trusted_proxies,
    ) as service:
        tls, shown = "s" if ssl_certfile else "", bracketed(host)
        console.print(
            f"train Flow at grpc{tls}://{shown}:{grpc_port} and http{tls}://{shown}:{http_port}"
        )
        stay_up(service, host, api_keys)


def _engine(engine: str | None, onnx: bool | None) -> str | None:
    """What --engine, --onnx and --torch say together; None: nothing."""
    from cliptune.errors import BadInput

    if onnx is None:
        return engine
    named = "onnx" if onnx else "torch"
    if engine not in (None, named):
        raise BadInput(f"--{named} means --engine {named}, and --engine is {engine}: give only one")
    return named


def _tell_of_swap(index: str | None) -> None:
    """Say which model is served, where `cliptune swap` has chosen it."""
    from cliptune.index.open import absolute_uri
    from cliptune.index.versions.manifest import Generations
    from cliptune.settings import Settings

    settings = Settings.read(index=absolute_uri(index) if index else None)
    manifest = Generations(settings.index_uri, settings.generations).read()
    if manifest:
        console.print(
            f"the index is of model {manifest.current.label}, by `cliptune swap`: that "
            "is served, whatever --artifact says"
        )


def end_on_signals() -> None:
    """Have Ctrl-C and SIGTERM end the command in order and with status 0, from here on.

    While the service starts, too: it may be told to end when its ports answer already. A second
    Ctrl-C ends it by force.
    """

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise SystemExit(0)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def stay_up(service: Service, host: str = "127.0.0.1", api_keys: Path | None = None) -> None:
    """Wait for a signal to end, see `end_on_signals`; strangers who may come in are told of before.

    Raises:
        Unavailable: the service has ended by itself.
    """
    if not api_keys and host not in ("127.0.0.1", "::1", "localhost"):
        console.print("[yellow]No API keys: whoever reaches these ports may do everything.[/]")
    while True:
        time.sleep(0.5)
        service.check()
