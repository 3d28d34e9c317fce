"""The structure of the two towers: how deep each parameter lies, which are frozen."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cliptune.errors import BadInput
from cliptune.models.modules import Head, split_state

TowerName = Literal["text", "vision"]
Freeze = bool | Literal["vision", "text"] | dict[TowerName, int]
"""What is not trained: nothing (False), a tower, all but the projections (True), or the first N
blocks of towers: `{'vision': 8, 'text': 4}`."""

_BLOCK = re.compile(r"\.(?:resblocks|layers?|blocks?|h)\.(\d+)\.")
_RESNET_BLOCK = re.compile(r"visual\.layer(\d+)\.(\d+)\.")
_STEM = {
    *("embedding", "embeddings", "cls_emb", "ln_pre"),
    *("conv1", "conv2", "conv3", "bn1", "bn2", "bn3"),  # a ResNet's
}
_HEADS = ("text_projection", "visual.proj", "visual.head.", "text.proj", "text.text_projection")
_SHARED = ("logit_scale", "logit_bias")


def tower_of(name: str) -> TowerName:
    """The tower that the parameter `name` belongs to."""
    return "vision" if name.startswith("visual.") else "text"


def parameter_depths(clip: nn.Module) -> dict[TowerName, dict[str, int]]:
    """How deep each parameter of each tower lies, by the parameter's name.

    0 is the embedding or stem, 1 the first block, and what comes after the last block (norms,
    pooling, projection) is one deeper than it. Blocks are the transformer's, a ResNet's residual
    blocks, or for a timm tower the groups of its own `group_matcher`. The logit scale and bias
    belong to no tower.
    """
    text, vision = split_state({n: p for n, p in clip.named_parameters() if n not in _SHARED})
    depths = {"text": _numbered(list(text)), "vision": _numbered(list(vision))}
    trunk = getattr(getattr(clip, "visual", None), "trunk", None)
    if trunk is not None and hasattr(trunk, "group_matcher"):
        depths["vision"] = _timm_depths(trunk, list(vision))
    return depths  # type: ignore[return-value]


def block_counts(clip: nn.Module) -> dict[TowerName, int]:
    """How many blocks each tower has."""
    return {tower: max(by.values()) - 1 for tower, by in parameter_depths(clip).items()}


def _numbered(names: list[str]) -> dict[str, int]:
    """Depths by the numbers in parameters' names."""
    blocks = {name: _block(name) for name in names}
    order = {key: i + 1 for i, key in enumerate(sorted({b for b in blocks.values() if b}))}
    last = len(order) + 1

    def depth(name: str) -> int:
        block = blocks[name]
        if block:
            return order[block]
        parts = name.split(".")
        is_stem = any(part in _STEM or part.endswith("embedding") for part in parts)
        return 0 if is_stem and "attnpool" not in parts else last

    return {name: depth(name) for name in names}


def _block(name: str) -> tuple[int, ...]:
    numbers = _RESNET_BLOCK.match(name) or _BLOCK.search(name)
    return tuple(map(int, numbers.groups())) if numbers else ()


def _timm_depths(trunk: nn.Module, names: list[str]) -> dict[str, int]:
    from timm.models import group_parameters

    matcher = trunk.group_matcher(coarse=False)  # type: ignore[operator]
    groups = group_parameters(trunk, matcher, reverse=True)
    inner = {f"visual.trunk.{name}": int(group) for name, group in groups.items()}
    last = max(inner.values(), default=0) + 1
    return {name: inner.get(name, last) for name in names}


def freeze_parameters(clip: nn.Module, freeze: Freeze) -> None:
    """Stop the gradients that `freeze` names, and only those.

    Raises:
        BadInput: more blocks than a tower has.
    """
    depths = parameter_depths(clip)
    frozen: set[str] = set()
    if isinstance(freeze, Mapping):
        for tower, count in freeze.items():
            blocks = block_counts(clip)[tower]
            if count > blocks:
                raise BadInput(f"freeze is {freeze!r}: the {tower} tower has {blocks} blocks")
            frozen |= {name for name, depth in depths[tower].items() if depth <= count}
    if freeze in (True, "vision"):
        frozen |= depths["vision"].keys()
    if freeze in (True, "text"):
        frozen |= depths["text"].keys()
    if freeze is True:
        frozen = {name for name in frozen if not name.startswith(_HEADS)}
    for name, parameter in clip.named_parameters():
        parameter.requires_grad_(name not in frozen)


def is_frozen(clip: nn.Module, tower: TowerName, *, but_head: bool = False) -> bool:
    """Whether no parameter of `tower` is trained, adapters included.

    With `but_head` that of the tower's head does not matter.
    """
    head = Head.of_vision(clip) if tower == "vision" else Head.of_text(clip)
    exempt = {id(parameter) for parameter in head.parameters()} if but_head else set()
    return not any(
        parameter.requires_grad and id(parameter) not in exempt
        for name, parameter in clip.named_parameters()
        if name not in _SHARED and tower_of(name) == tower
    )


def training_mode(clip: nn.Module) -> None:
    """Switch on dropout where something is trained.

    Batch norms keep the statistics of the pre-training: those of a fine-tuning batch are
    poorer, and would make the gradients depend on how a batch is cut in parts.
    """
    clip.train()
    if is_frozen(clip, "vision", but_head=True):
        clip.visual.eval()  # type: ignore[union-attr]
    if is_frozen(clip, "text", but_head=True):
        text_parts = [m for name, m in clip.named_children() if name != "visual"]
        for part in text_parts:
            part.eval()
    for module in clip.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
