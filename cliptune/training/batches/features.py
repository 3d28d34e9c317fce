"""Features of frozen towers: computed once, not every epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from cliptune.models.loading import ClipModel
from cliptune.models.modules import Head, cut_to_longest
from cliptune.training.batches.augmentation import to_input
from cliptune.training.batches.pairs import Pairs
from cliptune.training.optimization.freezing import is_frozen


def add_frozen_features(
    model: ClipModel,
    pairs: Pairs,
    device: torch.device,
    batch_size: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Give `pairs` the outputs of the trunks that are not trained, whether or not their heads are.

    The pictures are then seen as they are: random crops would need the trunk in every epoch.
    """
    clip = model.clip
    clip.eval()
    if is_frozen(clip, "vision", but_head=True):
        with torch.no_grad(), Head.of_vision(clip).taken_off():
            pairs.image_features = _image_features(model, pairs, device, batch_size, on_progress)
    if is_frozen(clip, "text", but_head=True):
        with torch.no_grad(), Head.of_text(clip).taken_off():
            pairs.text_features = _text_features(model, pairs.tokens, device, batch_size)
            if pairs.choices is not None:
                features = _text_features(model, pairs.choices.tokens, device, batch_size)
                pairs.choices = replace(pairs.choices, features=features)


def _image_features(
    model: ClipModel,
    pairs: Pairs,
    device: torch.device,
    batch_size: int,
    on_progress: Callable[[int, int], None],
) -> Tensor:
    trunk, parts = model.vision_module, []
    for start in range(0, len(pairs), batch_size):
        pixels = torch.from_numpy(pairs.pixels[start : start + batch_size].copy())
        parts.append(trunk(to_input(pixels, model.preprocessing, device)).float().cpu())
        on_progress(start + len(pixels), len(pairs))
    return torch.cat(parts)


def _text_features(
    model: ClipModel, given: Tensor, device: torch.device, batch_size: int
) -> Tensor:
    trunk = model.text_module
    unique, back = torch.unique(given, dim=0, return_inverse=True)
    parts = []
    for tokens in unique.split(batch_size):
        cut = cut_to_longest(tokens) if trunk.cuttable else tokens
        parts.append(trunk(cut.to(device)).float().cpu())
    return torch.cat(parts)[back]
