"""What commands show and ask on the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cliptune.errors import NotReady, RunFailed

if TYPE_CHECKING:
    from cliptune.runs.session import AnyRun

console = Console()
notices = Console(stderr=True)
"""For what a program that reads stdout must not get."""


def confirm(what: str, yes: bool) -> None:
    """Ask whether to do `what`, unless `yes` was given.

    Raises:
        NotReady: the answer was no, or there is nobody to ask.
    """
    if yes:
        return
    try:
        agreed = typer.confirm(f"{what}?")
    except typer.Abort:  # no terminal, or Ctrl-D
        typer.echo()
        agreed = False
    if not agreed:
        raise NotReady("nothing was deleted: it was not confirmed (--yes does it without asking)")


def warn(sentences: Iterable[str]) -> None:
    """Print what there is to say of a filter."""
    for sentence in sentences:
        notices.print(f"[yellow]warning:[/] {escape(sentence)}", highlight=False, soft_wrap=True)


@contextmanager
def progress_bar(*, stays: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar, and what it is told by: (what is done, done, total).

    Unless it `stays`, it is gone in the end.
    """
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    times = TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, *times, console=console, transient=not stays) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda what, done, total: bar.update(
            task, description=what, completed=done, total=total or None
        )


def watch(run: AnyRun) -> None:
    """Show a run until it ends: its log, and a live progress bar below.

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
