"""`cliptune models`, `download`, `export`, `push` and `fetch`: which there are, in and out."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer
from rich.table import Column, Table

from cliptune.cli.options import AsJson
from cliptune.cli.terminal import console, progress_bar

if TYPE_CHECKING:
    from cliptune.models.registry import ModelInfo


class Format(enum.StrEnum):
    """What `cliptune export` writes."""

    FOLDER = "folder"
    ZIP = "zip"
    ONNX = "onnx"
    CLIP_SERVICE = "clip-as-service"
    OPEN_CLIP = "open_clip"
    TRANSFORMERS = "transformers"
    SENTENCE_TRANSFORMERS = "sentence-transformers"
    OPENVINO = "openvino"


class Pushed(enum.StrEnum):
    """What `cliptune push` sends."""

    OPEN_CLIP = "open_clip"
    TRANSFORMERS = "transformers"
    SENTENCE_TRANSFORMERS = "sentence-transformers"


ModelOrArtifact = Annotated[str, typer.Argument(help="An artifact, or a model's name.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(epilog="Example: cliptune models siglip")(models)
    app.command(epilog="Example: cliptune download siglip-base")(download)
    app.command(
        epilog="Example: cliptune export artifacts/brave-otter-3f2a.zip --format onnx --out tuned"
    )(export)
    app.command(epilog="Example: cliptune push artifacts/brave-otter-3f2a.zip my-shop/search")(push)
    app.command(epilog="Example: cliptune fetch s3://models/tuned.zip models/tuned --digest 3f2a…")(
        fetch
    )


def models(
    words: Annotated[
        list[str] | None,
        typer.Argument(help="Show those of all models that have these words in their row."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Also all of open_clip's weights by their own names.")
    ] = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Time each network on this machine (with random weights, no download).",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List models that are worth it today, or search all.

    R@1 is text-to-image recall@1 without training, on Flickr30k and MS-COCO, as open_clip has
    measured it.

    Others are given by ARCH::TAG, as open_clip lists them; ARCH::TAG::FILE, a checkpoint of such
    weights or tuned from them; ORG/NAME of the hub; or the path of a model's folder, of a file of
    OpenAI's, or of an artifact.
    """
    from cliptune.errors import NotFound
    from cliptune.models.registry import FIGURES, MODELS, known_models

    wanted = [word.casefold() for word in words or ()]
    shown = [
        model
        for model in (known_models() if every or wanted else MODELS)
        if all(
            word in f"{model.name} {model.source} {model.description}".casefold() for word in wanted
        )
    ]
    if not shown:
        raise NotFound(f"no model has {' and '.join(map(repr, wanted))} in its name")
    speeds = {model.name: _speed(model) for model in shown} if measure else {}
    if as_json:
        import json
        from dataclasses import asdict

        rows = [asdict(model) | speeds.get(model.name, {}) for model in shown]
        typer.echo(json.dumps(rows, indent=2))
        return
    numbers = ("million", "dim", "px", "Flickr R@1", "COCO R@1")
    timed = ("pictures/s", "texts/s") if measure else ()
    table = Table(Column("name, what for", overflow="fold"), caption=f"R@1: {FIGURES}")
    for heading in (*numbers, *timed):
        table.add_column(heading, justify="right")
    table.add_column("licence", overflow="fold")
    for model in shown:
        known = speeds.get(model.name, {})
        parameters = model.parameters or known.get("parameters", 0)
        about = model.description if model in MODELS else ""
        table.add_row(
            f"[bold]{model.name}[/]" + (f"\n{about}" if about else ""),
            f"{parameters:.0f}" if parameters else "",
            str(model.output_dim),
            str(model.image_size or ""),
            _share(model.flickr),
            _share(model.coco),
            *(f"{known[key]:.1f}" if key in known else "" for key in timed),
            model.licence,
        )
    console.print(table)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}".lstrip("0")


def _speed(model: ModelInfo) -> dict[str, float]:
    """A model's speed here; empty where not even its config can be had."""
    from cliptune.errors import Unavailable
    from cliptune.inference.speed import measure_speed

    try:
        speed = measure_speed(model.source)
    except Unavailable:
        console.print(f"{model.name} is not on this machine, and can't be timed", soft_wrap=True)
        return {}
    return {
        "pictures/s": speed.pictures,
        "texts/s": speed.texts,
        "parameters": speed.parameters / 1e6,
    }


def download(
    name: Annotated[str, typer.Argument(help="A model's name, as --model takes it.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Also write it as a folder of its own, to be copied elsewhere."),
    ] = None,
) -> None:
    """Fetch a model into this machine's cache, and open it once.

    With CLIPTUNE_OFFLINE=1 no hub is asked afterwards. HF_HOME says where the cache is, HF_ENDPOINT
    which hub is asked (a mirror), HF_TOKEN for whom.
    """
    from cliptune.errors import AlreadyExists
    from cliptune.models.exports.export import export_model
    from cliptune.models.loading import load_model

    if out and out.exists():
        raise AlreadyExists(f"{out} is there already: choose another --out, or remove it")
    model = export_model(name, out, "open_clip") if out else load_model(name)
    parameters = sum(p.numel() for p in model.clip.parameters())
    console.print(
        f"[bold]{name}[/]: {parameters / 1e6:,.0f} million parameters; {model.config.summary}; "
        f"digest {model.digest[:12]}",
        soft_wrap=True,
    )
    if out:
        console.print(f"written: [bold]{out}[/], to be given in its name's place", soft_wrap=True)


