"""`cliptune evaluate`: how well a model finds the right pictures."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cliptune.cli.inputs import read_searched, table_options_of
from cliptune.cli.models.conditions import FailIf, fail_if, holding, parse_conditions
from cliptune.cli.options import (
    AsJson,
    GroupedBy,
    Labelled,
    ResultsThatCount,
    with_table_options,
)
from cliptune.cli.terminal import console

if TYPE_CHECKING:
    from cliptune.data.tables.options import CsvOptions


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        epilog="Example: cliptune evaluate artifacts/brave-otter-3f2a.zip "
        "--queries queries.csv --index index.csv"
    )(with_table_options(evaluate))


def evaluate(
    model: Annotated[str, typer.Argument(help="An artifact, or a model's name.")],
    queries: Labelled,
    index: Annotated[
        str | None,
        typer.Option(help="The pictures to search; default: those of --queries, each once."),
    ] = None,
    limit: ResultsThatCount = 20,
    by: GroupedBy = None,
    fail: FailIf = None,
    as_json: AsJson = False,
    *,
    table: CsvOptions,
) -> None:
    """Measure how well a model finds the right pictures.

    Right are pictures of the query's label. Without labels, texts are the same by what the model
    reads of them (its tokens), and pictures by their bytes; what is the same counts as right.

    With --grade-column, --queries are judgements: right are the pictures that have a grade above 0
    for a text, and nDCG by the textbook's definition counts 2^grade - 1.

    Tables are read as those that it was fine-tuned on, where their columns are called alike.

    Exits with 3 if a condition of --fail-if holds, with 1 on errors.
    """
    from cliptune.evaluation.groups import figures_by_group
    from cliptune.evaluation.metrics import HEADLINE
    from cliptune.evaluation.retrieval import evaluate as evaluate_towers
    from cliptune.evaluation.tables import describe_counts, groups_table, metrics_table
    from cliptune.inference import get_tower

    conditions = parse_conditions(fail)
    query_docs, index_docs = read_searched(
        queries, index, table.after(table_options_of(model)), readable=True
    )
    text_tower = get_tower(model, "clip-text")
    vision_tower = get_tower(model, "clip-vision")
    result = evaluate_towers(text_tower, vision_tower, query_docs, index_docs, limit=limit)
    asked = result.asked(query_docs)
    groups = {each: figures_by_group(result.by_query, asked, each, HEADLINE) for each in by or ()}
    figures = result.metrics
    failed = holding(conditions, figures)
    if as_json:
        shown: dict[str, object] = {**figures, **result.counts()}
        if groups:
            shown["groups"] = {
                each: [asdict(g) for g in figures_of_group]
                for each, figures_of_group in groups.items()
            }
        if conditions:
            shown["failed"] = [str(one) for one in failed]
        typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
    else:
        console.print(metrics_table(figures, title=f"{model}, k = {limit}"))
        for each, figures_of_group in groups.items():
            console.print(groups_table(figures_of_group, title=f"{HEADLINE} by {each}"))
        console.print(describe_counts(result.counts()), highlight=False)
    fail_if(failed, figures)
