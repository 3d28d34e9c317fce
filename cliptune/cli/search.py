"""`cliptune search`: asking a search Flow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cliptune.cli.options import SERVER, Address, AsJson
from cliptune.cli.terminal import console, warn

if TYPE_CHECKING:
    from cliptune.documents import Match


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        epilog="Example: cliptune search 'red summer dress' --filter 'price < 30' --limit 5"
    )(search)


def search(
    query: Annotated[
        str | None, typer.Argument(help="A text, or with --picture a picture's path.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 10,
    filter_: Annotated[
        str | None,
        typer.Option("--filter", help="Over tags: price < 30 and brand == 'Nordvik'"),
    ] = None,
    picture: Annotated[bool, typer.Option("--picture", help="Search by picture.")] = False,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also",
            metavar="WHAT[=WEIGHT]",
            help="A further text or picture's path, and what it counts: 'buttons=-0.4'.",
        ),
    ] = None,
    like: Annotated[
        list[str] | None, typer.Option("--like", metavar="ID", help="Like a stored document, too.")
    ] = None,
    unlike: Annotated[
        list[str] | None, typer.Option("--unlike", metavar="ID", help="Rather not like this one.")
    ] = None,
    min_relevance: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Only what is relevant with at least this probability: of texts, where the model "
            "served is calibrated (cliptune calibrate).",
        ),
    ] = None,
    hybrid: Annotated[
        bool, typer.Option("--hybrid", help="Let words count too: in titles, ids and tags.")
    ] = False,
    as_json: AsJson = False,
    server: Address = SERVER,
) -> None:
    """Search a search Flow's index."""
    from cliptune.errors import BadInput, NotFound
    from cliptune.serving import Client

    if query is None and not (also or like or unlike):
        raise BadInput("search for what? Give a text, or --like with a stored document's id")
    if picture and not Path(query or "").is_file():
        raise NotFound(f"no picture at {query}")
    asked: str | bytes | dict[str | bytes, float] | None = query
    if picture and query is not None:
        asked = Path(query).read_bytes()
    if also:
        first: dict[str | bytes, float] = {} if asked is None else {asked: 1.0}
        asked = first | dict(map(_weighted, also))
    with Client.from_environment(server) as client:
        result = client.search(
            asked,
            limit=limit,
            filter=filter_,
            like=like,
            unlike=unlike,
            min_relevance=min_relevance,
            hybrid=hybrid,
        )
    matches = result.matches
    warn(result.warnings)
    if as_json:
        rows = [_row(match) for match in matches]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not matches:
        where = f" where {filter_}" if filter_ else ""
        least = "" if min_relevance is None else f" that is relevant with {min_relevance:g} or more"
        console.print(f"Nothing found{where}{least}.", markup=False)
        return
    calibrated = any(match.relevance is not None for match in matches)
    table = Table("score", *["relevance"] * calibrated, "title", "id", "tags")
    for match in matches:
        tags = ", ".join(f"{name}: {value}" for name, value in match.tags.items())
        relevance = "" if match.relevance is None else f"{match.relevance:.2f}"
        told = [f"{match.score:.3f}", *[relevance] * calibrated, match.text or ""]
        table.add_row(*told, str(match.id), tags)
    console.print(table)


def _weighted(given: str) -> tuple[str, float]:
    """What `--also` says, and its weight: 1, if it says none."""
    what, _, weight = given.rpartition("=")
    try:
        return (what, float(weight)) if what else (given, 1.0)
    except ValueError:
        return given, 1.0


def _row(match: Match) -> dict[str, object]:
    row = {"id": match.id, "score": match.score, "text": match.text, "tags": match.tags}
    return row if match.relevance is None else row | {"relevance": match.relevance}
