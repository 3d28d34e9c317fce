"""WiSE-FT: mixing the pre-trained and the fine-tuned weights.

Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022: the linear interpolation
of both models' weights keeps most of the gain on the target data and most of the robustness of
the zero-shot model.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cliptune.errors import BadInput


def check_alpha(alpha: float) -> float:
    """`alpha` if it lies in [0, 1].

    Raises:
        BadInput: it does not.
    """
    if not 0.0 <= alpha <= 1.0:
        raise BadInput(
            f"alpha is {alpha}: use a number from 0 (pre-trained model) to 1 (fine-tuned model)"
        )
    return alpha


def interpolate(
    pretrained: Mapping[str, Tensor], finetuned: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """(1 - alpha) * pretrained + alpha * finetuned, for every floating-point tensor.

    The logit scale is a weight like any other. Alpha 0 and 1 give back the two models bit for
    bit. Integer tensors (counters of batch norms) are the fine-tuned model's, and the
    pre-trained model's for alpha 0.

    Raises:
        BadInput: alpha is outside [0, 1], or the two are not of one architecture.
    """
    check_alpha(alpha)
    if pretrained.keys() != finetuned.keys():
        differing = sorted(pretrained.keys() ^ finetuned.keys())
        raise BadInput(f"the two models differ in their weights' names: {differing[:5]}")
    mixed = {}
    for name, tuned in finetuned.items():
        before = pretrained[name].to(tuned.device)
        if before.shape != tuned.shape:
            raise BadInput(f"{name}: shapes {tuple(before.shape)} and {tuple(tuned.shape)} differ")
        if alpha in (0.0, 1.0) or not tuned.is_floating_point():
            mixed[name] = (before if alpha == 0.0 else tuned).clone()
        else:
            mixed[name] = torch.lerp(before.float(), tuned.float(), alpha).to(tuned.dtype)
    return mixed
