"""`cliptune runs`, `logs`, `cancel`, `resume`: what has been started, and what comes of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cliptune.cli.options import AsJson, TrainAddress, Yes
from cliptune.cli.terminal import confirm, console, watch

if TYPE_CHECKING:
    from cliptune.runs.session import Session
    from cliptune.runs.summary import RunSummary

RunName = Annotated[str, typer.Argument(help="The run's name.")]
Experiment = Annotated[str | None, typer.Option()]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(
        invoke_without_command=True,
        epilog="Example: cliptune runs --experiment default",
        context_settings={"help_option_names": ["-h", "--help"]},
        callback=runs,
    )
    group.command(epilog="Example: cliptune runs delete brave-otter-3f2a")(delete)
    app.add_typer(group, name="runs")
    app.command(epilog="Example: cliptune logs brave-otter-3f2a --follow")(logs)
    app.command(epilog="Example: cliptune cancel brave-otter-3f2a")(cancel)
    app.command(epilog="Example: cliptune resume brave-otter-3f2a")(resume)


def runs(
    context: typer.Context,
    experiment: Annotated[str | None, typer.Option(help="Of this experiment only.")] = None,
    page: Annotated[int, typer.Option(min=1)] = 1,
    size: Annotated[int, typer.Option(min=1)] = 50,
    as_json: AsJson = False,
    server: TrainAddress = None,
) -> None:
    """List the runs, newest first: when, how long, of what, and the best metric of any epoch.

    `cliptune runs delete` deletes some.
    """
    if context.invoked_subcommand is not None:
        return
    listed = _session(server).list_runs(experiment_name=experiment, page=page, size=size)
    summaries = [run.summary() for run in listed]
    if as_json:
        rows = [asdict(one) for one in summaries]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not summaries:
        console.print("No runs." if page == 1 else f"No runs on page {page}.")
        return
    table = Table("run", "experiment", "started", "took", "model", "data", "best metric", "status")
    for column in table.columns[:4]:
        column.no_wrap = True
    for one in summaries:
        table.add_row(*(escape(cell) for cell in _cells(one)))
    # What isn't read on a terminal need not fit on one.
    Console(width=None if console.is_terminal else _WIDE).print(table)


_WIDE = 240


def _cells(one: RunSummary) -> list[str]:
    started = datetime.fromisoformat(one.created).astimezone()
    documents = f" ({one.documents})" if one.documents is not None else ""
    metric = ""
    if one.metric is not None and one.value is not None:
        short = one.metric.removeprefix("clip-text-to-clip-vision_")
        epoch = f" (epoch {one.epoch})" if one.epoch is not None else ""
        metric = f"{short} {one.value:.4f}{epoch}"
    # Of a finished run there is nothing to add.
    status = one.status if not one.details else f"{one.status}: {one.details}"
    return [
        one.name,
        one.experiment,
        f"{started:%Y-%m-%d %H:%M}",
        "" if one.seconds is None else str(timedelta(seconds=round(one.seconds))),
        one.model,
        one.data + documents,
        metric,
        status,
    ]


def delete(
    names: Annotated[list[str], typer.Argument(help="Runs' names.")],
    experiment: Annotated[str | None, typer.Option(help="Their experiment.")] = None,
    yes: Yes = False,
    server: TrainAddress = None,
) -> None:
    """Delete runs with all their files: logs, checkpoints and artifacts.

    A run that is under way is stopped first. Artifacts that were saved elsewhere stay.
    """
    session = _session(server)
    chosen = [session.get_run(name, experiment) for name in dict.fromkeys(names)]
    confirm(f"delete {', '.join(run.name for run in chosen)}", yes)
    for run in chosen:
        session.delete_run(run.name, run.experiment_name)
        console.print(f"run {run.name} deleted")


def logs(
    name: RunName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the run ends.")] = False,
    experiment: Experiment = None,
    server: TrainAddress = None,
) -> None:
    """Print a run's log."""
    run = _session(server).get_run(name, experiment)
    if follow:
        for line in run.stream_logs(interval=1):
            typer.echo(line)
    else:
        typer.echo(run.logs())


def cancel(
    name: RunName,
    experiment: Experiment = None,
    server: TrainAddress = None,
) -> None:
    """Stop a run; it keeps a checkpoint to resume from."""
    run = _session(server).get_run(name, experiment)
    run.cancel()
    console.print(f"run {run.name}: {run.status()['status']}")


def resume(
    name: RunName,
    experiment: Experiment = None,
) -> None:
    """Go on with a run that was cancelled or killed, from its last checkpoint."""
    run = _session(None).get_run(name, experiment)
    run.resume()
    watch(run)


def _session(server: str | None) -> Session:
    """Runs of this machine, or of the train Flow at `server`."""
    from cliptune.sdk.session import session

    return session(server)
