"""`cliptune search`: asking a search Flow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cliptune.cli.options import SERVER, Address, AsJson
from cliptune.cli.terminal import console, warn


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        epilog="Example: cliptune search 'red summer dress' --filter 'price < 30' --limit 5"
    )(search)


def search(
    query: Annotated[str, typer.Argument(help="A text, or with --picture a picture's path.")],
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 10,
    filter_: Annotated[
        str | None,
        typer.Option("--filter", help="Over tags: price < 30 and brand == 'Nordvik'"),
    ] = None,
    picture: Annotated[bool, typer.Option("--picture", help="Search by picture.")] = False,
    as_json: AsJson = False,
    server: Address = SERVER,
) -> None:
    """Search a search Flow's index."""
    from cliptune.errors import NotFound
    from cliptune.serving import Client

    if picture and not Path(query).is_file():
        raise NotFound(f"no picture at {query}")
    asked = Path(query).read_bytes() if picture else query
    with Client.from_environment(server) as client:
        result = client.search(asked, limit=limit, filter=filter_)
    matches = result.matches
    warn(result.warnings)
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
