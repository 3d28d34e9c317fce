"""`cliptune serve`, `train-server` and `search`: the services and their client."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from cliptune.serving.launch import Service

console = Console()
errors = Console(stderr=True)
SERVER = "grpc://localhost:51000"
Address = Annotated[
    str, typer.Option(envvar="CLIPTUNE_SEARCH_SERVER", help="Address of a search Flow.")
]
CertFile = Annotated[
    Path | None,
    typer.Option(envvar="CLIPTUNE_SSL_CERTFILE", help="For TLS: a certificate with its chain."),
]
KeyFile = Annotated[
    Path | None, typer.Option(envvar="CLIPTUNE_SSL_KEYFILE", help="The certificate's key.")
]
ApiKeys = Annotated[
    Path | None,
    typer.Option(
        envvar="CLIPTUNE_API_KEYS_FILE",
        help="A file of `cliptune keys`; without it everybody may do everything.",
    ),
]

RootPath = Annotated[
    str | None,
    typer.Option(
        envvar="CLIPTUNE_ROOT_PATH", help="The path that it lives below behind a proxy: /shop"
    ),
]
TrustedProxies = Annotated[
    str | None,
    typer.Option(
        envvar="CLIPTUNE_TRUSTED_PROXIES",
        help="Addresses or networks of proxies whose X-Forwarded-… headers are believed: "
        "10.0.0.0/8,::1",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(epilog="Example: cliptune serve --artifact artifacts/brave-otter-3f2a.zip")(serve)
    app.command("train-server", epilog="Example: cliptune train-server --grpc-port 52000")(
        train_server
    )
    app.command(
        epilog="Example: cliptune search 'red summer dress' --filter 'price < 30' --limit 5"
    )(search)


def serve(
    artifact: Annotated[
        str, typer.Option(help="The fine-tuned model: an artifact, or a model's name.")
    ] = "builtin",
    index_folder: Annotated[
        str | None,
        typer.Option(
            "--index",
            help="The index: a folder, or a collection of a Milvus server "
            "(http://host:19530/shop); default: CLIPTUNE_HOME/index.",
        ),
    ] = None,
    index_storage: Annotated[
        str | None,
        typer.Option(
            help="How a new index keeps embeddings: float32, or float16 at half the room."
        ),
    ] = None,
    grpc_port: Annotated[int, typer.Option(min=1, max=65535)] = 51000,
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = 51001,
    clip_service_port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="gRPC for clip-as-service's clients; 0: none."),
    ] = 51002,
    host: Annotated[
        str, typer.Option(help="0.0.0.0, or :: with IPv6, to be reached from outside.")
    ] = "127.0.0.1",
    onnx: Annotated[bool, typer.Option("--onnx/--torch", help="The engine.")] = False,
    precision: Annotated[
        str | None, typer.Option(help="int8 or bf16, where `cliptune quantize` added it.")
    ] = None,
    ssl_certfile: CertFile = None,
    ssl_keyfile: KeyFile = None,
    api_keys: ApiKeys = None,
    root_path: RootPath = None,
    trusted_proxies: TrustedProxies = None,
    public_url: Annotated[
        str | None,
        typer.Option(
            envvar="CLIPTUNE_PUBLIC_URL",
            help="The address by which clients reach the HTTP side: pictures' URLs begin with it.",
        ),
    ] = None,
) -> None:
    """Serve a model as text-to-image search: gRPC, HTTP, and a search page."""
    from cliptune.serving import serve as start
    from cliptune.settings import bracketed

    with start(
        artifact,
        index=index_folder,
        index_storage=index_storage,
        grpc_port=grpc_port,
        http_port=http_port,
        clip_service_port=clip_service_port,
        host=host,
        is_onnx=onnx,
        precision=precision,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
        api_keys=api_keys,
        root_path=root_path,
        trusted_proxies=trusted_proxies,
        public_url=public_url,
    ) as service:
        tls, shown = "s" if ssl_certfile else "", bracketed(host)
        if clip_service_port:
            console.print(f"for clip-as-service's clients: grpc{tls}://{shown}:{clip_service_port}")
        console.print(
            f"gRPC  grpc{tls}://{shown}:{grpc_port}\nHTTP  http{tls}://{shown}:{http_port}\n"
            f"[bold]search page: http{tls}://{shown}:{http_port}/[/]   (Ctrl-C ends)"
        )
        _warn(host, api_keys)
        _tell_of_swap(index_folder)
        wait_for_signal(service)


def train_server(
    grpc_port: Annotated[int, typer.Option(min=1, max=65535)] = 52000,
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = 52001,
    host: Annotated[
        str, typer.Option(help="0.0.0.0, or :: with IPv6, to be reached from outside.")
    ] = "127.0.0.1",
    ssl_certfile: CertFile = None,
    ssl_keyfile: KeyFile = None,
    api_keys: ApiKeys = None,
    hub_models: Annotated[
        str | None,
        typer.Option(
            help="Models of the Hugging Face hub that clients may name: organisations, or "
            "beginnings of ORG/NAME, separated by commas; default: CLIPTUNE_HUB_MODELS, or none."
        ),
    ] = None,
    root_path: RootPath = None,
    trusted_proxies: TrustedProxies = None,
) -> None:
    """Serve the Trainer: others start and watch runs on this machine."""
    from cliptune.serving import serve_training
    from cliptune.settings import bracketed

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
        _warn(host, api_keys)
        wait_for_signal(service)


def search(
    query: Annotated[str, typer.Argument(help="A text, or with --picture a picture's path.")],
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 10,
    filter_: Annotated[
        str | None,
        typer.Option("--filter", help="Over tags: price < 30 and brand == 'Nordvik'"),
    ] = None,
    picture: Annotated[bool, typer.Option("--picture", help="Search by picture.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    server: Address = SERVER,
) -> None:
    """Search a search Flow's index."""
    from cliptune.errors import NotFound
    from cliptune.serving import Client

    if picture and not Path(query).is_file():
        raise NotFound(f"no picture at {query}")
    asked = Path(query).read_bytes() if picture else query
    with Client(server) as client:
        result = client.search(asked, limit=limit, filter=filter_)
    matches = result.matches
    show_warnings(result.warnings)
    if as_json:
        rows = [{"id": m.id, "score": m.score, "text": m.text, "tags": m.tags} for m in matches]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not matches:
        console.print("Nothing found" + (f" where {filter_}." if filter_ else "."), markup=False)
        return
    table = Table("score", "title", "id", "tags")
    for match in matches:
        tags = ", ".join(f"{name}: {value}" for name, value in match.tags.items())
        table.add_row(f"{match.score:.3f}", match.text or "", str(match.id), tags)
    console.print(table)


def show_warnings(sentences: Iterable[str]) -> None:
    """Print what there is to say of a filter on stderr: stdout may be read by a program."""
    for sentence in sentences:
        errors.print(f"[yellow]warning:[/] {escape(sentence)}", highlight=False, soft_wrap=True)


def _warn(host: str, api_keys: Path | None) -> None:
    if not api_keys and host not in ("127.0.0.1", "::1", "localhost"):
        console.print("[yellow]No API keys: whoever reaches these ports may do everything.[/]")


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


def wait_for_signal(service: Service) -> None:
    """Return on Ctrl-C or SIGTERM.

    Raises:
        Unavailable: the service has ended by itself.
    """
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    while not done.wait(0.5):
        service.check()
