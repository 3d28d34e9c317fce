"""ONNX: exporting the towers, and their 8-bit form for CPUs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cliptune.models.artifact import TEXT_TOWER, VISION_TOWER
from cliptune.models.loading import ClipModel
from cliptune.models.modules import TextModule, VisionModule
from cliptune.models.openclip import open_clip

OPSET = 17


def export_towers(model: ClipModel, models: Path) -> None:
    """Write both towers of `model` to `model.onnx` in their folders below `models`."""
    export_text(model.clip, models / TEXT_TOWER / "model.onnx", model.context_length)
    export_vision(model.clip, models / VISION_TOWER / "model.onnx", model.preprocessing.size)


def export_text(clip: nn.Module, path: Path, context_length: int) -> None:
    """Write the text tower: `input_ids` int64 [batch, length] to `embedding` [batch, D].

    The length is free where the tower allows it (see `TextModule`), else the context length.
    """
    module = TextModule(clip)
    # Two rows that differ, so that nothing of a row is traced as a constant.
    tokens = torch.zeros(2, context_length, dtype=torch.long)
    tokens[0, :3] = torch.tensor([1, 2, 5])
    tokens[1, :4] = torch.tensor([1, 3, 4, 5])
    free = {0: "batch", 1: "length"} if module.cuttable else {0: "batch"}
    export_module(module, {"input_ids": tokens}, path, {"input_ids": free})


def export_vision(clip: nn.Module, path: Path, size: tuple[int, int]) -> None:
    """Write the vision tower: `pixel_values` float32 [batch, 3, H, W] to `embedding` [batch, D]."""
    example = {"pixel_values": torch.zeros(2, 3, *size)}
    export_module(VisionModule(clip), example, path, {"pixel_values": {0: "batch"}})


def export_module(
    module: nn.Module, examples: dict[str, Tensor], path: Path, free: dict[str, dict[int, str]]
) -> None:
    """Write `module` to ONNX, with one output `embedding` [batch, D].

    Args:
        module: what is traced; it comes back on its device and in its mode.
        examples: its inputs by name, in their order.
        path: the file.
        free: by input, which of its dimensions are free, and their names.
    """
    first = next(module.parameters())
    was_training, device = module.training, first.device
    module.eval()
    try:
        with torch.no_grad(), _traceable_attention(module), warnings.catch_warnings():
            # The tracer warns about Python values that are constants here (the layer norm's shape).
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module.cpu().float(),
                tuple(examples.values()),
                str(path),
                input_names=list(examples),
                output_names=["embedding"],
                dynamic_axes={**free, "embedding": {0: "batch"}},
                opset_version=OPSET,
                dynamo=False,
            )
    finally:
        module.to(device).train(was_training)


class _SelfAttention(nn.Module):
    """`nn.MultiheadAttention` for one input, in operators that trace with a free length.

    The original bakes the traced length into its reshapes, and its fused form of evaluation
    mode has no ONNX operator.
    """

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        self.original = original

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attend within `query` [N, L, width]; `attn_mask` is added to the logits.

        It is [L, L], or [N * heads, L, L] where each text has its own (CoCa's hides padding).
        """
        original = self.original
        mixed = F.linear(query, original.in_proj_weight, original.in_proj_bias)
        heads = torch.unflatten(mixed, -1, (3, original.num_heads, original.head_dim))
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        logits = (q * original.head_dim**-0.5) @ k.transpose(-1, -2)
        if attn_mask is not None:
            own = attn_mask.ndim == 3
            logits = logits + (
                torch.unflatten(attn_mask, 0, (-1, original.num_heads)) if own else attn_mask
            )
        attended = logits.softmax(dim=-1) @ v
        return original.out_proj(attended.transpose(1, 2).flatten(2)), None


@contextmanager
def _traceable_attention(module: nn.Module) -> Iterator[None]:
    """Put `_SelfAttention` in the place of the blocks' self-attention meanwhile."""
    swapped: list[tuple[nn.Module, nn.MultiheadAttention]] = []
    for block in module.modules():
        # Blocks with a norm of their own for keys and values attend across, and stay as they are.
        if not isinstance(block, open_clip.transformer.ResidualAttentionBlock) or hasattr(
            block, "ln_1_kv"
        ):
            continue
        attention = block.attn
        if isinstance(attention, nn.MultiheadAttention) and attention.batch_first:
            swapped.append((block, attention))
    for block, attention in swapped:
        block.attn = _SelfAttention(attention)
    try:
        yield
    finally:
        for block, attention in swapped:
            block.attn = attention


def quantize_to_int8(source: Path, target: Path) -> None:
    """Write the ONNX model `source` to `target` with the weights of its matrix products as int8.

    Dynamic quantisation, as ONNX Runtime has it: each column of a weight has a scale of its own,
    and activations are quantised as they come. Nothing else changes: convolutions, embeddings
    and norms stay float32, and so do inputs and outputs.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it recommends a preparation that gains nothing here
    try:
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    finally:
        root.setLevel(level)
