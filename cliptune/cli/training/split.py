"""`cliptune split`: a table's rows to train on, and those to measure with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cliptune.cli.options import with_table_options
from cliptune.cli.terminal import console

if TYPE_CHECKING:
    from cliptune.data.tables.options import CsvOptions


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(epilog="Example: cliptune split products.csv --text-column title --held-out 0.2")(
        with_table_options(split)
    )


def split(
    data: Annotated[
        str,
        typer.Argument(metavar="TABLE", help="A table: CSV, TSV, JSON lines, parquet or Arrow."),
    ],
    held_out: Annotated[
        float, typer.Option(help="The part of the titles that is held out, between 0 and 1.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Another one gives another split.")] = 0,
    replace: Annotated[
        bool, typer.Option("--replace", help="Overwrite what an earlier split wrote.")
    ] = False,
    *,
    table: CsvOptions,
) -> None:
    """Hold out some of a table's titles, to measure with what training has not seen.

    TABLE.csv stays as it is; beside it TABLE-train.csv and TABLE-held-out.csv are written, each
    row to one of them, every line as it is. All rows of one title, of one label or of one picture
    go to one side. The same command gives the same split on every machine, and rows that are
    added later don't move the others.
    """
    from cliptune.data.split import split_table
    from cliptune.models.tokenizers import clip_keys

    done = split_table(
        data, table, text_keys=clip_keys(), held_out=held_out, seed=seed, replace=replace
    )
    shown = Table("table", "for", header_style="bold")
    shown.add_column("rows", justify="right")
    shown.add_column("groups", justify="right")
    for part, purpose in ((done.train, "training"), (done.held_out, "measuring")):
        shown.add_row(str(part.path), purpose, f"{part.rows:,}", f"{part.groups:,}")
    console.print(shown)
    console.print("A group is what is never divided: the rows of one title, label or picture.")
