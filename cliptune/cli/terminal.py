"""Following a run on the terminal: its log, and a live progress bar below."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cliptune.errors import RunFailed


def watch(run: Any, console: Console) -> None:
    """Show `run` until it ends.

    Raises:
        RunFailed: it did not end as FINISHED; the message holds its reason.
    """
    progress = Progress(
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}"),
        console=console,
        transient=True,
    )
    with progress:
        task = progress.add_task("starting", total=None, values="")
        for item in run.follow(interval=0.5):
            if isinstance(item, str):
                # `cliptune logs` has the debugging lines too; markup is off for brackets.
                if item[11:16] != "DEBUG":
                    progress.console.print(item, markup=False, highlight=False, soft_wrap=True)
                continue
            shown = " ".join(f"• {name}: {value:.3f}" for name, value in item.values.items())
            progress.update(
                task,
                description=item.description,
                completed=item.done,
                total=item.total,
                values=shown,
            )
    status = run.status()
    if status["status"] != "FINISHED":
        raise RunFailed(f"run {run.name} is {status['status']}: {status['details']}")


def seconds_since(start: float) -> str:
    """Time since `start` (of `time.monotonic`) for people: '1 min 23 s'."""
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
