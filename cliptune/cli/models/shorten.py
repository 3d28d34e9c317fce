"""`cliptune shorten`: a model with shorter embeddings, and what is still found by them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cliptune.cli.inputs import read_searched, table_options_of
from cliptune.cli.options import ResultsThatCount, Searched, Tuned, with_table_options
from cliptune.cli.terminal import console, progress_bar
from cliptune.errors import BadInput

if TYPE_CHECKING:
    from docarray import DocList

    from cliptune.data.tables.options import CsvOptions
    from cliptune.documents import ClipDoc
    from cliptune.evaluation.retrieval import Evaluation
    from cliptune.quantization import OutputDtype

_SHOWN = ("recall_at_k_textbook", "reciprocal_rank", "ndcg_at_k_textbook")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        epilog="Example: cliptune shorten artifacts/brave-otter-3f2a.zip --queries held-out.csv; "
        "then with --dimensions 128 --out artifacts/brave-otter-128.zip"
    )(with_table_options(shorten))


def shorten(
    artifact: Tuned,
    queries: Annotated[
        str | None,
        typer.Option(help="Texts with labels, to measure by: a CSV or a data set's name."),
    ] = None,
    index: Searched = None,
    dimensions: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Numbers of an embedding that are kept; may be given several times to measure. "
            "Measured without it: those the model was trained for (matryoshka), or its halves.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder, or the .zip, to write the shorter model to.")
    ] = None,
    limit: ResultsThatCount = 20,
    *,
    table: CsvOptions,
) -> None:
    """Make a model with shorter embeddings: its index takes less memory and time.

    The first numbers of an embedding are kept; stored as int8 or signs (ubinary) they take still
    less, see the table. Train with -o 'matryoshka=[64,128,256]' so that
    these find nearly as much as the whole; of other models they find much less. With --queries it
    is shown how much.
    """
    if queries is None and out is None:
        raise BadInput("shorten: give --queries to measure by, or --out to write a model, or both")
    if out is not None and len(dimensions or ()) != 1:
        raise BadInput("--out: give one --dimensions, the length of the embeddings to write")
    if queries is not None:
        columns = table.after(table_options_of(artifact))
        query_docs, index_docs = read_searched(queries, index, columns)
        console.print(_table(_measured(artifact, query_docs, index_docs, dimensions, limit)))
    if out is not None and dimensions:
        _write(artifact, dimensions[0], out)


def _measured(
    artifact: Path,
    queries: DocList[ClipDoc],
    index: DocList[ClipDoc],
    dimensions: list[int] | None,
    limit: int,
) -> dict[tuple[int, OutputDtype], Evaluation]:
    from cliptune.evaluation.search_task import SearchTask
    from cliptune.evaluation.shortening import default_lengths, measure_shortened
    from cliptune.inference.engines import both_towers
    from cliptune.models.artifact import open_artifact
    from cliptune.settings import Settings

    source = open_artifact(artifact)
    towers = both_towers(artifact)
    lengths = dimensions or source.matryoshka or default_lengths(source.output_dim)
    with progress_bar() as progress:
        pixels = Settings.read().cache_dir / "pixels"
        task = SearchTask.prepare(*towers, queries, index, pixel_cache=pixels, tell=progress)
        embedded = task.embed(*towers, progress)
        return measure_shortened(task, embedded, lengths, limit=limit)


def _table(measured: dict[tuple[int, OutputDtype], Evaluation]) -> Table:
    from cliptune.evaluation.shortening import bytes_of

    table = Table("dimensions", "output_dtype", *_SHOWN, "recall kept", "bytes a document")
    whole = next(iter(measured.values())).metrics[_SHOWN[0]]
    for (length, output_dtype), evaluation in measured.items():
        values = [evaluation.metrics[name] for name in _SHOWN]
        kept = f"{values[0] / whole:.1%}" if whole else "–"
        size = f"{bytes_of(length, output_dtype):,}"
        table.add_row(str(length), output_dtype, *(f"{v:.4f}" for v in values), kept, size)
    return table


def _write(artifact: Path, dimensions: int, out: Path) -> None:
    from cliptune.files import folder_or_zip
    from cliptune.models.artifact import open_artifact
    from cliptune.models.artifact_writer import write_artifact
    from cliptune.models.loading import load_model
    from cliptune.models.shorten import shorten as shortened

    source = open_artifact(artifact)
    model = shortened(load_model(artifact), dimensions)
    with folder_or_zip(out) as folder:
        config = {**source.config, "dimensions": dimensions, "matryoshka": []}
        written = write_artifact(model, folder, config=config, to_onnx=source.has_onnx)
    console.print(
        f"{source.output_dim} -> {written.output_dim} numbers; written: [bold]{out}[/]\n"
        f"serve it: cliptune serve --artifact {out}; an index of the longer ones is brought over "
        "by cliptune swap. Calibration and faster engines are to be made anew.",
        highlight=False,
    )
