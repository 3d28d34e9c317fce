"""`cliptune data suspects` and `data correct`: rows that look wrong, and what becomes of them."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from cliptune.cli.inputs import table_options_of, tell
from cliptune.cli.options import with_table_options
from cliptune.cli.terminal import console, notices, progress_bar

if TYPE_CHECKING:
    from cliptune.data.tables.options import CsvOptions

_EXAMPLES = 3
Out = Annotated[Path, typer.Option(help="The table to write: .csv, .tsv, .jsonl or .parquet.")]
Replace = Annotated[bool, typer.Option("--replace", help="Overwrite --out.")]


def register(group: typer.Typer) -> None:
    """Add the commands to `cliptune data`."""
    group.command(
        epilog="Example: cliptune data suspects products.csv --model ViT-B-32::openai "
        "--out suspects.csv"
    )(with_table_options(suspects))
    group.command(
        epilog="Example: cliptune data correct products.csv suspects.csv --out corrected.csv"
    )(with_table_options(correct))


def suspects(
    data: Annotated[str, typer.Argument(metavar="TABLE", help="Pairs to train on.")],
    model: Annotated[
        str,
        typer.Option(
            help="What judges them: an artifact, a run's name, or a model's. Best one that has "
            "not been trained on these pairs."
        ),
    ],
    out: Out,
    near_pictures: Annotated[
        float, typer.Option(help="The cosine from which two pictures count as near-duplicates.")
    ] = 0.97,
    deviations: Annotated[
        float,
        typer.Option(help="How far below the median a title's agreement is: fewer find more."),
    ] = 3.0,
    most: Annotated[int, typer.Option(help="At most so many of each reason.")] = 300,
    replace: Replace = False,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, …; default: the accelerator that is there.")
    ] = None,
    *,
    table: CsvOptions,
) -> None:
    """Find rows that look wrong: titles and labels that don't fit, and near-duplicates.

    Writes them as a table, the likeliest first: id, title, reason, score, and what seems to fit
    better. Write x into its column 'drop', or the right title or label into 'correction', and
    `cliptune data correct` writes the table anew.
    """
    from cliptune.curation.embedded import embed_pairs
    from cliptune.curation.suspects import SuspectOptions, find_suspects, write_suspects
    from cliptune.curation.tables import open_pairs
    from cliptune.data.tables.writing import check_target
    from cliptune.extras import need
    from cliptune.inference.engines import both_towers
    from cliptune.sdk.models import locate_model
    from cliptune.settings import Settings

    options = SuspectOptions(near_pictures, deviations, most)
    need("suspects", "looking for suspects")
    check_target(out, replace=replace)
    given = open_pairs(data, table.after(table_options_of(model)), "data")
    tell(given.table.summary)
    notices.print(f"suspects: {options}", markup=False, highlight=False, soft_wrap=True)
    towers = both_towers(locate_model(model), device=device)
    with progress_bar() as progress:
        pairs = embed_pairs(
            given.docs, *towers, pixel_cache=Settings.read().cache_dir / "pixels", tell=progress
        )
        found = find_suspects(pairs, options, progress)
    write_suspects(pairs, found, out)
    for reason, count in Counter(one.reason for one in found).items():
        console.print(f"{reason}: {count} of {len(pairs)} pairs", highlight=False)
        for one in [one for one in found if one.reason == reason][:_EXAMPLES]:
            line = f"  {pairs.docs[one.position].id}: {one.described(pairs)}"
            console.print(escape(line), highlight=False, soft_wrap=True)
    if not found:
        console.print("nothing looks wrong")
    console.print(f"written: [bold]{escape(str(out))}[/], {len(found)} rows", highlight=False)
    console.print(
        f"decide in its columns 'drop' and 'correction', then: cliptune data correct "
        f"{shlex.quote(data)} {shlex.quote(str(out))} --out CORRECTED",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


def correct(
    data: Annotated[str, typer.Argument(metavar="TABLE", help="The table of pairs.")],
    suspects: Annotated[
        str, typer.Argument(metavar="SUSPECTS", help="The table of suspects, with decisions.")
    ],
    out: Out,
    replace: Replace = False,
    *,
    table: CsvOptions,
) -> None:
    """Write a table anew without the suspects that are dropped, and with those corrected.

    A decision is refused where the row's title is another one by now.
    """
    from cliptune.curation.corrections import apply_decisions, read_decisions
    from cliptune.curation.tables import open_pairs
    from cliptune.data.tables.writing import check_target

    check_target(out, replace=replace)
    decisions = read_decisions(suspects)
    given = open_pairs(data, table, "data")
    tell(given.table.summary)
    check_target(out, given.table.rows, replace=replace)
    done = apply_decisions(given, decisions, out)
    console.print(
        f"{done.dropped} rows dropped, {done.titles} titles and {done.labels} labels corrected\n"
        f"written: [bold]{escape(str(out))}[/], {done.rows} rows",
        highlight=False,
    )
