"""`cliptune models` and `export`: which models there are, and artifacts in other forms."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cliptune.cli.terminal import console


class Format(enum.StrEnum):
    """What `cliptune export` writes."""

    FOLDER = "folder"
    ZIP = "zip"
    ONNX = "onnx"
    CLIP_SERVICE = "clip-as-service"


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(epilog="Example: cliptune models --all")(models)
    app.command(
        epilog="Example: cliptune export artifacts/brave-otter-3f2a.zip --format onnx --out tuned"
    )(export)


def models(
    every: Annotated[
        bool, typer.Option("--all", help="Also open_clip's weights by their own names.")
    ] = False,
) -> None:
    """List the models that can be fine-tuned.

    Others are given by ARCH::TAG, as open_clip lists them; ARCH::TAG::FILE, a checkpoint of such
    weights or tuned from them; hf-hub:ORG/NAME; or the path of a model's folder or an artifact.
    """
    from cliptune.models.registry import MODELS, known_models

    table = Table("name", "task", "dim", "architecture", "description")
    for model in known_models() if every else MODELS:
        cells = (model.task, str(model.output_dim), model.architecture, model.description)
        table.add_row(model.name, *cells)
    console.print(table)


def export(
    model: Annotated[str, typer.Argument(help="An artifact, or a model's name.")],
    out: Annotated[Path, typer.Option(help="The folder or file to write.")],
    format_: Annotated[
        Format,
        typer.Option(
            "--format",
            help="folder: torch weights; onnx: ONNX too; zip: a folder in one file; "
            "clip-as-service: what its server takes as model_path.",
        ),
    ] = Format.ONNX,
) -> None:
    """Write a model as an artifact, with or without ONNX, or for clip-as-service."""
    import shutil
    import tempfile

    from cliptune.errors import AlreadyExists
    from cliptune.files import zip_folder
    from cliptune.models.artifact import open_artifact
    from cliptune.models.artifact_writer import write_artifact
    from cliptune.models.loading import load_model
    from cliptune.models.names import artifact_path

    if out.exists():
        raise AlreadyExists(f"{out} is there already: choose another --out, or remove it")
    # Read first: nothing is made, not even the folder to write to, for a model that isn't there.
    path = artifact_path(model) if format_ is Format.ZIP else None
    source = open_artifact(path) if path else None
    loaded = None if source else load_model(model)
    if format_ is Format.CLIP_SERVICE:
        from cliptune.models.clip_service import write_clip_service

        _parent(out)
        assert loaded is not None  # noqa: S101
        name = write_clip_service(loaded, out)
        console.print(
            f"written: [bold]{out}[/]; in clip-as-service's YAML:\n"
            f"  with: {{name: '{name}', model_path: {out.resolve()}}}",
            soft_wrap=True,
        )
        return
    with tempfile.TemporaryDirectory(dir=_parent(out)) as scratch:
        folder = Path(scratch) / "artifact"
        if source:
            shutil.copytree(source.path, folder)
        elif loaded:
            write_artifact(loaded, folder, to_onnx=format_ is Format.ONNX)
        if format_ is Format.ZIP:
            zip_folder(folder, out)
        else:
            folder.rename(out)
    console.print(f"written: [bold]{out}[/]")


def _parent(out: Path) -> Path:
    parent = out.resolve().parent
    parent.mkdir(parents=True, exist_ok=True)
    return parent
