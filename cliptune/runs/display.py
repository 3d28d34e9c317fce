"""What runs show on a terminal."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from rich.markup import escape
from rich.table import Table


def example_tables(examples: dict[str, Any], k: int) -> list[Table]:
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


def _cell(match: dict[str, Any]) -> str:
    mark = "[green]✓[/]" if match["hit"] else "[red]✗[/]"
    return f"{mark} {match['score']:.3f} {escape(str(match['text'] or match['id']))}"
