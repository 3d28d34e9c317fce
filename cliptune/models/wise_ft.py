"""WiSE-FT: mixing the pre-trained and the fine-tuned weights.

Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022: the linear interpolation
of both models' weights keeps most of the gain on the target data and most of the robustness of
the zero-shot model. `cliptune.evaluation.wise_ft` measures many alphas and picks one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cliptune.errors import BadInput

if TYPE_CHECKING:
    from cliptune.models.loading import ClipModel

_LOGIT_BIAS = "logit_bias"


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


def check_same_architecture(
    pretrained: Mapping[str, Tensor], finetuned: Mapping[str, Tensor]
) -> None:
    """Check that two state dicts have weights of the same names and shapes.

    A logit bias that only the fine-tuned model has is no difference: SigLIP's loss may have
    added it, and no embedding depends on it.

    Raises:
        BadInput: they differ; the message names the first of the weights that do.
    """
    if differing := sorted(pretrained.keys() ^ (finetuned.keys() - _added(pretrained, finetuned))):
        raise BadInput(f"the two models differ in their weights' names: {differing[:5]}")
    for name, before in pretrained.items():
        if before.shape != finetuned[name].shape:
            shapes = f"{tuple(before.shape)} and {tuple(finetuned[name].shape)}"
            raise BadInput(f"the two models differ: {name} has the shapes {shapes}")


def interpolate(
    pretrained: Mapping[str, Tensor], finetuned: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """(1 - alpha) * pretrained + alpha * finetuned, for every floating-point tensor.

    Alpha 0 and 1 give back the two models bit for bit; so does any alpha for weights that
    fine-tuning left alone, infinite ones included. In between the sum is made in float32 at
    least and rounded to the wider of the two dtypes. The logit scale is a weight like any other:
    it is its logarithm that is mixed. A logit bias that only the fine-tuned model has is kept.

    Batch norms: running means and variances are mixed as the paper's code mixes all state. They
    are then only near what the mixed network would measure; a tower with batch norms (CLIP's
    ResNets, not its ViTs nor the built-in model) would need a pass over training pictures for
    that, as averaged weights do (Izmailov et al., 2018). Their counters, like all integer
    tensors, are the fine-tuned model's, and the pre-trained model's for alpha 0.

    Args:
        pretrained: a state dict.
        finetuned: one of the same names and shapes; the result lies on its devices.
        alpha: in [0, 1].

    Returns:
        A state dict that shares no memory with either.

    Raises:
        BadInput: alpha is outside [0, 1], or the two are not of one architecture.
    """
    check_alpha(alpha)
    check_same_architecture(pretrained, finetuned)
    mixed = {name: finetuned[name].clone() for name in _added(pretrained, finetuned)}
    for name, before in pretrained.items():
        tuned = finetuned[name]
        mixed[name] = _mix(before.to(tuned.device), tuned, alpha)
    return mixed


def mix_models(before: ClipModel, after: ClipModel, alpha: float) -> ClipModel:
    """A new model with the interpolated weights, and all else as `after` has it.

    Raises:
        BadInput: as `interpolate`, or the two have other activations.
    """
    check_same_activation(before, after)
    weights = interpolate(before.clip.state_dict(), after.clip.state_dict(), alpha)
    clip = copy.deepcopy(after.clip)
    clip.load_state_dict(weights)
    return replace(after, clip=clip, _digest=None)


def check_same_activation(before: ClipModel, after: ClipModel) -> None:
    """Check that the weights of both are of one network.

    Raises:
        BadInput: one has QuickGELU and the other GELU.
    """
    if before.activation != after.activation:
        raise BadInput(
            f"{before.name} has {before.activation} and {after.name} has {after.activation}: their "
            "weights can't be mixed. Artifacts of earlier versions may have the wrong one: tune "
            "such a model again"
        )


def _mix(before: Tensor, tuned: Tensor, alpha: float) -> Tensor:
    if alpha in (0.0, 1.0) or not tuned.is_floating_point():
        return (before if alpha == 0.0 else tuned).clone()
    dtype = torch.promote_types(before.dtype, tuned.dtype)
    exact = torch.promote_types(dtype, torch.float32)
    before, tuned = before.to(exact), tuned.to(exact)
    # Rounding would touch weights that are alike in both.
    return torch.where(before == tuned, tuned, (1 - alpha) * before + alpha * tuned).to(dtype)


def _added(pretrained: Mapping[str, Tensor], finetuned: Mapping[str, Tensor]) -> set[str]:
    return {_LOGIT_BIAS} & (finetuned.keys() - pretrained.keys())
