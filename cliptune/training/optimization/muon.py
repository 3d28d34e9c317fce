"""Muon: steps that turn and stretch a weight matrix alike in all directions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""The coefficients a, b, c of each iteration x -> a x + b (x x^T) x + c (x x^T)^2 x."""
_ITERATIONS = 5
_UPDATE_RMS = 0.2
"""The size of an update's entries: that of AdamW's, so that both take one learning rate."""


class Muon(Optimizer):
    """Muon for the weight matrices, AdamW for all the rest, by one learning rate.

    Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024: the momentum of
    a matrix's gradient is replaced by the nearest matrix whose singular values are all 1, found by
    Newton-Schulz iterations. So directions that few pairs of a batch speak for are learnt as fast
    as the loud ones. Updates are scaled to AdamW's size as in Liu et al., "Muon is scalable for
    LLM training", 2025; for two-dimensional weights it is `torch.optim.Muon` with
    `adjust_lr_fn='match_rms_adamw'`. That class takes no other parameters; this one takes
    convolutions as matrices of [outputs, the rest], and gives gains, biases and embeddings to AdamW
    (Loshchilov & Hutter, 2019).

    Prefer it for models that have much to learn in few steps. A step costs the iterations in
    addition (bfloat16, as in torch): for the built-in model about a quarter of a step of 64 pairs,
    and less the larger the batch. Models that were pre-trained with Adam on hundreds of millions of
    pictures are moved gently, for which AdamW is the known way.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.05,
    ) -> None:
        """Optimise groups of parameters.

        Args:
            params: groups; in those with `matrices=True` all parameters are weight matrices.
            lr: the learning rate of both.
            momentum: Muon's, with Nesterov's look ahead.
            betas: AdamW's.
            eps: AdamW's.
            weight_decay: decoupled, of both.

        Raises:
            ValueError: a number out of range, or a group of matrices with another parameter.
        """
        if not 0 <= momentum < 1 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"momentum {momentum} and betas {betas} must be in [0, 1)")
        values = {"momentum": momentum, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {"lr": lr, "matrices": False, **values})
        for group in self.param_groups:
            flat = [tuple(p.shape) for p in group["params"] if p.ndim < 2]
            if group["matrices"] and flat:
                raise ValueError(f"a parameter of shape {flat[0]} is no matrix")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient; a closure is of no use here."""
        for group in self.param_groups:
            update = self._muon if group["matrices"] else self._adamw
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    update(parameter, parameter.grad, group)

    def _muon(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(state["momentum"], group["momentum"]).flatten(1)
        scale = _UPDATE_RMS * max(ahead.shape) ** 0.5
        direction = orthogonalised(ahead).to(parameter.dtype).reshape(parameter.shape)
        parameter.add_(direction, alpha=-group["lr"] * scale)

    def _adamw(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = (torch.zeros_like(parameter) for _ in range(2))
        state["step"] += 1
        first, second = group["betas"]
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        steps = int(state["step"])
        spread = (state["square"] / (1 - second**steps)).sqrt_().add_(group["eps"])
        parameter.addcdiv_(state["mean"], spread, value=-group["lr"] / (1 - first**steps))


def orthogonalised(matrix: Tensor) -> Tensor:
    """Near the orthogonal matrix nearest to `matrix` [M, N], as bfloat16 [M, N].

    Its singular values are between about 0.7 and 1.2, which serves as well as 1.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrix.bfloat16()
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x
