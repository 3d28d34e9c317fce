"""The model digest: SHA-256 of a model's weights and network, carried by every embedding."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from cliptune.models.openclip import OpenClipConfig


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and bytes of `state`'s tensors, sorted by name."""
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def combine_digests(text_digest: str, vision_digest: str, model_cfg: OpenClipConfig) -> str:
    """The model's digest from those of its two towers, so that one tower can be checked alone.

    With QuickGELU (`quick_gelu` of the open_clip config `model_cfg`) the same weights are another
    model, with other embeddings, and so another digest.
    """
    activation = "quick_gelu" if model_cfg.get("quick_gelu") else ""
    return hashlib.sha256(f"{text_digest}{vision_digest}{activation}".encode()).hexdigest()


def model_digest(state: Mapping[str, Tensor], model_cfg: OpenClipConfig) -> str:
    """The digest of a whole CLIP's state dict and open_clip config."""
    # Here, since open_clip takes seconds to import, and files are checked without it.
    from cliptune.models.modules import split_state

    text, vision = split_state(dict(state))
    return combine_digests(weights_digest(text), weights_digest(vision), model_cfg)
