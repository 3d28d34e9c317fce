"""`cliptune mine`: wrong answers that look right, found by a model and written into the table."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from cliptune.cli.inputs import table_options_of, tell
from cliptune.cli.options import table_flags, with_table_options
from cliptune.cli.terminal import console, notices, progress_bar
from cliptune.errors import BadInput

if TYPE_CHECKING:
    from cliptune.curation.embedded import EmbeddedPairs
    from cliptune.curation.negatives import Mined
    from cliptune.data.tables.options import CsvOptions

_EXAMPLES = 3


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        epilog="Example: cliptune mine products.csv --model artifacts/brave-otter-3f2a.zip "
        "--out products-mined.csv"
    )(with_table_options(mine))


def mine(
    data: Annotated[str, typer.Argument(metavar="TABLE", help="Pairs to train on.")],
    model: Annotated[
        str, typer.Option(help="What finds them: an artifact, a run's name, or a model's.")
    ],
    out: Annotated[Path, typer.Option(help="The table to write: .csv, .tsv, .jsonl or .parquet.")],
    direction: Annotated[
        str,
        typer.Option(
            metavar="both|pictures|titles",
            help="Whose neighbours: pictures near the title, titles near the picture, or both.",
        ),
    ] = "both",
    num_negatives: Annotated[int, typer.Option(help="At most so many a pair.")] = 3,
    range_min: Annotated[
        int, typer.Option(help="Skip so many of the nearest that the rules let pass.")
    ] = 0,
    range_max: Annotated[
        int | None,
        typer.Option(
            help="Look at so many of the nearest; default: --range-min and ten times "
            "--num-negatives, but at least 100."
        ),
    ] = None,
    relative_margin: Annotated[
        str,
        typer.Option(
            metavar="NUMBER|none",
            help="A wrong answer's cosine is below the right one's by this part of it.",
        ),
    ] = "0.05",
    absolute_margin: Annotated[
        str, typer.Option(metavar="NUMBER|none", help="… below the right one's by this.")
    ] = "none",
    max_score: Annotated[str, typer.Option(metavar="NUMBER|none", help="… at most this.")] = "none",
    min_score: Annotated[
        str, typer.Option(metavar="NUMBER|none", help="… at least this.")
    ] = "none",
    near_pictures: Annotated[
        str,
        typer.Option(
            metavar="NUMBER|none",
            help="Two pictures of at least this cosine count as one: no wrong answers.",
        ),
    ] = "0.97",
    near_titles: Annotated[
        str, typer.Option(metavar="NUMBER|none", help="Likewise two titles.")
    ] = "0.99",
    sampling_strategy: Annotated[
        str,
        typer.Option(metavar="top|random", help="The nearest of those left, or some by chance."),
    ] = "top",
    seed: Annotated[int, typer.Option(help="Of --sampling-strategy random.")] = 0,
    column: Annotated[str, typer.Option(help="What the new column is called.")] = "negative",
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite --out.")] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, …; default: the accelerator that is there.")
    ] = None,
    *,
    table: CsvOptions,
) -> None:
    """Find hard negatives: wrong answers that a model takes for nearly right.

    Writes the table with one more column, which `cliptune fit --negative-column` reads: the ids
    of other rows. Left out is what is likely to be right: rows of one label, title, product or
    picture, near-duplicates, and what scores as high as the right answer. The options are called
    as in sentence-transformers' mine_hard_negatives.
    """
    from cliptune.curation.embedded import embed_pairs
    from cliptune.curation.mining_options import MiningOptions
    from cliptune.curation.negatives import mine as find_negatives
    from cliptune.curation.tables import check_minable, open_pairs, write_mined
    from cliptune.data.tables.writing import check_target
    from cliptune.inference.engines import both_towers
    from cliptune.sdk.models import locate_model
    from cliptune.settings import Settings

    numbers = {
        "relative_margin": relative_margin,
        "absolute_margin": absolute_margin,
        "max_score": max_score,
        "min_score": min_score,
        "near_pictures": near_pictures,
        "near_titles": near_titles,
    }
    options = MiningOptions.parse(
        {
            "direction": direction,
            "num_negatives": num_negatives,
            "range_min": range_min,
            "range_max": range_max,
            "sampling_strategy": sampling_strategy,
            "seed": seed,
            **{name: _number(name, value) for name, value in numbers.items()},
        }
    )
    check_target(out, replace=replace)
    given = open_pairs(data, table.after(table_options_of(model)), "data")
    tell(given.table.summary)
    check_target(out, given.table.rows, replace=replace)
    check_minable(given, column)
    notices.print(f"mining: {options}", markup=False, highlight=False, soft_wrap=True)
    towers = both_towers(locate_model(model), device=device)
    with progress_bar() as progress:
        pairs = embed_pairs(
            given.docs,
            *towers,
            pixel_cache=Settings.read().cache_dir / "pixels",
            tell=progress,
        )
        mined = find_negatives(pairs, options, progress)
        progress("writing", 0, 1)
        written = write_mined(given, pairs, mined, out, column, options.num_negatives)
    for line in _summary(pairs, mined):
        console.print(escape(line), highlight=False, soft_wrap=True)
    if written.unnamed:
        console.print(f"{written.unnamed} can't be named: several rows have their picture")
    console.print(f"written: [bold]{escape(str(out))}[/], {written.rows} rows", highlight=False)
    flags = shlex.join(table_flags(written.options))
    console.print(f"train on it: cliptune fit {shlex.quote(str(out))} {flags}", markup=False,
                  highlight=False, soft_wrap=True)  # fmt: skip


def _number(name: str, value: str) -> float | None:
    """What a margin or a threshold was given as.

    Raises:
        BadInput: it is neither a number nor `none`.
    """
    if value.strip().casefold() == "none":
        return None
    try:
        return float(value)
    except ValueError:
        raise BadInput(f"--{name.replace('_', '-')} is {value!r}: give a number, or none") from None


def _summary(pairs: EmbeddedPairs, mined: Mined) -> list[str]:
    """How many were found, what each rule left out, and three examples."""
    with_some = sum(map(bool, mined.negatives))
    left_out = {rule: count for rule, count in mined.left_out.items() if count}
    rules = ", ".join(f"{rule} {count:,}" for rule, count in left_out.items()) or "nothing"
    lines = [
        f"{mined.n_found:,} wrong answers of {with_some:,} of {len(pairs):,} pairs, "
        f"{mined.n_candidates:,} candidates looked at",
        f"left out: {rules}; {mined.n_right:,} couples belong together and were no candidates",
    ]
    if pairs.problems or pairs.n_wrong:
        lines.append(
            f"not mined: {len(pairs.problems)} pairs that can't be used, {pairs.n_wrong} of grade 0"
        )
    if mined.n_short:
        lines.append(
            f"{mined.n_short:,} pairs have fewer than were asked for: --range-max looks at more, a "
            "smaller --relative-margin lets more pass"
        )
    for row in [row for row, found in enumerate(mined.negatives) if found][:_EXAMPLES]:
        wrong = "; ".join(
            f"{pairs.docs[one.position].text!r} ({one.score:.3f})" for one in mined.negatives[row]
        )
        lines.append(f"{pairs.docs[row].text!r}: not {wrong}")
    return lines
