"""Towers in 8-bit integers, for CPUs."""

from __future__ import annotations

import logging
from pathlib import Path


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
