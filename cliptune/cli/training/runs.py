"""`cliptune fit`, `runs`, `logs`, `evaluate`: training and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cliptune.cli.conditions import FailIf, fail_if, holding, parse_conditions
from cliptune.cli.inputs import read_searched, table_options_of
from cliptune.cli.options import (
    AsJson,
    GroupedBy,
    Labelled,
    ResultsThatCount,
    TrainAddress,
    Yes,
    with_table_options,
)
from cliptune.cli.terminal import confirm, console, watch
from cliptune.errors import BadInput

if TYPE_CHECKING:
    from cliptune.callback import Callback
    from cliptune.data.tables.options import CsvOptions
    from cliptune.runs.session import AnyRun, Session
    from cliptune.runs.summary import RunSummary


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(epilog="Example: cliptune fit products.csv --text-column title --epochs 5")(
        with_table_options(fit)
    )
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
    app.command(
        epilog="Example: cliptune evaluate artifacts/brave-otter-3f2a.zip "
        "--queries queries.csv --index index.csv"
    )(with_table_options(evaluate))


def fit(
    train_data: Annotated[
        str, typer.Argument(help="A CSV, a folder of pictures, or the name of a data set.")
    ],
    model: Annotated[str, typer.Option(help="See `cliptune models --help`.")] = "builtin",
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
    learning_rate: Annotated[float | None, typer.Option()] = None,
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
    run_name: Annotated[str | None, typer.Option("--name", help="The run's name.")] = None,
    experiment: Annotated[str, typer.Option(help="Its group of runs.")] = "default",
    out: Annotated[Path, typer.Option(help="Where the artifact is saved.")] = Path("artifacts"),
    detach: Annotated[bool, typer.Option("--detach", help="Start it and return.")] = False,
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
    options = with_options(named, parse_options(option or []))
    model, train_data = options.pop("model"), options.pop("train_data")
    run = _session(server).fit(str(model), train_data, **options)
    if detach:
        console.print(f"run [bold]{run.name}[/] started; follow it with: cliptune logs {run.name}")
        return None
    watch(run)
    if run.metrics().get("after"):
        run.display_metrics()
    path = run.save_artifact(str(out))
    console.print(f"artifact: [bold]{path}[/]\nserve it:  cliptune serve --artifact {path}")
    return run


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
    name: Annotated[str, typer.Argument(help="The run's name.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the run ends.")] = False,
    experiment: Annotated[str | None, typer.Option()] = None,
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
    name: Annotated[str, typer.Argument(help="The run's name.")],
    experiment: Annotated[str | None, typer.Option()] = None,
    server: TrainAddress = None,
) -> None:
    """Stop a run; it keeps a checkpoint to resume from."""
    run = _session(server).get_run(name, experiment)
    run.cancel()
    console.print(f"run {run.name}: {run.status()['status']}")


def resume(
    name: Annotated[str, typer.Argument(help="The run's name.")],
    experiment: Annotated[str | None, typer.Option()] = None,
) -> None:
    """Go on with a run that was cancelled or killed, from its last checkpoint."""
    run = _session(None).get_run(name, experiment)
    run.resume()
    watch(run)


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
            shown["groups"] = {each: [asdict(g) for g in found] for each, found in groups.items()}
        if conditions:
            shown["failed"] = [str(one) for one in failed]
        typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
    else:
        console.print(metrics_table(figures, title=f"{model}, k = {limit}"))
        for each, found in groups.items():
            console.print(groups_table(found, title=f"{HEADLINE} by {each}"))
        console.print(describe_counts(result.counts()), highlight=False)
    fail_if(failed, figures)


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


def _session(server: str | None) -> Session:
    """Runs of this machine, or of the train Flow at `server`."""
    from cliptune.sdk.session import session

    return session(server)
