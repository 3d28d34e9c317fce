"""`cliptune mcp`: a search Flow as tools for an assistant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cliptune.cli.options import SERVER, Address


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(epilog="Example: cliptune mcp --server grpc://search.shop.example:51000")(mcp)


def mcp(
    server: Address = SERVER,
    pictures: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="A folder whose pictures the assistant may search by. Default: no local files.",
        ),
    ] = None,
) -> None:
    """Offer a search Flow to an assistant as tools (MCP over stdin and stdout)."""
    from cliptune.extras import need

    need("mcp", "cliptune mcp")
    from cliptune.client.async_client import AsyncClient
    from cliptune.mcp import make_server

    make_server(AsyncClient.from_environment(server), pictures).run()
