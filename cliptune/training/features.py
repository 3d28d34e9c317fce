"""Features of a frozen tower: computed once, not every epoch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cliptune.inference.engines import get_tower
from cliptune.models.artifact import TEXT_TOWER, VISION_TOWER
from cliptune.models.loading import ClipModel
from cliptune.training.pairs import Pairs
from cliptune.training.towers import is_frozen


def add_frozen_features(
    model: ClipModel, pairs: Pairs, batch_size: int, on_progress: Callable[[int, int], None]
) -> None:
    """Give `pairs` the embeddings of the towers that are not trained, of unit length.

    The pictures are then seen as they are: random crops would need the tower in every epoch.
    """
    model.clip.eval()
    if is_frozen(model.clip, "vision") and pairs.image_features is None:
        pairs.image_features = _image_features(model, pairs, batch_size, on_progress)
    if is_frozen(model.clip, "text") and pairs.text_features is None:
        pairs.text_features = text_embeddings(model, pairs, batch_size)


def _image_features(
    model: ClipModel, pairs: Pairs, batch_size: int, on_progress: Callable[[int, int], None]
) -> Tensor:
    tower = get_tower(model, VISION_TOWER, batch_size=batch_size)
    features = np.empty((len(pairs), model.output_dim), dtype=np.float32)
    step = 16 * batch_size
    for start in range(0, len(pairs), step):
        features[start : start + step] = tower.encode_pixels(pairs.pixels[start : start + step])
        on_progress(min(start + step, len(pairs)), len(pairs))
    return torch.from_numpy(features)


def text_embeddings(model: ClipModel, pairs: Pairs, batch_size: int) -> Tensor:
    """Embeddings float32 [N, D] of the pairs' texts, of unit length; equal texts once."""
    if pairs.text_features is not None:
        return pairs.text_features
    tower = get_tower(model, TEXT_TOWER, batch_size=batch_size)
    unique, back = torch.unique(pairs.tokens, dim=0, return_inverse=True)
    return torch.from_numpy(tower.encode_tokens(unique))[back]
