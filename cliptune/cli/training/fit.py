"""`cliptune fit`: a fine-tuning, here or at a train Flow, watched until its artifact is saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from cliptune.cli.options import (
    ArtifactFolder,
    BaseModel,
    Detach,
    ExperimentOfRun,
    NameOfRun,
    TrainAddress,
    with_table_options,
)
from cliptune.cli.terminal import console, watch
from cliptune.errors import BadInput

if TYPE_CHECKING:
    from cliptune.callback import Callback
    from cliptune.data.tables.options import CsvOptions
    from cliptune.runs.session import AnyRun


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(epilog="Example: cliptune fit products.csv --text-column title --epochs 5")(
        with_table_options(fit)
    )


def fit(
    train_data: Annotated[
        str, typer.Argument(help="A CSV, a folder of pictures, or the name of a data set.")
    ],
    model: BaseModel = "builtin",
    eval_data: Annotated[str | None, typer.Option(help="Pairs for val_loss.")] = None,
    queries: Annotated[
        str | None,
        typer.Option(help="Evaluate with these queries, before and after every epoch."),
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(help="The pictures that the queries search; default: those of --queries."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=0)] = 5,
    batch_size: Annotated[int | None, typer.Option(min=2)] = None,
    learning_rate: Annotated[
        str | None,
        typer.Option(help="The peak, or auto: found by a range test; default: the model's."),
    ] = None,
    wise_ft: Annotated[
        float | None,
        typer.Option(help="Mix with the pre-trained weights: alpha in [0, 1]."),
    ] = None,
    to_onnx: Annotated[bool, typer.Option("--to-onnx", help="Export both towers to ONNX.")] = False,
    callback: Annotated[
        list[str] | None,
        typer.Option(
            "--callback",
            "-c",
            help="A callback, as its name or as YAML: 'EarlyStopping: {patience: 3}'.",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            "-o",
            help="Any other option of fit(): NAME=VALUE (YAML), such as lora={rank: 8}, "
            "freeze=vision, num_processes=2, sampler=hard_negatives.",
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
    """Fine-tune a model on titles and pictures, and save the artifact."""
    from cliptune.callback import EvaluationCallback, WiSEFTCallback

    callbacks: list[Callback | Mapping[str, object]] = []
    if queries is not None:
        callbacks.append(EvaluationCallback(query_data=queries, index_data=index))
    elif index is not None:
        raise BadInput("--index needs --queries")
    if wise_ft is not None:
        callbacks.append(WiSEFTCallback(alpha=wise_ft))
    callbacks.extend(parse_callback_option(text) for text in callback or [])
    named: dict[str, object] = {
        "model": model,
        "train_data": train_data,
        "eval_data": eval_data,
        "callbacks": callbacks,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "to_onnx": to_onnx,
        "run_name": run_name,
        "experiment_name": experiment,
        "csv_options": table,
    }
    start(named, option, out, detach=detach, server=server)


def start(
    named: dict[str, object],
    option: list[str] | None,
    out: Path,
    *,
    detach: bool,
    server: str | None,
) -> AnyRun | None:
    """Start a run, and unless it is to be left alone watch it and save its artifact.

    Args:
        named: the arguments of `fit` that have options of their own.
        option: the others, as NAME=VALUE.
        out: where the artifact is saved.
        detach: only start it.
        server: the train Flow's address; None: this machine.

    Returns: the run that has finished; None with `detach`.
    """
    from cliptune.sdk.session import session

    options = with_options(named, parse_options(option or []))
    model, train_data = options.pop("model"), options.pop("train_data")
    run = session(server).fit(str(model), train_data, **options)
    if detach:
        console.print(f"run [bold]{run.name}[/] started; follow it with: cliptune logs {run.name}")
        return None
    watch(run)
    if run.metrics().get("after"):
        run.display_metrics()
    path = run.save_artifact(str(out))
    console.print(f"artifact: [bold]{path}[/]\nserve it:  cliptune serve --artifact {path}")
    return run


def parse_callback_option(text: str) -> dict[str, object]:
    """A callback's JSON form from `NAME`, or from the YAML of `{NAME: {FIELD: VALUE, …}}`.

    Raises:
        BadInput: it is neither.
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInput(f"--callback {text!r} is not YAML: {' '.join(str(error).split())}") from None
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict) and len(value) == 1:
        [(name, fields)] = value.items()
        if isinstance(fields, dict) and isinstance(name, str):
            return {"name": name, **fields}
    raise BadInput(f"--callback is {text!r}: write NAME, or 'NAME: {{FIELD: VALUE}}'")


def parse_options(pairs: list[str]) -> dict[str, object]:
    """`['seed=1', 'optimizer_options={weight_decay: 0.1}']` to keyword arguments.

    Raises:
        BadInput: something is not NAME=VALUE.
    """
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise BadInput(f"--option {pair!r}: write NAME=VALUE")
        try:
            options[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise BadInput(f"--option {pair!r}: the value is not YAML: {error}") from error
    return options


def with_options(named: Mapping[str, object], options: dict[str, object]) -> dict[str, object]:
    """The arguments `named` by options of the command line, and those of `--option`.

    Both may say how CSV files are read.

    Raises:
        BadInput: `--option` gives one that the command line has an option for.
    """
    from cliptune.data.tables.options import CsvOptions

    csv_options = options.pop("csv_options", None) or {}
    if not isinstance(csv_options, dict):
        raise BadInput(f"--option csv_options={csv_options!r}: write {{delimiter: ';'}}")
    table = named["csv_options"]
    assert isinstance(table, CsvOptions)  # noqa: S101 - as the command makes it
    both = {**CsvOptions.parse(csv_options).given(), **table.given()}
    columns = replace(CsvOptions.parse(both), as_flags=table.as_flags)
    for name in options:
        if name in named:
            raise BadInput(f"--option {name}=…: it has an option of its own (see --help)")
    return {**named, **options, "csv_options": columns}
