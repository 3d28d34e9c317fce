"""`cliptune report`: what a run has changed, as one HTML file to show to others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cliptune.cli.inputs import load_pretrained, load_tuned, read_searched, table_options_of
from cliptune.cli.options import with_table_options
from cliptune.cli.terminal import console, progress_bar
from cliptune.errors import BadInput

if TYPE_CHECKING:
    from docarray import DocList

    from cliptune.data.tables.options import CsvOptions
    from cliptune.documents import ClipDoc
    from cliptune.evaluation.report import About, Comparison
    from cliptune.models.loading import ClipModel
    from cliptune.runs import Run


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(epilog="Example: cliptune report brave-otter-3f2a --open")(
        with_table_options(report)
    )


def report(
    name: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's name, or the path of an artifact.")
    ],
    out: Annotated[Path | None, typer.Option(help="The file; default: RUN-report.html.")] = None,
    queries: Annotated[
        str | None,
        typer.Option(
            help="Texts with labels: a CSV or a data set's name; default: those of the run's "
            "EvaluationCallback."
        ),
    ] = None,
    index: Annotated[
        str | None, typer.Option(help="The pictures to search; default: those of the queries.")
    ] = None,
    before: Annotated[
        str | None, typer.Option(help="The model to compare with; default: what was fine-tuned.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="k: results that count; default: the run's, or 20.")
    ] = None,
    training_data: Annotated[
        bool,
        typer.Option(
            "--training-data",
            help="Look for duplicates and wrong labels in the run's training data too, and for "
            "training pictures among those searched. Both models encode all of it.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the confidence intervals' draws.")] = 0,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    *,
    table: CsvOptions,
) -> None:
    """Write what fine-tuning has changed as one HTML file.

    It has the curves, metrics before and after with confidence intervals, the queries that got
    better and worse with their pictures, what smaller embeddings find, and suspects:
    near-duplicates and wrong labels.
    """
    if index is not None and queries is None:
        raise BadInput(f"--index {index} needs --queries")
    from cliptune.evaluation.report import compare, write_report
    from cliptune.models.artifact import open_artifact
    from cliptune.sdk.models import find_artifact
    from cliptune.settings import Settings

    run = _run(name)
    if training_data and run is None:
        raise BadInput(f"--training-data needs a run: {name} is an artifact")
    tuned = load_tuned(name)
    start = run.config["options"]["model"] if run is not None else None
    pretrained = load_pretrained(tuned, before or start)
    searched = (
        _given(queries, index, table.after(table_options_of(name)))
        if queries is not None
        else _of_run(run, name)
    )
    with progress_bar() as progress:
        comparison = compare(
            pretrained,
            tuned,
            searched.queries,
            searched.index,
            train=_training_data(run) if training_data else None,
            limit=limit or searched.limit,
            lengths=open_artifact(find_artifact(name), only=()).matryoshka,
            seed=seed,
            pixel_cache=Settings.read().cache_dir / "pixels",
            on_progress=progress,
        )
        progress("Writing the report", 0, 1)
        about = _about(name, run, pretrained, tuned, comparison, searched.described)
        path = write_report(comparison, about, out or Path(f"{Path(name).stem}-report.html"))
    _summarise(comparison, path)
    if show:
        typer.launch(str(path.absolute()))


def _run(name: str) -> Run | None:
    """The run of that name; None for an artifact's path."""
    from cliptune.runs import get_run

    if Path(name).exists():
        return None
    experiment, slash, rest = name.partition("/")
    return get_run(rest, experiment) if slash else get_run(name)


@dataclass(frozen=True)
class Searches:
    """What both models are asked."""

    queries: DocList[ClipDoc]
    index: DocList[ClipDoc]
    limit: int
    """k: results that count."""
    described: str
    """Where they are from, for people."""


def _given(queries: str, index: str | None, table: CsvOptions) -> Searches:
    described = f"{queries}, searching {index or 'its own pictures'}"
    return Searches(*read_searched(queries, index, table), limit=20, described=described)


def _of_run(run: Run | None, name: str) -> Searches:
    """What the run's first text-to-picture `EvaluationCallback` searches."""
    from cliptune.models.artifact import TEXT_TOWER, VISION_TOWER
    from cliptune.runs.documents import referred_documents

    for callback in run.config["callbacks"] if run is not None else []:
        towers = callback.get("model"), callback.get("index_model")
        if callback["name"] == "EvaluationCallback" and towers == (TEXT_TOWER, VISION_TOWER):
            assert run is not None  # noqa: S101
            queries = referred_documents(callback["query_data"], run.folder)
            given = callback.get("index_data")
            return Searches(
                queries,
                referred_documents(given, run.folder) if given else queries,
                limit=callback["limit"],
                described="those of the run's EvaluationCallback",
            )
    raise BadInput(
        f"{name} has no EvaluationCallback from texts to pictures: give --queries (and --index)"
    )


def _training_data(run: Run | None) -> DocList[ClipDoc]:
    from cliptune.runs.documents import referred_documents

    assert run is not None  # noqa: S101
    return referred_documents(run.config["train_data"], run.folder)


def _about(
    name: str,
    run: Run | None,
    before: ClipModel,
    after: ClipModel,
    comparison: Comparison,
    searched: str,
) -> About:
    """The report's facts; a run adds its curves and options."""
    from importlib.metadata import version

    from cliptune.evaluation.report import About

    facts = {
        "model before": f"{before.name}, digest {before.digest}",
        "model after": f"{name}, digest {after.digest}",
        "queries": searched,
        "logit scale": f"{_scale(before):.2f} before, {_scale(after):.2f} after",
        "versions": ", ".join(
            f"{package} {version(package)}" for package in ("cliptune", "torch", "open_clip_torch")
        ),
    }
    if run is None:
        return About(title=name, facts=facts)
    record = run.record()
    facts |= {
        "run": f"{run.artifact_id}, started {record.started}, ended {record.ended}",
        "description": run.description or "–",
    }
    if record.details:
        facts["status"] = f"{record.status}: {record.details}"
    metrics = run.metrics()["before"]
    return About(run.name, facts, run.config["options"], metrics, run.history())


def _scale(model: ClipModel) -> float:
    return float(model.clip.logit_scale.detach().exp())


def _summarise(comparison: Comparison, path: Path) -> None:
    from cliptune.evaluation.tables import describe_counts

    change = comparison.changes["reciprocal_rank"]
    suspects = sum(len(each.duplicates) + len(each.mislabelled) for each in comparison.faults)
    console.print(
        f"mean reciprocal rank {change.before.mean:.4f} → {change.after.mean:.4f} "
        f"({change.difference.mean:+.4f}, 95 % interval {change.difference.low:+.4f} to "
        f"{change.difference.high:+.4f}); {suspects} suspects in the data",
        highlight=False,
    )
    console.print(describe_counts(comparison.after.counts()), highlight=False)
    console.print(f"written: [bold]{path}[/]")
