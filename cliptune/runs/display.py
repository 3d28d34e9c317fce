"""What runs show: tables on a terminal, sample results as a picture."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from cliptune.documents import ClipDoc
    from cliptune.evaluation.plots import Result
    from cliptune.evaluation.retrieval import ExampleMatch, ExampleQuery
    from cliptune.runs.record import RunConfig
    from cliptune.training.run_logger import RunExamples

SHOWN_QUERIES = 8
SIDE_WIDTH = 150
"""Pixels of the sheet for each of the `k` results of a model."""


def example_tables(examples: RunExamples, k: int) -> list[Table]:
    """A table for each sample query of `Run.example_results()`: the best `k` before and after."""
    tables = []
    for evaluation, queries in examples["after"].items():
        earlier = examples["before"].get(evaluation, [])
        before = {query["id"]: query["matches"] for query in earlier}
        for query in queries:
            text = escape(str(query["text"] or query["id"]))
            table = Table(title=f"[bold]{text}[/]", caption=evaluation, title_justify="left")
            table.add_column("#", justify="right")
            table.add_column("before")
            table.add_column("after")
            left = [_cell(match) for match in before.get(query["id"], [])[:k]]
            right = [_cell(match) for match in query["matches"][:k]]
            for rank, (earlier_cell, cell) in enumerate(zip_longest(left, right, fillvalue=""), 1):
                table.add_row(str(rank), earlier_cell, cell)
            tables.append(table)
    return tables


def draw_examples(
    examples: RunExamples, config: RunConfig, folder: Path, k: int, path: Path
) -> Path | None:
    """Draw the best `k` pictures of sample queries, before beside after, as a PNG file.

    Args:
        examples: what `Run.example_results()` gives.
        config: the run's.
        folder: the run's.
        k: results of each query.
        path: of the file.

    Returns:
        `path`, or None where no evaluation searches pictures.

    Raises:
        BadData, NotFound: the documents that were searched are not there any more.
        BadImage: likewise one of their pictures.
    """
    from cliptune.data.pictures.images import image_bytes
    from cliptune.evaluation.plots import results_grid
    from cliptune.models.artifact import VISION_TOWER
    from cliptune.runs.documents import referred_documents

    rows: list[tuple[str, dict[str, list[Result]]]] = []
    for callback in config["callbacks"]:
        evaluation = f"{callback.get('model')}-to-{callback.get('index_model')}"
        if callback.get("index_model") != VISION_TOWER or evaluation not in examples["after"]:
            continue
        searched = referred_documents(callback["index_data"] or callback["query_data"], folder)
        documents = {str(doc.id): doc for doc in searched}
        earlier = {query["id"]: query for query in examples["before"].get(evaluation, [])}

        def results(
            query: ExampleQuery | None, docs: dict[str, ClipDoc] = documents
        ) -> list[Result]:
            return [
                (
                    match["text"] or match["label"] or match["id"],
                    image_bytes(docs[match["id"]], allow_files=True),
                    match["score"],
                    match["hit"],
                )
                for match in (query["matches"][:k] if query else [])
            ]

        for query in examples["after"][evaluation][:SHOWN_QUERIES]:
            sides = {"before": results(earlier.get(query["id"])), "after": results(query)}
            if any(sides.values()):
                rows.append((query["text"] or query["id"], sides))
    width = max(1000, SIDE_WIDTH * k * 2)
    return results_grid(rows, path, width=width, max_columns=k) if rows else None


def _cell(match: ExampleMatch) -> str:
    mark = "[green]✓[/]" if match["hit"] else "[red]✗[/]"
    return f"{mark} {match['score']:.3f} {escape(str(match['text'] or match['id']))}"