def push(
    model: ModelOrArtifact,
    repository: Annotated[str, typer.Argument(help="ORGANISATION/NAME on the hub.")],
    format_: Annotated[
        Pushed, typer.Option("--format", help="By which library it is to be loaded.")
    ] = Pushed.OPEN_CLIP,
    private: Annotated[bool, typer.Option("--private", help="Seen by its owners alone.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be sent, and send nothing.")
    ] = False,
) -> None:
    """Send a model, with a card that says what it was measured at, to a repository of the hub.

    HF_TOKEN is a token that may write there; HF_ENDPOINT names another hub.
    """
    import tempfile

    from cliptune.models.exports.export import export_model
    from cliptune.models.exports.push import push_folder, repository_name

    target = repository_name(repository)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        export_model(model, folder, format_.value, place=target)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        for file in files:
            size = file.stat().st_size / 1e6
            console.print(f"{size:10,.2f} MB  {file.relative_to(folder)}", highlight=False)
        if dry_run:
            console.print((folder / "README.md").read_text(encoding="utf-8"), markup=False)
            console.print(f"nothing was sent to [bold]{target}[/] (--dry-run)")
            return
        where = push_folder(folder, target, private=private, message="Model tuned by cliptune")
    console.print(f"sent: [bold]{where}[/]", soft_wrap=True)


def export(
    model: ModelOrArtifact,
    out: Annotated[Path, typer.Option(help="The folder or file to write.")],
    format_: Annotated[
        Format,
        typer.Option(
            "--format",
            help="folder: torch weights; onnx: ONNX too; zip: a folder in one file (all three are "
            "artifacts, for cliptune); open_clip, transformers, sentence-transformers, openvino: "
            "what those libraries load; clip-as-service: what its server takes as model_path.",
        ),
    ] = Format.ONNX,
) -> None:
    """Write a model as an artifact, with or without ONNX, or for another library."""
    import shutil
    import tempfile

    from cliptune.errors import AlreadyExists
    from cliptune.files import zip_folder
    from cliptune.models.artifact import open_artifact
    from cliptune.models.artifact_writer import write_artifact
    from cliptune.models.exports.export import Library, export_model
    from cliptune.models.loading import load_model
    from cliptune.models.names import artifact_path

    if out.exists():
        raise AlreadyExists(f"{out} is there already: choose another --out, or remove it")
    if format_.value in get_args(Library):
        export_model(model, out, cast("Library", format_.value))
        console.print(f"written: [bold]{out}[/]", soft_wrap=True)
        return
    # Read first: nothing is made, not even the folder to write to, for a model that isn't there.
    path = artifact_path(model) if format_ is Format.ZIP else None
    source = open_artifact(path) if path else None
    loaded = None if source else load_model(model)
    if format_ is Format.CLIP_SERVICE:
        from cliptune.models.exports.to_clip_service import write_clip_service

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
            tuned = artifact_path(model)
            calibration = open_artifact(tuned).calibration if tuned else None
            write_artifact(loaded, folder, calibration=calibration, to_onnx=format_ is Format.ONNX)
        if format_ is Format.ZIP:
            zip_folder(folder, out)
        else:
            folder.rename(out)
    console.print(f"written: [bold]{out}[/]")


def _parent(out: Path) -> Path:
    parent = out.resolve().parent
    parent.mkdir(parents=True, exist_ok=True)
    return parent


def fetch(
    source: Annotated[
        str, typer.Argument(help="A zip at s3://, gs:// or https://, or a path of an artifact.")
    ],
    target: Annotated[Path, typer.Argument(help="The folder that it is to be.")],
    digest: Annotated[
        str,
        typer.Option(
            help="The model's, as metadata.yml in the artifact has it; or sha256: and what "
            "sha256sum prints of checksums.sha256 in it, for all files."
        ),
    ],
) -> None:
    """Bring an artifact to this machine, if it is the one that is meant.

    The folder is there whole or not at all, whatever happens meanwhile. Where it is there already,
    nothing is fetched. Who you are is taken from where the store's own tools take it, such as
    AWS_ACCESS_KEY_ID; AWS_ENDPOINT_URL names another S3 than Amazon's.
    """
    from cliptune.models.fetching import fetch_artifact

    with progress_bar() as show:
        artifact = fetch_artifact(
            source, target, digest, tell=lambda done, total: show("bytes", done, total)
        )
    console.print(
        f"[bold]{target}[/]: a tuned {artifact.metadata['base_model']}, digest {artifact.digest}",
        soft_wrap=True,
    )
