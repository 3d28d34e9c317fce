"""What runs a network: torch, ONNX Runtime and OpenVINO, each as a function of arrays."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cliptune.errors import BadInput
from cliptune.extras import import_openvino
from cliptune.inference.towers import Forward
from cliptune.settings import Precision

_CUDA = "CUDAExecutionProvider"


def halve_weights(module: nn.Module) -> None:
    """Keep the weights of matrix products as bfloat16, as which autocast computes with them.

    It would make them so at each call otherwise, which takes longer than the products (on a CPU
    with bfloat16 a ViT-B/32 is 3 times as fast by this). Norms and sums stay float32.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.MultiheadAttention):
            part.to(torch.bfloat16)


def torch_forward(
    module: nn.Module,
    device: torch.device,
    autocast: torch.dtype | None = None,
    compiled: bool = False,
) -> Forward:
    """`module` as an engine: numpy in, numpy out, without gradients; `autocast` None: fp32.

    Compiled, it is one program for batches of all sizes and texts of all lengths.
    """
    run = torch.compile(module, dynamic=True) if compiled else module

    def forward(batch: NDArray[np.generic]) -> NDArray[np.float32]:
        rows = torch.from_numpy(np.ascontiguousarray(batch))
        if compiled and len(rows) == 1:
            rows = rows.expand(2, *rows.shape[1:])  # a size of 1 would be compiled on its own
        if device.type == "cuda":
            rows = rows.pin_memory()  # so that it is copied while the batch before is computed
        reduced = torch.autocast(device.type, dtype=autocast, enabled=autocast is not None)
        with torch.inference_mode(), reduced:
            embeddings = run(rows.to(device, non_blocking=True))
            rows_out: NDArray[np.float32] = embeddings[: len(batch)].float().cpu().numpy()
        return rows_out

    return forward


def onnx_forward(path: Path, device: str | None = None, threads: int | None = None) -> Forward:
    """The ONNX file at `path` as an engine of ONNX Runtime; `threads` None: one for each core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    # Threads that spin while they wait would take the other executors' cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    available = onnxruntime.get_available_providers()
    wanted = [] if device == "cpu" else [_CUDA]
    providers = [p for p in wanted if p in available] + ["CPUExecutionProvider"]
    if device and device.startswith("cuda") and len(providers) == 1:
        raise BadInput(f"device {device!r}: this onnxruntime has no CUDA (it has {available})")
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    run = functools.partial(session.run, ["embedding"])
    name = session.get_inputs()[0].name
    return lambda batch: run({name: batch})[0]


def onnx_has_cuda() -> bool:
    """Whether the ONNX Runtime that is installed runs on NVIDIA's GPUs."""
    import onnxruntime

    return _CUDA in onnxruntime.get_available_providers()


def openvino_forward(
    path: Path, precision: Precision = "fp32", threads: int | None = None
) -> Forward:
    """The ONNX file at `path` as an engine of OpenVINO, on the CPU; `threads` None: as it chooses.

    Many threads may call it at once.

    Raises:
        Unavailable: `cliptune[openvino]` is not installed.
        BadInput: `bf16` on a CPU that can't compute in it.
    """
    core = import_openvino("the engine openvino").Core()
    if precision == "bf16" and not _has_bf16(core):
        # It would compute in float32 instead and not say so.
        raise BadInput(
            "precision is 'bf16', and OpenVINO can't compute in it on this CPU "
            f"({core.get_property('CPU', 'FULL_DEVICE_NAME').strip()}): use precision fp32, or "
            "the engine torch"
        )
    options: dict[str, object] = {
        # Its default is bfloat16 where the CPU has it.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        # Executors and replicas of one machine would all be bound to the same first cores.
        "ENABLE_CPU_PINNING": False,
    }
    if threads:
        # Without the second one no more than there are cores, of which each may be two CPUs.
        options |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_HYPER_THREADING": True}
    compiled = core.compile_model(path, "CPU", options)
    idle = [compiled.create_infer_request()]

    def forward(batch: NDArray[np.generic]) -> NDArray[np.float32]:
        # A request runs one batch at a time: there are as many as ever ran at once.
        try:
            request = idle.pop()
        except IndexError:
            request = compiled.create_infer_request()
        try:
            rows: NDArray[np.float32] = request.infer([batch])[0]  # a copy of its buffer
        finally:
            idle.append(request)
        return rows

    return forward


def openvino_has_bf16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this CPU.

    Raises:
        Unavailable: it isn't installed.
    """
    return _has_bf16(import_openvino("the engine openvino").Core())


def _has_bf16(core: Any) -> bool:
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
