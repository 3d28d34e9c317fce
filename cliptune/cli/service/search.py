"""`cliptune search`: asking a search Flow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    group_by: Annotated[
        str | None,
        typer.Option(help="A tag: of all with one value only the best, as in `product`."),
    ] = None,
    sort_by: Annotated[
        str | None, typer.Option(help="Tags, as in: rating desc, price. Of the nearest 200.")
    ] = None,
    formula: Annotated[
        str | None, typer.Option(help="Of a new score: score + 0.1 * log(1 + sales)")
    ] = None,
    diversity: Annotated[
        float | None, typer.Option(min=0, max=1, help="Keep similar ones apart: 0 to 1.")
    ] = None,
    facet: Annotated[
        list[str] | None,
        typer.Option(help="A tag whose values are counted in what the filter leaves; repeatable."),
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
    first = Path(query).read_bytes() if picture and query is not None else query
    asked: str | bytes | dict[str | bytes, float] | None = first
    if also:
        parts: dict[str | bytes, float] = {} if first is None else {first: 1.0}
        asked = parts | dict(map(_weighted, also))
    with Client.from_environment(server) as client:
        result = client.search(
            asked,
            limit=limit,
            filter=filter_,
            group_by=group_by,
            sort_by=sort_by,
            formula=formula,
            diversity=diversity,
            facets=facet,
            like=like,
            unlike=unlike,
            min_relevance=min_relevance,
            hybrid=hybrid,
        )
    matches = result.matches
    warn(result.warnings)
    if as_json:
        rows = [_row(match) for match in matches]
        answer = {"matches": rows, "facets": result.facets} if facet else rows
        typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))
        return
    _show_facets(result.facets or {})
    if not matches:
        where = f" where {filter_}" if filter_ else ""
        least = "" if min_relevance is None else f" that is relevant with {min_relevance:g} or more"
        console.print(f"Nothing found{where}{least}.", markup=False)
        return
    calibrated = any(match.relevance is not None for match in matches)
    beside = [*["relevance"] * calibrated, "title", "id", "tags", *["more"] * bool(group_by)]
    table = Table("score", *beside)
    for match in matches:
        tags = ", ".join(f"{name}: {value}" for name, value in match.tags.items())
        score = match.score if match.formula_score is None else match.formula_score
        relevance = "" if match.relevance is None else f"{match.relevance:.2f}"
        cells = [f"{score:.3f}", *[relevance] * calibrated, match.text or "", str(match.id), tags]
        table.add_row(*cells, *[str(match.more)] * bool(group_by))
    console.print(table)


def _weighted(given: str) -> tuple[str, float]:
    """What `--also` says, and its weight: 1, if it says none."""
    what, _, weight = given.rpartition("=")
    try:
        return (what, float(weight)) if what else (given, 1.0)
    except ValueError:
        return given, 1.0


def _row(match: Match) -> dict[str, object]:
    row: dict[str, object] = {
        "id": match.id,
        "score": match.score,
        "text": match.text,
        "tags": match.tags,
    }
    beside = {
        "relevance": match.relevance,
        "fused_score": match.fused_score,
        "formula_score": match.formula_score,
        "more": match.more,
    }
    return row | {name: value for name, value in beside.items() if value is not None}


def _show_facets(facets: Mapping[str, Any]) -> None:
    for name, facet in facets.items():
        counted = [f"{one['value']} ({one['count']})" for one in facet.get("values") or ()] + [
            f"{_range(one)} ({one['count']})" for one in facet.get("ranges") or ()
        ]
        console.print(f"{name}: {', '.join(counted) or 'none'}", highlight=False, markup=False)


def _range(one: Mapping[str, Any]) -> str:
    if one.get("from") is None:
        return f"below {one['to']}" if one.get("to") is not None else "all"
    return f"{one['from']} to {one['to']}" if one.get("to") is not None else f"from {one['from']}"
