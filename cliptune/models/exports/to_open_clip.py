"""A folder that open_clip loads: `open_clip.create_model_and_transforms('local-dir:FOLDER')`."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from safetensors.torch import save_file

from cliptune.models.loading import ClipModel
from cliptune.models.names import CONFIG_FILE
from cliptune.models.openclip import OpenClipConfig
from cliptune.models.tokenizers import save_text_config, save_tokenizer

USAGE = """
import open_clip

name = "hf-hub:ORG/NAME"  # or "local-dir:" and this folder's path
model, _, preprocess = open_clip.create_model_and_transforms(name)
tokenizer = open_clip.get_tokenizer(name)
"""


def write_open_clip(model: ClipModel, folder: Path, place: str) -> None:
    """Write `model` into the empty folder `folder`.

    `place` is the folder's path when it is done, or the repository's name: open_clip looks there
    for a Hugging Face text tower's config and tokenizer.
    """
    state = {
        name: value.detach().cpu().contiguous() for name, value in model.clip.state_dict().items()
    }
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    save_tokenizer(model.tokenizer, folder, model.folder)
    save_text_config(model.clip, folder)
    written = {
        "model_cfg": config_for(model, place),
        "preprocess_cfg": model.preprocessing.to_dict(),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(written, indent=2), encoding="utf-8")


def config_for(model: ClipModel, place: str) -> OpenClipConfig:
    """The config as open_clip needs it where the model's files are at `place`."""
    model_cfg = copy.deepcopy(model.model_cfg)
    text_cfg = model_cfg["text_cfg"]
    if text_cfg.get("hf_model_name"):
        text_cfg |= {"hf_model_name": place, "hf_model_pretrained": False}
    if text_cfg.get("hf_tokenizer_name"):
        text_cfg["hf_tokenizer_name"] = place
    return model_cfg
