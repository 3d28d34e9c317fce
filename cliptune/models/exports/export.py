"""Writing a model in one of the formats in which it leaves: whole or not at all, with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cliptune.files import new_folder
from cliptune.models.artifact import Artifact, open_artifact
from cliptune.models.exports import (
    to_open_clip,
    to_openvino,
    to_sentence_transformers,
    to_transformers,
)
from cliptune.models.exports.card import write_card
from cliptune.models.loading import ClipModel, load_artifact_model, load_model
from cliptune.models.names import artifact_path

Library = Literal["open_clip", "transformers", "sentence-transformers", "openvino"]
"""Whose folders `export_model` writes."""


def export_model(model: str | Path, out: Path, library: Library, *, place: str = "") -> ClipModel:
    """Write the model `model`, an artifact or a name, as the new folder `out` of `library`.

    Args:
        model: as `load_model`.
        out: nothing must be there.
        library: which format.
        place: where the folder will be found, if elsewhere: the name of a repository.

    Raises:
        AlreadyExists: something is at `out`.
        BadInput: the library has nothing for such towers; the message says which have.
        As `load_model` and `open_artifact` do.
    """
    path = artifact_path(model)
    artifact: Artifact | None = open_artifact(path) if path else None
    loaded = load_artifact_model(artifact) if artifact else load_model(model)
    with new_folder(out) as beside:
        if library == "open_clip":
            to_open_clip.write_open_clip(loaded, beside, place or str(out.absolute()))
            name, usage = "open_clip", to_open_clip.USAGE
        elif library == "transformers":
            to_transformers.write_transformers(loaded, beside)
            name, usage = "transformers", to_transformers.USAGE
        elif library == "sentence-transformers":
            to_sentence_transformers.write_sentence_transformers(loaded, beside)
            name, usage = "sentence-transformers", to_sentence_transformers.USAGE
        else:
            to_openvino.write_openvino(loaded, beside)
            name, usage = "openvino", to_openvino.USAGE
        if place:
            usage = usage.replace("ORG/NAME", place)
        write_card(loaded, beside, library=name, usage=usage, artifact=artifact)
    return loaded
