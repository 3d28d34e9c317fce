"""A tiny CLIP for tests that need a model, not what it knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TINY_CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 32,
        "vision_cfg": {
            "layers": 2,
            "width": 64,
            "head_width": 32,
            "patch_size": 8,
            "image_size": 32,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 2,
        },
    },
    "preprocess_cfg": {
        "size": [32, 32],
        "mean": [0.48, 0.45, 0.40],
        "std": [0.26, 0.26, 0.27],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    },
}


def make_tiny_model(folder: Path) -> Path:
    """Random weights in a new folder: two transformers, CLIP's own vocabulary."""
    import torch
    from safetensors.torch import save_file

    from cliptune.models.openclip import open_clip

    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(TINY_CONFIG))
    torch.manual_seed(7)
    clip = open_clip.CLIP(**json.loads(json.dumps(TINY_CONFIG["model_cfg"])))
    weights = {name: value.contiguous() for name, value in clip.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder
