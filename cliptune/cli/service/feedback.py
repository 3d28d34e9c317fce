"""`cliptune feedback`: what a server has recorded of searches, as a table; and deleting of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cliptune.cli.options import SERVER, Address, Yes
from cliptune.cli.terminal import confirm, console, progress_bar
from cliptune.errors import BadData, BadInput

if TYPE_CHECKING:
    from cliptune.feedback.folder import LogFolder
    from cliptune.feedback.pairs import Export, Pair
    from cliptune.feedback.records import Record

IDS_A_CALL = 64
"""Documents whose pictures are asked for at once."""

Folder = Annotated[
    Path, typer.Argument(help="Where searches are recorded: serve --record-searches.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(group, name="feedback")


def feedback() -> None:
    """Make training pairs of recorded searches, and delete of them."""


group = typer.Typer(callback=feedback, no_args_is_help=True)


@group.command(
    epilog="Example: cliptune feedback export searches --out pairs.csv --pictures pairs-pictures"
)
def export(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="The table to write, CSV.")],
    pictures: Annotated[
        Path | None,
        typer.Option(
            help="A folder for the documents' pictures, which are asked of the server: the table "
            "then has the column image, and can be trained on."
        ),
    ] = None,
    eta: Annotated[
        float,
        typer.Option(
            min=0, max=5, help="How fast attention falls with the rank r: by 1 / r**eta; 0: not."
        ),
    ] = 1.0,
    max_weight: Annotated[
        float, typer.Option(min=1, help="What a choice at a low rank counts at most.")
    ] = 10.0,
    skipped: Annotated[
        bool,
        typer.Option(
            "--skipped",
            help="Have pairs of grade 0 too: shown above what was chosen, and passed over. "
            "Training takes them for wrong answers by --grade-column, else for right ones.",
        ),
    ] = False,
    source: Annotated[str, typer.Option(help="What the column source says.")] = "searches",
    server: Address = SERVER,
) -> None:
    """Write a table of graded pairs: what people searched for, and what they chose.

    Columns: text, id (of the indexed document), grade (1 click, 2 cart, 3 purchase), weight (above
    0: how often it was chosen where it was shown, corrected for its rank), searches, source, and
    with --pictures image.
    """
    from cliptune.feedback.folder import LogFolder
    from cliptune.feedback.pairs import graded_pairs

    log = LogFolder(folder)
    made = graded_pairs(log.records, eta=eta, max_weight=max_weight, skipped=skipped, source=source)
    images: dict[str, str] | None = None
    if pictures is not None:
        images = _fetch_pictures(made.pairs, pictures, server)
    pairs = made.pairs if images is None else [one for one in made.pairs if one.id in images]
    if not pairs:
        raise BadData(f"{folder}: no pairs: {_told(made, log.damaged)}")
    _write(out, pairs, images)
    console.print(_told(made, log.damaged), highlight=False)
    if gone := len(made.pairs) - len(pairs):
        console.print(f"{gone} left out: the server has no picture of their documents")
    console.print(f"written: [bold]{out}[/] ({len(pairs)} pairs)")


@group.command(epilog="Example: cliptune feedback delete searches --text 'jane doe'")
def delete(
    folder: Folder,
    search: Annotated[
        list[str] | None, typer.Option(help="A search's id; may be given several times.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Searches for this text, whatever its case.")
    ] = None,
    before: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="What was recorded before this day (UTC)."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that was recorded.")] = False,
    yes: Yes = False,
) -> None:
    """Delete recorded searches, with the feedback on them; a server may write meanwhile.

    It writes after half a second what it has answered: that is deleted by a second call.
    """
    from cliptune.feedback.folder import LogFolder

    given = [search, text, before, everything or None]
    if sum(one is not None for one in given) != 1:
        raise BadInput("give one of --search, --text, --before and --all")
    log = LogFolder(folder)
    chosen = _chosen(log, search, text, before)
    what = "everything" if everything else "what was asked for"
    confirm(f"delete {what} in {folder}", yes)
    deleted = log.delete(chosen)
    damaged = f", and {deleted.damaged} damaged lines" if deleted.damaged else ""
    console.print(f"deleted: {deleted.lines} lines{damaged}", highlight=False)


def _chosen(
    log: LogFolder, search: list[str] | None, text: str | None, before: datetime | None
) -> Callable[[Record], bool]:
    """Which records go."""
    from cliptune.feedback.pairs import text_key
    from cliptune.feedback.records import MAX_TEXT, Search

    if before is not None:
        day = before.date()
        return lambda record: record.at.date() < day
    ids = set(search or ())
    if text is not None:
        ids = {
            one.id
            for one in log.records()
            if isinstance(one, Search)
            and any(text_key(part.text or "") == text_key(text[:MAX_TEXT]) for part in one.query)
        }
    if search is None and text is None:
        return lambda record: True
    return lambda record: (record.id if isinstance(record, Search) else record.search) in ids


def _fetch_pictures(pairs: list[Pair], folder: Path, server: str) -> dict[str, str]:
    """Write the documents' pictures; returns their paths by the documents' ids."""
    import hashlib

    from PIL import Image, UnidentifiedImageError

    from cliptune.files import make_folder, write_bytes
    from cliptune.serving import Client

    make_folder(folder)
    ids = list(dict.fromkeys(pair.id for pair in pairs))
    paths: dict[str, str] = {}
    with Client.from_environment(server) as client, progress_bar() as progress:
        for start in range(0, len(ids), IDS_A_CALL):
            for doc in client.get(ids[start : start + IDS_A_CALL], include_image=True):
                if doc.image is None:
                    continue
                try:
                    kind = Image.open(io.BytesIO(doc.image)).format or "bin"
                except UnidentifiedImageError:
                    continue
                path = folder / f"{hashlib.sha256(doc.image).hexdigest()}.{kind.lower()}"
                if not path.exists():
                    write_bytes(path, doc.image)
                paths[str(doc.id)] = str(path.absolute())
            progress("pictures", min(start + IDS_A_CALL, len(ids)), len(ids))
    return paths


def _write(out: Path, pairs: list[Pair], images: dict[str, str] | None) -> None:
    from cliptune.files import write_text

    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    columns = ["text", "id", "grade", "weight", "searches", "source"]
    writer.writerow(columns if images is None else [*columns, "image"])
    for one in pairs:
        weight = f"{one.weight:.6g}"
        row = [one.text, one.id, one.grade, weight, one.searches, one.source]
        writer.writerow(row if images is None else [*row, images[one.id]])
    write_text(out, table.getvalue())


def _told(made: Export, damaged: int) -> str:
    """What became of the records, in a line."""
    parts = [f"{made.searches} searches, {made.feedback} documents chosen"]
    for count, words in (
        (made.without_text, "searches for other than one text"),
        (made.unknown, "chosen in searches that aren't recorded (any more)"),
        (made.not_shown, "that their search has not shown"),
        (damaged, "damaged lines"),
    ):
        if count:
            parts.append(f"left out: {count} {words}")
    return "; ".join(parts)
