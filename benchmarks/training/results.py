"""Showing what a benchmark found: in the terminal, as Markdown for docs/, and as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """`--markdown` and `--out`, the same for all benchmarks."""
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> None:
    """Print one table; all columns but the first are numbers."""
    if markdown:
        lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
        print(f"{title}\n")
        print("\n".join(f"| {' | '.join(line)} |" for line in lines), end="\n\n")
        return
    table = Table(header[0], title=title)
    for name in header[1:]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


def write(path: Path | None, figures: Any) -> None:
    """Keep the figures and what they were measured on in the JSON file `path`, if there is one."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=2))


def machine() -> dict[str, Any]:
    """What a speed depends on: cores, threads, load and torch's version."""
    return {
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
