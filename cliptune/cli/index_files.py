"""`cliptune index status|get|delete|clear|prune|repair`: what an index holds, and keeping it so."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cliptune.cli.confirm import confirm
from cliptune.cli.options import with_table_options
from cliptune.cli.serve import SERVER, Address, show_warnings
from cliptune.errors import BadInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cliptune.data.source import Documents
    from cliptune.data.tables.columns import CsvOptions
    from cliptune.serving import Client

console = Console()
errors = Console(stderr=True)
IDS_A_CALL = 5_000
SHOWN = 5
MOST = 0.5
"""A `prune` of a larger part of the index than this is taken for a wrong table."""
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")]


def register(group: typer.Typer) -> None:
    """Add the commands to `cliptune index`."""
    group.command(epilog="Example: cliptune index status --json")(status)
    group.command(epilog="Example: cliptune index get 1234 1235")(get)
    group.command(epilog="Example: cliptune index delete --filter \"season == 'ss24'\"")(delete)
    group.command(epilog="Example: cliptune index clear --yes")(clear)
    group.command(epilog="Example: cliptune index prune products.csv --id-column sku --dry-run")(
        with_table_options(prune)
    )
    group.command(epilog="Example: cliptune index repair shop-index")(repair)


def status(as_json: AsJson = False, server: Address = SERVER) -> None:
    """Say how much a search Flow's index holds, of which model, and how it is searched."""
    from cliptune.protocol.redaction import with_note
    from cliptune.serving import Client

    with Client(server) as client:
        found = client.status()
    found |= {part: with_note(found[part]) for part in ("index", "model", "vision")}
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False, default=str))
        return
    index, model = found["index"], found["model"]
    table = Table(show_header=False, box=None)
    rows = {
        "documents": f"{found['documents']:,}".replace(",", " "),
        "searched": _how_searched(index),
        "model": f"{index['model_digest'] or 'none yet':.12}",
        "served": f"{model.get('model_digest', '')!s:.12}  ({model.get('artifact', '')})",
        "embeddings": f"{index['dim'] or '-'} × {index['storage']}",
        "store": ", ".join(filter(None, (index["store"], index.get("index_uri")))),
    }
    for slot, one in (index.get("generations") or {}).items():
        note = "" if one["complete"] else ", not complete"
        rows[slot] = f"{one['model_digest']:.12}, {one['documents']} documents{note}"
    if swap := index.get("swap"):
        rows["swap"] = f"{swap['phase']}, {swap['done']} of {swap['total'] or '?'}"
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    if not found["documents"]:
        console.print("The index is empty: `cliptune index TABLE` fills it.", highlight=False)
    if not found["searchable"]:
        console.print(
            "[yellow]The server serves another model than the index is of: nothing can be found. "
            "Serve the index's model, or `cliptune swap` it.[/]"
        )


def _how_searched(index: dict[str, Any]) -> str:
    if index["state"] == "building":
        return "an ANN index is being built"
    if index["state"] == "flat":
        return "exactly: each query is compared with every document"
    rest = f", {index['unindexed_rows']} since exactly" if index["unindexed_rows"] else ""
    return f"through an ANN index{rest}"


def get(
    ids: Annotated[list[str], typer.Argument(help="Documents' ids.")],
    as_json: AsJson = False,
    server: Address = SERVER,
) -> None:
    """Show stored documents."""
    from cliptune.serving import Client

    with Client(server) as client:
        docs = client.get(ids)
    missing = [one for one in dict.fromkeys(ids) if one not in {str(doc.id) for doc in docs}]
    if as_json:
        fields = ("id", "text", "uri", "label", "tags", "image_digest")
        rows = [{name: getattr(doc, name) for name in fields} for doc in docs]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    elif docs:
        table = Table("id", "title", "label", "tags", "picture")
        for doc in docs:
            tags = ", ".join(f"{name}: {value}" for name, value in doc.tags.items())
            digest = (doc.image_digest or "")[:12]
            table.add_row(str(doc.id), doc.text or "", doc.label or "", tags, doc.uri or digest)
        console.print(table)
    if missing:
        raise NotFound(f"not in the index: {_listed(missing)}")


