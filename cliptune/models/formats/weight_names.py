"""Tables of weights' names: the same towers as transformers names them, and as open_clip does.

Each line is read both ways: a model that comes in from transformers is put together by open_clip's
names, and one that goes out by theirs. Values are only moved, cut and turned, so that nothing is
rounded on the way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cliptune.errors import BadInput

State = dict[str, Tensor]
Form = Literal["same", "turned", "led", "patches"]
"""How ours differs from theirs: not at all; transposed; with a leading dimension of 1; a
convolution over patches [D, 3, P, P], theirs a linear layer over flat ones [D, P * P * 3]."""


@dataclass(frozen=True)
class Line:
    """One tensor, or several that are the parts of one, each with its share of the rows."""

    ours: dict[str, int]
    theirs: dict[str, int]
    form: Form = "same"


def line(ours: str, theirs: str, form: Form = "same") -> Line:
    """A tensor that is one for both."""
    return Line({ours: 1}, {theirs: 1}, form)


def to_ours(state: State, lines: Sequence[Line]) -> State:
    """The weights of `state` by open_clip's names.

    Raises:
        BadInput: some are missing, or are there that no line knows.
    """
    unknown = state.keys() - {name for one in lines for name in one.theirs}
    unknown = {name for name in unknown if not name.endswith("position_ids")}
    missing = [name for one in lines for name in one.theirs if name not in state]
    if missing or unknown:
        raise BadInput(misfit(missing, sorted(unknown)))
    return dict(_moved(state, lines))


def to_theirs(state: State, lines: Sequence[Line]) -> State:
    """The weights of a model in memory (`state`) by transformers' names.

    Raises:
        BadInput: as `to_ours`.
    """
    unknown = state.keys() - {name for one in lines for name in one.ours}
    missing = [name for one in lines for name in one.ours if name not in state]
    if missing or unknown:
        raise BadInput(misfit(missing, sorted(unknown)))
    moved: State = {}
    for one in lines:
        whole = torch.cat([state[name] for name in one.ours]) if len(one.ours) > 1 else (
            state[next(iter(one.ours))]
        )  # fmt: skip
        moved |= _cut(_theirs(whole, one.form), one.theirs)
    return moved


def misfit(missing: Sequence[str], unknown: Sequence[str]) -> str:
    """Words for weights that are not those of the network: which lack, and which are too many."""
    parts = []
    if missing:
        parts.append(f"{len(missing)} are missing, such as {missing[0]}")
    if unknown:
        parts.append(f"{len(unknown)} have no place in it, such as {unknown[0]}")
    return f"the weights are not those of the network that the config describes: {'; '.join(parts)}"


def _moved(state: State, lines: Sequence[Line]) -> Iterator[tuple[str, Tensor]]:
    for one in lines:
        parts = [state[name] for name in one.theirs]
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        yield from _cut(_ours(whole, one.form), one.ours).items()


def _ours(value: Tensor, form: Form) -> Tensor:
    if form == "turned":
        return value.T
    if form == "led":
        return value[None]
    if form == "patches":
        side = math.isqrt(value.shape[1] // 3)
        return value.reshape(-1, side, side, 3).permute(0, 3, 1, 2)
    return value


def _theirs(value: Tensor, form: Form) -> Tensor:
    if form == "turned":
        return value.T
    if form == "led":
        return value[0]
    if form == "patches":
        return value.permute(0, 2, 3, 1).flatten(1)
    return value


def _cut(value: Tensor, shares: dict[str, int]) -> State:
    if len(shares) == 1:
        return {name: value.contiguous() for name in shares}
    step = len(value) // sum(shares.values())
    parts = torch.split(value, [share * step for share in shares.values()])
    return {name: part.contiguous() for name, part in zip(shares, parts, strict=True)}


def _both(ours: str, theirs: str) -> list[Line]:
    return [line(f"{ours}.{kind}", f"{theirs}.{kind}") for kind in ("weight", "bias")]


def _query_key_value(ours: str, theirs: str) -> list[Line]:
    """Ours in one, theirs in three; `ours` ends where `weight` or `bias` follows."""
    return [
        Line({f"{ours}{kind}": 3}, {f"{theirs}.{letter}_proj.{kind}": 1 for letter in "qkv"})
        for kind in ("weight", "bias")
    ]


def _open_clip_block(ours: str, theirs: str) -> list[Line]:
    return [
        *_both(f"{ours}.ln_1", f"{theirs}.layer_norm1"),
        *_query_key_value(f"{ours}.attn.in_proj_", f"{theirs}.self_attn"),
        *_both(f"{ours}.attn.out_proj", f"{theirs}.self_attn.out_proj"),
        *_both(f"{ours}.ln_2", f"{theirs}.layer_norm2"),
        *_both(f"{ours}.mlp.c_fc", f"{theirs}.mlp.fc1"),
        *_both(f"{ours}.mlp.c_proj", f"{theirs}.mlp.fc2"),
    ]


def _timm_block(ours: str, theirs: str) -> list[Line]:
    return [
        *_both(f"{ours}.norm1", f"{theirs}.layer_norm1"),
        *_query_key_value(f"{ours}.attn.qkv.", f"{theirs}.self_attn"),
        *_both(f"{ours}.attn.proj", f"{theirs}.self_attn.out_proj"),
        *_both(f"{ours}.norm2", f"{theirs}.layer_norm2"),
        *_both(f"{ours}.mlp.fc1", f"{theirs}.mlp.fc1"),
        *_both(f"{ours}.mlp.fc2", f"{theirs}.mlp.fc2"),
    ]


def _text(ours: str, layers: int) -> list[Line]:
    lines = [
        line(f"{ours}token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
        line(f"{ours}positional_embedding", "text_model.embeddings.position_embedding.weight"),
        *_both(f"{ours}ln_final", "text_model.final_layer_norm"),
    ]
    for i in range(layers):
        block = f"text_model.encoder.layers.{i}"
        lines += _open_clip_block(f"{ours}transformer.resblocks.{i}", block)
    return lines


def clip_text(layers: int) -> list[Line]:
    """CLIP's text tower, as open_clip's `CLIP` has it."""
    return [*_text("", layers), line("text_projection", "text_projection.weight", "turned")]


def clip_vision(layers: int) -> list[Line]:
    """CLIP's vision transformer, as open_clip's own."""
    ours, theirs = "visual", "vision_model"
    lines = [
        line(f"{ours}.class_embedding", f"{theirs}.embeddings.class_embedding"),
        line(f"{ours}.conv1.weight", f"{theirs}.embeddings.patch_embedding.weight"),
        line(f"{ours}.positional_embedding", f"{theirs}.embeddings.position_embedding.weight"),
        *_both(f"{ours}.ln_pre", f"{theirs}.pre_layrnorm"),  # spelled so
        *_both(f"{ours}.ln_post", f"{theirs}.post_layernorm"),
        line(f"{ours}.proj", "visual_projection.weight", "turned"),
    ]
    for i in range(layers):
        block = f"{theirs}.encoder.layers.{i}"
        lines += _open_clip_block(f"{ours}.transformer.resblocks.{i}", block)
    return lines


def siglip_text(layers: int) -> list[Line]:
    """SigLIP's text tower, as the `.text` of open_clip's `CustomTextCLIP`."""
    return [*_text("text.", layers), *_both("text.text_projection", "text_model.head")]


def siglip_vision(layers: int, *, is_flat: bool = False) -> list[Line]:
    """SigLIP's vision transformer with its pooling head, as timm's.

    With `is_flat` theirs takes patches that are flat already (SigLIP 2 with free sizes).
    """
    ours, theirs = "visual.trunk", "vision_model"
    patches = f"{theirs}.embeddings.patch_embedding"
    pool, head = f"{ours}.attn_pool", f"{theirs}.head"
    form: Form = "patches" if is_flat else "same"
    lines = [
        line(f"{ours}.patch_embed.proj.weight", f"{patches}.weight", form),
        line(f"{ours}.patch_embed.proj.bias", f"{patches}.bias"),
        line(f"{ours}.pos_embed", f"{theirs}.embeddings.position_embedding.weight", "led"),
        *_both(f"{ours}.norm", f"{theirs}.post_layernorm"),
        line(f"{pool}.latent", f"{head}.probe"),
        *(
            Line(
                {f"{pool}.q.{kind}": 1, f"{pool}.kv.{kind}": 2},
                {f"{head}.attention.in_proj_{kind}": 3},
            )
            for kind in ("weight", "bias")
        ),
        *_both(f"{pool}.proj", f"{head}.attention.out_proj"),
        *_both(f"{pool}.norm", f"{head}.layernorm"),
        *_both(f"{pool}.mlp.fc1", f"{head}.mlp.fc1"),
        *_both(f"{pool}.mlp.fc2", f"{head}.mlp.fc2"),
    ]  # fmt: skip
    for i in range(layers):
        lines += _timm_block(f"{ours}.blocks.{i}", f"{theirs}.encoder.layers.{i}")
    return lines


def bert_text(names: Sequence[str]) -> list[Line]:
    """A BERT as text tower, whose inner `names` are the same for both, and its projection."""
    lines = [line(f"text.transformer.{name}", f"text_model.{name}") for name in names]
    return [*lines, line("text.proj.weight", "text_projection.weight")]


def scalars(*names: str) -> list[Line]:
    """The logit scale and bias."""
    return [line(name, name) for name in names]
