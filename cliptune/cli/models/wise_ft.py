"""`cliptune wise-ft`: measure mixtures of the pre-trained and the fine-tuned weights, keep one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cliptune.cli.inputs import load_pretrained, load_tuned, read_searched, table_options_of
from cliptune.cli.options import ResultsThatCount, with_table_options
from cliptune.cli.terminal import console, progress_bar
from cliptune.errors import AlreadyExists, BadInput

if TYPE_CHECKING:
    from cliptune.data.tables.options import CsvOptions
    from cliptune.evaluation.wise_ft import Pick, Point
    from cliptune.models.artifact import RunMetrics
    from cliptune.models.loading import ClipModel

PREFIX = "clip-text-to-clip-vision_"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        "wise-ft",
        epilog="Example: cliptune wise-ft brave-otter-3f2a --eval validation.csv "
        "--robust everything-else.csv --save artifacts/brave-otter-mixed",
    )(with_table_options(wise_ft))


def wise_ft(
    run: Annotated[str, typer.Argument(help="A run's name, or the path of an artifact.")],
    queries: Annotated[
        str,
        typer.Option(
            "--eval",
            "--queries",
            help="In-domain texts with labels: a CSV or a data set's name. Not those that you "
            "will report.",
        ),
    ],
    index: Annotated[
        str | None,
        typer.Option(
            "--eval-index", "--index", help="The pictures to search; default: those of --eval."
        ),
    ] = None,
    robust: Annotated[
        str | None, typer.Option(help="Texts of another kind, which should still be found.")
    ] = None,
    robust_index: Annotated[
        str | None, typer.Option(help="Their pictures; default: those of --robust.")
    ] = None,
    alphas: Annotated[
        str,
        typer.Option(help="start:stop:step, stop included, or numbers with commas, in [0, 1]."),
    ] = "0:1:0.1",
    metric: Annotated[
        str, typer.Option(help="What the alpha is picked by: a name that `evaluate` prints.")
    ] = "reciprocal_rank",
    max_loss: Annotated[
        float,
        typer.Option(
            help="The part of the pre-trained model's robust metric that may be lost: 0.01 is 1 %."
        ),
    ] = 0.01,
    alpha: Annotated[
        float | None, typer.Option(help="Take this alpha, whatever the rule says.")
    ] = None,
    limit: ResultsThatCount = 20,
    before: Annotated[
        str | None,
        typer.Option(help="The pre-trained model; default: the artifact's base model."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder for wise-ft.json and frontier.png.")] = Path(
        "wise-ft"
    ),
    save: Annotated[
        Path | None, typer.Option(help="Write the picked mixture as an artifact to this folder.")
    ] = None,
    to_onnx: Annotated[
        bool, typer.Option("--onnx", help="With --save: export both towers to ONNX too.")
    ] = False,
    *,
    table: CsvOptions,
) -> None:
    """Mix the pre-trained and the fine-tuned weights (WiSE-FT) and pick the best mixture.

    Alpha 0 is the pre-trained model, 1 the fine-tuned one; the paper's default is 0.5.

    Picked is the alpha with the best in-domain metric among those that lose at most --max-loss of
    the pre-trained model's robust metric. Without --robust, it is the best in-domain alpha. Of
    equally good ones, the smallest.
    """
    if robust_index is not None and robust is None:
        raise BadInput(f"--robust-index {robust_index} needs --robust")
    if to_onnx and save is None:
        raise BadInput("--onnx needs --save")
    if save is not None and save.exists():
        raise AlreadyExists(f"{save} is there already: choose another --save, or remove it")
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out {out} is a file, not a folder")
    from cliptune.evaluation.tables import counted_lines
    from cliptune.evaluation.wise_ft import Pick, Rule, parse_alphas, sweep
    from cliptune.evaluation.wise_ft_plot import frontier_plot
    from cliptune.files import write_text
    from cliptune.models.wise_ft import check_alpha
    from cliptune.settings import Settings

    rule = Rule(metric, max_loss)
    measured = parse_alphas(alphas) + ([] if alpha is None else [check_alpha(alpha)])
    tuned = load_tuned(run)
    pretrained = load_pretrained(tuned, before)
    table = table.after(table_options_of(run))
    in_domain = read_searched(queries, index, table, "in-domain ")
    elsewhere = None
    if robust is not None:
        elsewhere = read_searched(robust, robust_index, table, "robust ")
    with progress_bar() as show:
        points = sweep(
            pretrained,
            tuned,
            measured,
            in_domain,
            elsewhere,
            limit=limit,
            pixel_cache=Settings.read().cache_dir / "pixels",  # that training uses
            on_progress=show,
        )
    pick = rule.pick(points)
    if alpha is not None:
        pick = Pick(alpha, f"it was asked for; the rule's is {pick.alpha:g}, {pick.reason}")
    record = {
        "pretrained": {"name": pretrained.name, "digest": pretrained.digest},
        "finetuned": {"name": tuned.name, "digest": tuned.digest},
        "in_domain": {"queries": queries, "index": index or queries},
        "robust": {"queries": robust, "index": robust_index or robust} if robust else None,
        "limit": limit,
        "rule": asdict(rule),
        "picked": asdict(pick),
        "points": [asdict(point) for point in points],
    }
    write_text(out / "wise-ft.json", json.dumps(record, indent=2))
    frontier_plot(points, pick.alpha, out / "frontier.png", rule, title=f"{run}, k = {limit}")
    console.print(_table(points, pick, metric, f"{run}, k = {limit}"))
    counts = {"in-domain": points[0].in_domain_counts, "robust": points[0].robust_counts}
    for line in counted_lines({role: each for role, each in counts.items() if each}):
        console.print(line, highlight=False)
    console.print(f"alpha [bold]{pick.alpha:g}[/]: {pick.reason}", highlight=False)
    console.print(f"written: [bold]{out / 'wise-ft.json'}[/], [bold]{out / 'frontier.png'}[/]")
    if save is not None:
        config = {"wise_ft": {**record, "alpha": pick.alpha}, "csv_options": table.to_keep()}
        _save(pretrained, tuned, pick.alpha, config, points, save, to_onnx)
        console.print(f"artifact: [bold]{save}[/]\nserve it:  cliptune serve --artifact {save}")


def _table(points: Sequence[Point], pick: Pick, metric: str, title: str) -> Table:
    table = Table(title=title, header_style="bold")
    table.add_column("alpha", justify="right")
    table.add_column(f"in-domain {metric}", justify="right")
    if points[0].robust is not None:
        table.add_column(f"robust {metric}", justify="right")
    table.add_column("")
    for point in points:
        values = [point.in_domain[metric], *([point.robust[metric]] if point.robust else [])]
        is_picked = point.alpha == pick.alpha
        end = {0.0: "pre-trained", 1.0: "fine-tuned"}.get(point.alpha)
        words = ", ".join(filter(None, [end, "picked" if is_picked else None]))
        cells = [f"{point.alpha:g}", *(f"{value:.4f}" for value in values), words]
        table.add_row(*cells, style="bold green" if is_picked else "")
    return table


def _save(
    pretrained: ClipModel,
    tuned: ClipModel,
    alpha: float,
    config: Mapping[str, object],
    points: Sequence[Point],
    folder: Path,
    to_onnx: bool,
) -> None:
    """Write the mixture as an artifact; `config.yml` and `metrics.yml` say how it was chosen."""
    from cliptune.models.artifact_writer import write_artifact
    from cliptune.models.wise_ft import mix_models

    mixed = mix_models(pretrained, tuned, alpha)
    mixed.clip.cpu()
    by_alpha = {point.alpha: point.in_domain for point in points}
    metrics: RunMetrics = {
        "before": _prefixed(by_alpha.get(0.0, {})),
        "after": _prefixed(by_alpha[alpha]),
        "evaluations": {PREFIX[:-1]: points[0].in_domain_counts or {}},
    }
    write_artifact(mixed, folder, config=config, metrics=metrics, to_onnx=to_onnx)


def _prefixed(metrics: dict[str, float]) -> dict[str, float]:
    return {f"{PREFIX}{name}": value for name, value in metrics.items()}