def delete(
    ids: Annotated[list[str] | None, typer.Argument(help="Documents' ids.")] = None,
    filter_: Annotated[
        str | None, typer.Option("--filter", help="Instead, or besides: price < 30")
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    server: Address = SERVER,
) -> None:
    """Delete the documents with these ids, or those that a filter holds for."""
    from cliptune.serving import Client

    if not ids and filter_ is None:
        raise BadInput("give ids, or --filter; `cliptune index clear` deletes everything")
    with Client(server) as client:
        found = client.matching(ids or None, filter_)
        show_warnings(found.warnings)
        if not found.documents:
            console.print("Nothing found, so nothing was deleted.")
            return
        if dry_run:
            console.print(f"{found.documents} documents would be deleted")
            return
        confirm(f"delete {found.documents} documents", yes)
        console.print(f"{client.delete(ids or None, filter_)} documents deleted")


def clear(yes: Yes = False, server: Address = SERVER) -> None:
    """Delete everything in a search Flow's index."""
    from cliptune.serving import Client

    with Client(server) as client:
        if not (count := client.status()["documents"]):
            console.print("The index is empty already.")
            return
        confirm(f"delete all {count} documents of the index at {server}", yes)
        console.print(f"{client.clear()} documents deleted")


def prune(
    data: Annotated[
        str, typer.Argument(help="The whole of what the index should hold, as for `add`.")
    ],
    yes: Yes = False,
    dry_run: DryRun = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also if most of the index would be deleted.")
    ] = False,
    server: Address = SERVER,
    *,
    table: CsvOptions,
) -> None:
    """Delete from an index what is no longer in the table that it was filled from.

    By ids: give the same options as for `cliptune index add`. Documents that were added from
    elsewhere are not in this table either, so they would go too.
    """
    from cliptune.data.source import stream_documents
    from cliptune.serving import Client

    kept: set[str] = set()
    for keep_untitled in (True, False):  # whichever way it was indexed
        docs = stream_documents(data, csv_options=table, role="index", keep_untitled=keep_untitled)
        kept |= {str(doc.id) for doc in docs}
    if not force:
        _check_ids_known(docs, data)
    with Client(server) as client:
        count, gone = 0, []
        for one in client.ids():
            count += 1
            if one not in kept:
                gone.append(one)
        console.print(
            f"{len(kept)} documents in {data}, {count} in the index: {count - len(gone)} in both",
            highlight=False,
        )
        if not gone:
            console.print("Nothing to delete: all of the index is in the table.")
            return
        console.print(f"no longer in the table: {_listed(gone)}", highlight=False, markup=False)
        if len(gone) > MOST * count and not force:
            raise BadInput(
                f"{len(gone)} of the index's {count} documents are not in {data}: nothing was "
                "deleted. Is it the whole table, with the ids that it was indexed with? --force "
                "deletes them nevertheless"
            )
        if dry_run:
            console.print(f"{len(gone)} documents would be deleted")
            return
        confirm(f"delete these {len(gone)} documents", yes)
        console.print(f"{_delete(client, gone)} documents deleted")


def _check_ids_known(docs: Documents, data: str) -> None:
    """Refuse a table of which pictures that make the ids can't be read: they may be indexed."""
    unknown = getattr(docs, "unread", 0)
    if unknown:
        raise BadInput(
            f"{unknown} pictures of {data} can't be read, and their documents' ids are made of "
            "them: nothing was deleted, as they may be in the index. "
            "--force deletes them if they are"
        )


def _delete(client: Client, ids: Iterable[str]) -> int:
    rest, deleted = iter(ids), 0
    while part := list(islice(rest, IDS_A_CALL)):
        deleted += client.delete(part)
    return deleted


def _listed(ids: list[str]) -> str:
    more = f" and {len(ids) - SHOWN} others" if len(ids) > SHOWN else ""
    return ", ".join(ids[:SHOWN]) + more


def repair(
    index: Annotated[
        str, typer.Argument(help="The index: its folder, or http://host:19530/collection.")
    ],
    artifact: Annotated[
        str | None,
        typer.Option(help="The model that made the embeddings, where the tables don't say."),
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="Which table is the index, where several have documents.")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            envvar="CLIPTUNE_GENERATIONS", help="Where its generations' pointer is, if elsewhere."
        ),
    ] = None,
) -> None:
    """Find the tables of an index again that has lost what says which they are.

    Give it where the index is, with the server stopped. Nothing is deleted: a file that can't be
    used is kept beside as *.damaged.
    """
    from cliptune.index.versions.repair import repair as repair_index
    from cliptune.sdk.models import find_artifact

    model = None if artifact is None else find_artifact(artifact)
    done = repair_index(index, state, artifact=model, table=table)
    for one in done:
        console.print(f"made anew: {one.what}", highlight=False, soft_wrap=True)
    if not done:
        console.print("The index is as it should be: nothing was changed.")
