"""A folder that sentence-transformers loads, `SentenceTransformer(FOLDER)`: both towers in one."""

from __future__ import annotations

import json
from pathlib import Path

from cliptune.errors import BadInput
from cliptune.models.exports.to_transformers import kind_of, write_transformers
from cliptune.models.loading import ClipModel

USAGE = """
from PIL import Image
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("ORG/NAME")  # or this folder's path
embeddings = model.encode(["red boots", Image.open("boots.jpg")], normalize_embeddings=True)
"""
_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.CLIPModel"},
]
_ABOUT = {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"}


def write_sentence_transformers(model: ClipModel, folder: Path) -> None:
    """Write `model` into the empty folder `folder`: transformers' files, and what its modules are.

    Raises:
        BadInput: it is no CLIP of transformers: sentence-transformers pads a batch's texts to its
            longest, and a SigLIP reads all of its padding.
        Unavailable: `cliptune[hf]` is not installed.
    """
    if kind_of(model) != "clip":
        raise BadInput(
            f"{model.name} isn't a CLIP whose texts may be padded to any length, as "
            "sentence-transformers pads them: use --format transformers"
        )
    write_transformers(model, folder)
    for name, content in (
        ("modules.json", _MODULES),
        ("config_sentence_transformers.json", _ABOUT),
    ):
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
