"""The models of generations: which one it is, and a copy that stays."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

from cliptune.errors import BadInput, Unavailable
from cliptune.files import make_folder, new_folder


def model_digest(model: str | Path) -> str:
    """The digest of a model; of an artifact without loading it.

    Raises:
        NotFound, BadArtifact, BadInput: as `open_artifact` and `load_model`.
    """
    from cliptune.models.artifact import open_artifact
    from cliptune.models.loading import load_model
    from cliptune.models.names import artifact_path

    if path := artifact_path(model):
        return open_artifact(path).digest
    return load_model(model).digest


def model_name(model: str | Path) -> str:
    """What people call a model: the name of its artifact's file or folder, or of its run.

    A run's artifact lies in `RUN/artifact`; other models are named as they are given, but for the
    folder of a checkpoint.
    """
    from cliptune.models.names import SEPARATOR, LocalName, OpenClipName, parse_model_name
    from cliptune.models.registry import SHORT_NAMES

    parsed = parse_model_name(model)
    if isinstance(parsed, OpenClipName) and parsed.file is not None:
        parts = parsed.architecture, parsed.tag, parsed.file.name
        return SEPARATOR.join(part for part in parts if part)
    if not isinstance(parsed, LocalName) or model in SHORT_NAMES:
        return str(model)
    path = parsed.path
    if path.suffix == ".zip":
        return path.stem
    if path.name == "artifact" and path.is_dir():
        return path.absolute().parent.name
    return path.name if path.exists() else str(model)


def model_created(model: str | Path) -> datetime | None:
    """When an artifact was written; None: it isn't one, or doesn't say."""
    from cliptune.models.artifact import open_artifact
    from cliptune.models.names import artifact_path

    if not (path := artifact_path(model)):
        return None
    try:
        return datetime.fromisoformat(str(open_artifact(path, only=()).metadata.get("created")))
    except ValueError:
        return None


def keep_model(model: str | Path, target: Path, digest: str) -> None:
    """Copy a model to the artifact folder `target`: what it came from may go.

    A copy that is there stays, unless `model` has files that it lacks: an engine that was added
    to the model since.

    Raises:
        BadInput: it isn't the model `digest` (any more).
        Unavailable: it can't be written there.
    """
    from cliptune.models.artifact import open_artifact
    from cliptune.models.artifact_writer import write_artifact
    from cliptune.models.loading import load_model
    from cliptune.models.names import artifact_path

    path = artifact_path(model)
    source = open_artifact(path) if path else None
    if target.is_dir():
        kept = open_artifact(target)
        if kept.digest == digest and not (source and source.has_more_than(kept)):
            return
    try:
        make_folder(target.parent, private=True)
        if source:
            with new_folder(target, replace=True, private=True) as beside:
                shutil.copytree(source.path, beside, dirs_exist_ok=True)
        else:
            write_artifact(load_model(model), target, replace=True, private=True)
    except OSError as error:  # shutil.Error is one
        raise Unavailable(f"{target}: the model can't be copied there ({error})") from error
    if model_digest(target) != digest:
        raise BadInput(f"{model} changed while it was copied: begin again")
