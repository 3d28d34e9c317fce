"""Shorter embeddings: the first numbers of those that a model gives, as a model of its own.

A tower ends in a projection, whose first columns give the embedding's first numbers; so a model
with those columns alone gives the shorter embeddings, and is a CLIP like any other: it is served,
indexed, exported and tuned as such. How much is still found depends on the training: `matryoshka`
of `TrainingOptions` makes the first numbers count (Kusupati et al., "Matryoshka representation
learning", 2022, arXiv:2205.13147).
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from cliptune.errors import BadInput
from cliptune.models.loading import ClipModel
from cliptune.models.modules import TextModule, VisionModule
from cliptune.models.network import build_network
from cliptune.models.openclip import OpenClipConfig


def check_dimensions(dimensions: int, of: int) -> int:
    """`dimensions` if an embedding of `of` numbers has a first part that long.

    Raises:
        BadInput: it has not.
    """
    if not 1 <= dimensions <= of:
        raise BadInput(f"dimensions is {dimensions}: use a number from 1 to {of}, the model's own")
    return dimensions


def shorten(model: ClipModel, dimensions: int) -> ClipModel:
    """A model that gives the first `dimensions` numbers of `model`'s embeddings.

    It shares no memory with `model`, and its digest is another.

    Raises:
        BadInput: the embeddings of `model` are shorter, or a tower ends in more than a projection.
    """
    check_dimensions(dimensions, model.output_dim)
    config = cast("OpenClipConfig", {**model.model_cfg, "embed_dim": dimensions})
    clip = build_network(config, model.folder)
    weights = model.clip.state_dict()
    own = clip.state_dict()
    if own.keys() <= weights.keys():
        clip.load_state_dict({name: _first(weights[name], value) for name, value in own.items()})
    if own.keys() != weights.keys() or not _gives_first(clip, model, dimensions):
        raise BadInput(
            f"{model.name}: a tower of it ends in more than one projection, and its embeddings "
            "can't be shortened"
        )
    return replace(model, clip=clip, model_cfg=config, _digest=None)


def _first(weight: Tensor, like: Tensor) -> Tensor:
    """The first part of `weight` that has the shape of `like`."""
    if weight.dim() != like.dim():
        return weight
    return weight[tuple(slice(size) for size in like.shape)].cpu().clone()


@torch.no_grad()
def _gives_first(clip: nn.Module, model: ClipModel, dimensions: int) -> bool:
    """Whether the towers of `clip` give the first numbers of those of `model`, tried out."""
    generator = torch.Generator().manual_seed(0)
    height, width = model.preprocessing.size
    pixels = torch.rand(2, 3, height, width, generator=generator)
    tokens = torch.randint(1, 100, (2, model.context_length), generator=generator)
    device = next(model.clip.parameters()).device
    return all(
        torch.allclose(short(given), whole(given.to(device)).cpu()[:, :dimensions], atol=1e-4)
        for short, whole, given in (
            (VisionModule(clip), model.vision_module, pixels),
            (TextModule(clip), model.text_module, tokens),
        )
    )
