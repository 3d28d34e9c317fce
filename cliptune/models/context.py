"""Longer texts than a model was trained for: its position embeddings, stretched.

Zhang et al., "Long-CLIP: unlocking the long-text capability of CLIP", ECCV 2024: the first 20
positions, which nearly all texts of the pre-training have used, stay as they are, and those after
them are interpolated. 77 become 248 with a ratio of 4. The network gives short texts nearly the
embeddings that it gave before; what it makes of long ones is to be learned in the fine-tuning.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cliptune.errors import BadInput
from cliptune.models.modules import text_tower
from cliptune.models.openclip import OpenClipConfig

KEPT = 20
"""The positions that stay."""
MOST = 1024
"""Tokens of the longest context: attention takes memory by its square."""


def stretch_context(
    clip: nn.Module, model_cfg: OpenClipConfig, context_length: int
) -> OpenClipConfig:
    """Have the text tower of `clip` read `context_length` tokens; returns the config that says so.

    Raises:
        BadInput: it is shorter than the context that the model has, too long, or the text tower is
            of a kind that can't be stretched (Hugging Face's).
    """
    tower = text_tower(clip)
    positions = getattr(tower, "positional_embedding", None)
    if not isinstance(positions, Tensor):
        raise BadInput(
            f"context_length is {context_length}: a Hugging Face text tower's context can't be "
            "stretched"
        )
    now = len(positions)
    extra = 1 if getattr(tower, "cls_emb", None) is not None else 0
    if not now - extra < context_length <= MOST or now < KEPT + 2:
        raise BadInput(
            f"context_length is {context_length}: this model reads {now - extra} tokens, and "
            f"contexts of {KEPT + 2} and more can be stretched, to at most {MOST}"
        )
    with torch.no_grad():
        tower.positional_embedding = nn.Parameter(
            stretched(positions.detach(), context_length + extra)
        )
        if tower.attn_mask is not None:
            size = context_length + extra
            mask = torch.full((size, size), float("-inf"), device=positions.device).triu(1)
            tower.register_buffer("attn_mask", mask, persistent=False)
    tower.context_length = context_length
    clip.context_length = context_length  # type: ignore[assignment]
    return {**model_cfg, "text_cfg": {**model_cfg["text_cfg"], "context_length": context_length}}


def stretched(positions: Tensor, length: int) -> Tensor:
    """Position embeddings [L, W] as [length, W]: the first 20 as they are, the rest interpolated.

    As Long-CLIP does it: with the ratio r of what is after the kept ones, position KEPT + i of the
    result lies at KEPT + i / r, between its two neighbours; beyond the last one the line through
    the last two goes on.
    """
    kept, rest = positions[:KEPT], positions[KEPT:]
    new = length - len(kept)
    ratio = new / len(rest)
    places = torch.arange(new, device=positions.device, dtype=torch.float64) / ratio
    low = places.floor().long().clamp(max=len(rest) - 2)
    share = (places - low)[:, None].to(positions.dtype)
    return torch.cat([kept, torch.lerp(rest[low], rest[low + 1], share)])
