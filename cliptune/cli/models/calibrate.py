"""`cliptune calibrate`: what a model's cosines mean, measured and kept in its artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.table import Table

from cliptune.cli.inputs import read_searched, table_options_of
from cliptune.cli.options import (
    Labelled,
    NewArtifact,
    ResultsThatCount,
    Searched,
    Tuned,
    with_table_options,
)
from cliptune.cli.terminal import console, progress_bar

if TYPE_CHECKING:
    from cliptune.data.tables.options import CsvOptions
    from cliptune.evaluation.calibration import Reliability


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        epilog="Example: cliptune calibrate artifacts/brave-otter-3f2a.zip --queries held-out.csv "
        "--out artifacts/brave-otter-calibrated.zip"
    )(with_table_options(calibrate))


def calibrate(
    artifact: Tuned,
    queries: Labelled,
    out: NewArtifact,
    index: Searched = None,
    limit: ResultsThatCount = 20,
    *,
    table: CsvOptions,
) -> None:
    """Measure which cosine means that a result is relevant, so that searches can be cut off there.

    The artifact written is served with min_relevance. Runs with an EvaluationCallback are
    calibrated by themselves. Queries should be like your users', and the index as large as yours:
    among more documents, wrong ones come nearer.
    """
    from cliptune.evaluation.calibration import calibrate as fit
    from cliptune.evaluation.search_task import SearchTask
    from cliptune.evaluation.tables import describe_counts
    from cliptune.files import folder_or_zip
    from cliptune.inference.engines import both_towers
    from cliptune.models.artifact import open_artifact
    from cliptune.models.artifact_writer import add_calibration
    from cliptune.settings import Settings

    with folder_or_zip(out) as folder:
        source = open_artifact(artifact)
        columns = table.after(table_options_of(artifact))
        query_docs, index_docs = read_searched(queries, index, columns)
        towers = both_towers(artifact)
        with progress_bar() as progress:
            task = SearchTask.prepare(
                *towers,
                query_docs,
                index_docs,
                pixel_cache=Settings.read().cache_dir / "pixels",
                tell=progress,
            )
            evaluation = task.measure(*task.embed(*towers, progress), limit=limit)
        measured = fit(evaluation)
        add_calibration(source, folder, measured.calibration)
    console.print(_cuts(measured))
    console.print(
        f"expected calibration error {measured.calibration.error:.4f} on queries held out "
        f"({describe_counts(evaluation.counts())})\nwritten: [bold]{out}[/]",
        highlight=False,
    )


def _cuts(measured: Reliability) -> Table:
    table = Table("min_relevance", "cosine", "of what is shown right", "right kept", "answered")
    for cut in measured.cuts:
        table.add_row(
            f"{cut.min_relevance:g}",
            f"{cut.cosine:.3f}",
            "–" if cut.right is None else f"{cut.right:.1%}",
            f"{cut.kept:.1%}",
            f"{cut.answered:.1%}",
        )
    return table
