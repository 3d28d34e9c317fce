"""`cliptune quantize`: a faster engine for an artifact, if its search stays as good."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated

import typer

from cliptune.cli.inputs import read_searched, table_options_of
from cliptune.cli.options import Labelled, NewArtifact, Searched, Tuned, with_table_options
from cliptune.cli.terminal import console

if TYPE_CHECKING:
    from cliptune.data.tables.options import CsvOptions


class Precision(enum.StrEnum):
    """Of the engine that is added."""

    INT8 = "int8"
    BF16 = "bf16"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        epilog="Example: cliptune quantize artifacts/brave-otter-3f2a.zip --queries held-out.csv "
        "--out artifacts/brave-otter-int8.zip"
    )(with_table_options(quantize))


def quantize(
    artifact: Tuned,
    queries: Labelled,
    out: NewArtifact,
    index: Searched = None,
    precision: Annotated[
        Precision, typer.Option(help="int8: on CPUs; bf16: on GPUs, and CPUs that have it.")
    ] = Precision.INT8,
    tolerance: Annotated[
        float, typer.Option(help="The part of recall@10 that may be lost.")
    ] = 0.01,
    device: Annotated[str | None, typer.Option(help="Where bf16 is measured.")] = None,
    *,
    table: CsvOptions,
) -> None:
    """Add a faster engine to an artifact, if recall@10 stays as good as in fp32.

    Measured are both towers in the reduced precision, and reduced queries on pictures embedded
    in fp32, as after an upgrade of a service with an index. The figures are kept in the artifact.
    """
    from cliptune.evaluation.quality_gate import add_engine
    from cliptune.evaluation.tables import describe_counts
    from cliptune.files import folder_or_zip
    from cliptune.settings import Settings

    with folder_or_zip(out) as folder:
        columns = table.after(table_options_of(artifact))
        query_docs, index_docs = read_searched(queries, index, columns, readable=True)
        with console.status(f"measuring {precision}"):
            report = add_engine(
                artifact,
                folder,
                precision.value,
                query_docs,
                index_docs,
                tolerance=tolerance,
                device=device,
                pixel_cache=Settings.read().cache_dir / "pixels",
            )
    console.print(
        f"recall@10: fp32 {report.fp32:.4f}, {precision} {report.reduced:.4f}, "
        f"{precision} queries on an fp32 index {report.mixed:.4f} "
        f"({describe_counts(report.counts())})\n"
        f"measured by {' and '.join(report.engines)}; written: [bold]{out}[/]\n"
        f"serve it: cliptune serve --artifact {out} --precision {precision}"
    )
