"""`cliptune index`: filling a search Flow's index, looking into it, and keeping it up to date."""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from cliptune.cli.inputs import tell
from cliptune.cli.options import SERVER, Address, AsJson, Yes, with_table_options
from cliptune.cli.service import index_files
from cliptune.cli.terminal import confirm, console, notices, progress_bar, warn
from cliptune.errors import BadInput, NotFound

if TYPE_CHECKING:
    from cliptune.client.bulk import Indexed, LeftOut
    from cliptune.data.source import Documents
    from cliptune.data.tables.options import CsvOptions
    from cliptune.serving import Client

IDS_A_CALL = 5_000
SHOWN = 5
MOST = 0.5
"""A `prune` of a larger part of the index than this is taken for a wrong table."""
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")]


class DataOrCommand(TyperGroup):
    """`cliptune index DATA …` is `cliptune index add DATA …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert `add` where no command is named."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            self._refuse_mistyped(args[0])
            args = ["add", *args]
        return super().parse_args(ctx, args)

    def _refuse_mistyped(self, data: str) -> None:
        """Raise `NotFound` for what is no data, but nearly a command."""
        near = difflib.get_close_matches(data, self.commands, n=1, cutoff=0.75)
        if near and not data.startswith("-") and not Path(data).exists():
            from cliptune.data.source import known_names

            if data not in known_names():
                raise NotFound(
                    f"{data!r} is neither a command nor data: did you mean `cliptune index "
                    f"{near[0]}`?"
                )


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(
        cls=DataOrCommand,
        callback=index,
        no_args_is_help=True,
        epilog="Example: cliptune index products.csv --text-column title --image-column picture",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    group.command(epilog="Example: cliptune index add pictures/")(with_table_options(add))
    group.command(epilog="Example: cliptune index status --json")(status)
    group.command(epilog="Example: cliptune index tags")(tags)
    group.command(epilog="Example: cliptune index get 1234 1235")(get)
    group.command(epilog="Example: cliptune index delete --filter \"season == 'ss24'\"")(delete)
    group.command(epilog="Example: cliptune index clear --yes")(clear)
    group.command(epilog="Example: cliptune index prune products.csv --id-column sku --dry-run")(
        with_table_options(prune)
    )
    index_files.register(group)
    app.add_typer(group, name="index")


def index() -> None:
    """Fill a search Flow's index and keep it up to date; copy, keep and move whole indexes.

    `cliptune index DATA` is short for `cliptune index add DATA`. Data that are called as a command
    is are given as a path: `cliptune index ./status`.
    """


def add(
    data: Annotated[str, typer.Argument(help="A CSV, a folder of pictures, or a data set's name.")],
    keep_untitled: Annotated[
        bool,
        typer.Option(
            "--keep-untitled",
            help="Index pictures without a title too, where others have titles.",
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Documents in a request.")] = 64,
    workers: Annotated[int, typer.Option(min=1, help="Requests under way at once.")] = 4,
    left_out: Annotated[
        Path | None,
        typer.Option(help="CSV of what was left out, and why; default: in CLIPTUNE_HOME/logs."),
    ] = None,
    server: Address = SERVER,
    *,
    table: CsvOptions,
) -> None:
    """Add pictures with their titles and tags to a search Flow's index.

    What the index has already, as it is, is not sent again: after an interruption, or when the
    data have changed, give the same command again. Left out are pictures that can't be used and,
    where others have titles, those without.
    """
    from cliptune.client.bulk import LeftOut, index_all
    from cliptune.data.source import stream_documents
    from cliptune.serving import Client

    docs = stream_documents(data, csv_options=table, role="index", keep_untitled=keep_untitled)
    tell(docs.summary)
    if not keep_untitled and any("title" in one.reason for one in docs.summary.left_out):
        notices.print("--keep-untitled indexes pictures without a title too", style="yellow")
    with Client.from_environment(server) as client, progress_bar(stays=True) as report:

        def show(so_far: Indexed) -> None:
            report("indexing", so_far.seen, len(docs))

        done = index_all(client, docs, batch_size=batch_size, workers=workers, progress=show)
    done.left_out[:0] = [
        LeftOut(one.id, None, f"{one.place or f'document {one.position}'}: {one.reason}")
        for one in docs.summary.left_out
    ]
    console.print(f"{done.indexed} documents indexed, {done.unchanged} were there already")
    if done.left_out:
        path = left_out or _default_report()
        _write_left_out(path, done.left_out)
        first = done.left_out[0]
        console.print(
            f"[yellow]{len(done.left_out)} left out[/], such as {first.id}: {first.reason}\n"
            f"all of them, with the reasons: {path}",
            highlight=False,
        )


def status(as_json: AsJson = False, server: Address = SERVER) -> None:
    """Say how much a search Flow's index holds, of which model, and how it is searched."""
    from cliptune.protocol.redaction import with_note
    from cliptune.serving import Client
    from cliptune.settings import Settings

    home = Settings.read().home
    with Client.from_environment(server) as client:
        flow = client.status()
    flow |= {part: with_note(home, flow[part]) for part in ("index", "model", "vision")}
    if as_json:
        typer.echo(json.dumps(flow, indent=2, ensure_ascii=False, default=str))
        return
    index, model = flow["index"], flow["model"]
    table = Table(show_header=False, box=None)
    rows = {
        "documents": f"{flow['documents']:,}".replace(",", " "),
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
    if not flow["documents"]:
        console.print("The index is empty: `cliptune index TABLE` fills it.", highlight=False)
    if not flow["searchable"]:
        console.print(
            "[yellow]The server serves another model than the index is of: nothing can be found. "
            "Serve the index's model, or `cliptune swap` it.[/]"
        )


def tags(as_json: AsJson = False, server: Address = SERVER) -> None:
    """Say which tags the documents of a search Flow's index have, with values for example."""
    from cliptune.serving import Client

    with Client.from_environment(server) as client:
        known = client.tags()
    if as_json:
        typer.echo(json.dumps(known, indent=2, ensure_ascii=False))
        return
    table = Table("tag", "types", "documents", "distinct", "for example")
    for tag in known.get("tags") or ():
        examples = ", ".join(str(one["value"]) for one in tag.get("examples") or ())
        spread = f"{tag['min']} to {tag['max']}: " if "min" in tag else ""
        coverage = f"{tag['documents']} ({tag['coverage']:.0%})"
        row = tag["name"], ", ".join(tag["types"]), coverage, str(tag["distinct"])
        table.add_row(*row, spread + examples)
    console.print(table)
    if known["looked_at"] < known["documents"] or known["left_out"]:
        console.print(
            f"Of {known['looked_at']} of {known['documents']} documents; {known['left_out']} tags "
            "are left out.",
            highlight=False,
        )


def _how_searched(index: Mapping[str, object]) -> str:
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

    with Client.from_environment(server) as client:
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
    with Client.from_environment(server) as client:
        matching = client.matching(ids or None, filter_)
        warn(matching.warnings)
        if not matching.documents:
            console.print("Nothing found, so nothing was deleted.")
            return
        if dry_run:
            console.print(f"{matching.documents} documents would be deleted")
            return
        confirm(f"delete {matching.documents} documents", yes)
        console.print(f"{client.delete(ids or None, filter_)} documents deleted")


def clear(yes: Yes = False, server: Address = SERVER) -> None:
    """Delete everything in a search Flow's index."""
    from cliptune.serving import Client

    with Client.from_environment(server) as client:
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
    with Client.from_environment(server) as client:
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


def _default_report() -> Path:
    from cliptune.settings import Settings

    return Settings.read().home / "logs" / f"left-out-{datetime.now():%Y-%m-%d-%H%M%S}.csv"


def _write_left_out(path: Path, left_out: list[LeftOut]) -> None:
    from cliptune.files import write_text

    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["id", "picture", "reason"])
    writer.writerows([one.id, one.uri or "", one.reason] for one in left_out)
    write_text(path, table.getvalue())
