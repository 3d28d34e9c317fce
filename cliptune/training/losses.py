"""Contrastive losses over a batch of pairs."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(image embeddings [N, D], text embeddings [N, D], logit scale, labels int64 [N]) to a scalar."""


def clip_loss(images: Tensor, texts: Tensor, logit_scale: Tensor, labels: Tensor) -> Tensor:
    """CLIP's loss: the cross entropies of image to text and of text to image, averaged.

    Radford et al., "Learning transferable visual models from natural language supervision",
    2021. It is open_clip's `ClipLoss` wherever all labels of the batch differ. A pair whose
    label equals another's (a second picture of the same title) is not a negative for it: its
    logit is left out of the denominator, since pushing the two apart would be wrong.

    Prefer it as long as a batch has some dozens of pairs: its negatives are the batch.

    Args:
        images: embeddings [N, D], unit length.
        texts: embeddings [N, D] of the same pairs, unit length.
        logit_scale: the factor on the cosines (not its logarithm), a scalar.
        labels: int64 [N]; equal labels are right answers to each other.
    """
    logits = logit_scale * images.float() @ texts.float().T
    same = labels[:, None] == labels[None, :]
    same.fill_diagonal_(False)
    logits = logits.masked_fill(same, float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


LOSSES: dict[str, Loss] = {"CLIPLoss": clip_loss}
