"""`cliptune compare`: whether one of two models finds more, and how sure that is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cliptune.cli.inputs import read_searched, table_options_of
from cliptune.cli.models.conditions import FailIf, fail_if, holding, parse_conditions
from cliptune.cli.options import (
    AsJson,
    GroupedBy,
    Labelled,
    ResultsThatCount,
    Searched,
    with_table_options,
)
from cliptune.cli.terminal import console, progress_bar

if TYPE_CHECKING:
    from cliptune.data.tables.options import CsvOptions
    from cliptune.evaluation.bootstrap import Change
    from cliptune.evaluation.groups import ChangedGroup
    from cliptune.inference import TextTower, VisionTower


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        epilog="Example: cliptune compare artifacts/last-week.zip artifacts/today.zip "
        "--queries queries.csv --index index.csv --fail-if 'reciprocal_rank.high < 0'"
    )(with_table_options(compare))


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="An artifact, or a model's name.")],
    second: Annotated[
        str, typer.Argument(metavar="B", help="Another one, of whatever architecture.")
    ],
    queries: Labelled,
    index: Searched = None,
    limit: ResultsThatCount = 20,
    by: GroupedBy = None,
    fail: FailIf = None,
    seed: Annotated[int, typer.Option(help="Of the intervals' draws.")] = 0,
    as_json: AsJson = False,
    *,
    table: CsvOptions,
) -> None:
    """Say whether model B finds more than model A on the same queries.

    By the paired bootstrap over the queries: the change of each metric with its 95 % interval and
    p-value. Figures for --fail-if: METRIC (of B), METRIC.before (of A), METRIC.change, METRIC.low
    and METRIC.high (the interval of the change), METRIC.p.

    Exits with 3 if a condition of --fail-if holds, with 1 on errors.
    """
    from cliptune.evaluation.groups import changes_by_group
    from cliptune.evaluation.metrics import HEADLINE
    from cliptune.evaluation.pairwise import compare_towers
    from cliptune.evaluation.tables import describe_counts
    from cliptune.settings import Settings

    conditions = parse_conditions(fail)
    kept = table_options_of(second) or table_options_of(first)
    query_docs, index_docs = read_searched(queries, index, table.after(kept))
    with progress_bar() as progress:
        compared = compare_towers(
            _towers(first),
            _towers(second),
            query_docs,
            index_docs,
            limit=limit,
            seed=seed,
            pixel_cache=Settings.read().cache_dir / "pixels",
            on_progress=progress,
        )
    sides = compared.first.by_query, compared.second.by_query
    groups = {
        each: changes_by_group(*sides, compared.answers.queries, each, HEADLINE)
        for each in by or ()
    }
    figures = compared.figures()
    failed = holding(conditions, figures)
    if as_json:
        shown = {
            "metrics": {name: _json(change) for name, change in compared.changes.items()},
            "groups": {
                each: [{"name": one.name, "n": one.n, **_json(one.change)} for one in of_each]
                for each, of_each in groups.items()
            },
            "failed": [str(one) for one in failed],
            **compared.second.counts(),
        }
        typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
    else:
        console.print(
            _table(
                f"A: {first}, B: {second}, k = {limit}",
                "metric",
                [(name, change) for name, change in compared.changes.items()],
            )
        )
        for each, of_each in groups.items():
            console.print(_groups_table(f"{HEADLINE} by {each}", of_each))
        console.print(describe_counts(compared.second.counts()), highlight=False)
    fail_if(failed, figures)


def _towers(model: str) -> tuple[TextTower, VisionTower]:
    from cliptune.inference.engines import both_towers
    from cliptune.sdk.models import locate_model

    return both_towers(locate_model(model))


def _json(change: Change) -> dict[str, object]:
    return {
        "before": change.before.mean,
        "after": change.after.mean,
        "change": change.difference.mean,
        "interval": [change.difference.low, change.difference.high],
        "p": change.p_value,
    }


def _table(title: str, heading: str, rows: list[tuple[str, Change]]) -> Table:
    table = Table(heading, title=title, header_style="bold")
    for name in ("A", "B", "change", "95 % interval", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, change in rows:
        table.add_row(name, *_cells(change))
    return table


def _groups_table(title: str, groups: list[ChangedGroup]) -> Table:
    return _table(title, "group", [(f"{one.name} ({one.n})", one.change) for one in groups])


def _cells(change: Change) -> list[str]:
    gain = change.difference
    colour = ("green" if gain.mean > 0 else "red") if change.is_certain else "dim"
    return [
        f"{change.before.mean:.4f}",
        f"{change.after.mean:.4f}",
        f"[{colour}]{gain.mean:+.4f}[/]",
        f"{gain.low:+.4f} to {gain.high:+.4f}",
        f"{change.p_value:.4f}",
    ]
