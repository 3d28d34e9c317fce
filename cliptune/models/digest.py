"""The model digest: SHA-256 over a model's weights, carried by every embedding."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from cliptune.models.towers import split_state


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and bytes of `state`'s tensors, sorted by name."""
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def combine_digests(text_digest: str, vision_digest: str) -> str:
    """The model's digest from those of its two towers, so that one tower can be checked alone."""
    return hashlib.sha256(f"{text_digest}{vision_digest}".encode()).hexdigest()


def model_digest(state: Mapping[str, Tensor]) -> str:
    """The digest of a whole CLIP state dict."""
    text, vision = split_state(dict(state))
    return combine_digests(weights_digest(text), weights_digest(vision))
