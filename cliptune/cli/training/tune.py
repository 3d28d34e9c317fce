"""`cliptune tune`: the options of a fine-tuning found by trials, and the best model of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cliptune.cli.options import (
    ArtifactFolder,
    BaseModel,
    Detach,
    ExperimentOfRun,
    NameOfRun,
    TrainAddress,
    with_table_options,
)
from cliptune.cli.terminal import console
from cliptune.cli.training.fit import parse_options, start
from cliptune.errors import BadInput

if TYPE_CHECKING:
    from cliptune.data.tables.options import CsvOptions


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(epilog="Example: cliptune tune products.csv --minutes 60")(with_table_options(tune))


def tune(
    train_data: Annotated[
        str, typer.Argument(help="A table, a folder of pictures, or the name of a data set.")
    ],
    model: BaseModel = "builtin",
    minutes: Annotated[
        float, typer.Option(min=0.01, help="For trials; the first one is finished in any case.")
    ] = 60.0,
    max_trials: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    metric: Annotated[
        str, typer.Option(help="What is chosen by: a name that `evaluate` prints.")
    ] = "reciprocal_rank",
    robust: Annotated[
        str | None,
        typer.Option(help="Pairs of another kind, at which the model should stay good (WiSE-FT)."),
    ] = None,
    max_loss: Annotated[
        float,
        typer.Option(
            help="The part of the pre-trained model's metric on --robust that may be lost."
        ),
    ] = 0.01,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="At the end train once more, on the validation part too."),
    ] = False,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            "-o",
            help="Settle an option of fit(): NAME=VALUE (YAML), such as epochs=3 or freeze=vision. "
            "Trials don't vary it.",
        ),
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            "--search",
            help="Any other option of the search: NAME=VALUE, such as validation=0.2, limit=10.",
        ),
    ] = None,
    run_name: NameOfRun = None,
    experiment: ExperimentOfRun = "default",
    out: ArtifactFolder = Path("artifacts"),
    detach: Detach = False,
    server: TrainAddress = None,
    *,
    table: CsvOptions,
) -> None:
    """Find the options by trials, and save the best model that they lead to.

    A part of the titles is held out to choose by, and another that no choice sees, for the
    figures. The first trial is `fit`'s defaults; others vary learning rate, epochs, batch size,
    weight decay, crops, and what is trained; those that lag behind are given up. The best are
    averaged where that helps (a greedy soup), and mixed with the model before (WiSE-FT).

    It is a run: `cliptune logs`, `cancel` and `resume` work, whatever has killed it.
    """
    from cliptune.runs.run import Run

    asked = {
        "minutes": minutes,
        "max_trials": max_trials,
        "metric": metric,
        "max_loss": max_loss,
        "refit": refit,
    }
    further = parse_options(search or [])
    for name in further:
        if name in asked:
            raise BadInput(f"--search {name}=…: it has an option of its own (see --help)")
    named: dict[str, object] = {
        "model": model,
        "train_data": train_data,
        "tune": {**asked, **further},
        "robust_data": robust,
        "run_name": run_name,
        "experiment_name": experiment,
        "csv_options": table,
    }
    run = start(named, option, out, detach=detach, server=server)
    if isinstance(run, Run):  # of this machine: the report is here
        console.print(f"report:   [bold]{run.folder / 'tune' / 'report.html'}[/]", soft_wrap=True)
