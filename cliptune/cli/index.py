"""`cliptune index`: filling an index, and moving it as a whole."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typer.core import TyperGroup

from cliptune.cli import index_files
from cliptune.cli.options import notices, say, with_table_options
from cliptune.cli.serve import SERVER, Address

if TYPE_CHECKING:
    from cliptune.client.bulk import Indexed, LeftOut
    from cliptune.data.tables.columns import CsvOptions

console = Console()
Uri = Annotated[
    str, typer.Argument(help="An index: its folder, or http://host:19530/collection in Milvus.")
]


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
        from cliptune.errors import NotFound

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
        no_args_is_help=True,
        help="Fill a search Flow's index and keep it up to date; copy, keep and move whole "
        "indexes.\n\n`cliptune index DATA` is short for `cliptune index add DATA`. Data that are "
        "called as a command is are given as a path: `cliptune index ./status`.",
        epilog="Example: cliptune index products.csv --text-column title --image-column picture",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    group.command(epilog="Example: cliptune index add pictures/")(with_table_options(add))
    index_files.register(group)
    group.command(epilog="Example: cliptune index migrate shop-index http://milvus:19530/shop")(
        migrate
    )
    group.command(epilog="Example: cliptune index snapshot shop-index backups/2026-11-24")(snapshot)
    group.command(epilog="Example: cliptune index restore backups/2026-11-24 shop-index")(restore)
    app.add_typer(group, name="index")


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
    say(docs.summary)
    if not keep_untitled and any("title" in one.reason for one in docs.summary.left_out):
        notices.print("--keep-untitled indexes pictures without a title too", style="yellow")
    with Client(server) as client, _progress("indexing", len(docs)) as advance:

        def show(so_far: Indexed) -> None:
            advance(so_far.seen)

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


def migrate(
    source: Uri,
    target: Uri,
    storage: Annotated[
        str | None,
        typer.Option(
            help="How a new folder keeps embeddings: float32, or float16 at half the room."
        ),
    ] = None,
) -> None:
    """Copy an index into another one, of another kind or elsewhere.

    Both are opened directly; the source may be served meanwhile. After an interruption, give the
    same command again: it goes on where it was. In the end the numbers are compared, and a sample
    of the documents and searches.
    """
    from cliptune.index.migrate import migrate as copy

    with (
        _existing(source) as there,
        _open(target, storage) as new,
        _progress("copying", there.count()) as advance,
    ):
        done = copy(there, new, progress=advance)
    others = f"; {done.others} others stay in the target" if done.others else ""
    console.print(
        f"{done.copied} documents copied, {done.unchanged} were there already{others}. "
        f"{done.compared} were compared: all the same"
    )


def snapshot(
    index: Uri,
    folder: Annotated[Path, typer.Argument(help="The new folder to write.")],
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="The pictures themselves too.")
    ] = True,
) -> None:
    """Write all documents of an index to a folder of Parquet files, while it is served."""
    from cliptune.index.snapshots import write_snapshot

    with _existing(index) as there, _progress("writing", there.count()) as advance:
        written = write_snapshot(there, folder, include_images=pictures, progress=advance)
    console.print(f"{written.rows} documents in {folder}")


def restore(
    snapshot: Annotated[Path, typer.Argument(help="A snapshot's folder.")],
    index: Uri,
    replace: Annotated[bool, typer.Option("--replace", help="Clear the index first.")] = False,
) -> None:
    """Fill an index with a snapshot's documents, of which the files are checked first."""
    from cliptune.index.snapshots import SnapshotManifest, restore_snapshot

    rows = SnapshotManifest.read(snapshot).rows
    with _open(index) as target, _progress("restoring", rows) as advance:
        restore_snapshot(snapshot, target, replace=replace, progress=advance)
    console.print(f"{rows} documents in {index}")


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar, and the function that tells it how many are done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def _existing(uri: str) -> Any:
    """The index at `uri`; one that isn't there is not made."""
    from cliptune.errors import NotFound

    if "://" not in uri and not Path(uri).expanduser().is_dir():
        raise NotFound(f"no index at {uri!r}")
    index = _open(uri)
    if "://" in uri and index.status().model_digest is None:
        index.close()
        raise NotFound(f"no index at {uri!r}, or an empty one")
    return index


def _open(uri: str, storage: str | None = None) -> Any:
    """The index at `uri`: of several generations, the current one's."""
    from cliptune.index.versions.versioned_index import VersionedIndex
    from cliptune.settings import current

    return VersionedIndex(uri, current().generations_of(uri), storage=storage)


def _default_report() -> Path:
    from cliptune.settings import current

    return current().home / "logs" / f"left-out-{datetime.now():%Y-%m-%d-%H%M%S}.csv"


def _write_left_out(path: Path, left_out: list[LeftOut]) -> None:
    from cliptune.files import write_text

    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["id", "picture", "reason"])
    writer.writerows([one.id, one.uri or "", one.reason] for one in left_out)
    write_text(path, table.getvalue())
