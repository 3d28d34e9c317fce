"""A greedy soup: the average of those trials' weights that are better together.

Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy
without increasing inference time", ICML 2022, recipe 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from cliptune.models.wise_ft import check_same_architecture

State = Mapping[str, Tensor]


def greedy_soup(
    models: Sequence[Callable[[], State]], measure: Callable[[State], float]
) -> tuple[list[int], dict[str, Tensor], float]:
    """Add one model after the other to the average, as long as that loses nothing.

    Args:
        models: each gives a state dict; best first, by what `measure` says.
        measure: higher is better; of data that the result is not judged by.

    Returns:
        The positions of those in the soup (the first always is), their average, and its measure.

    Raises:
        BadInput: the models are not of one architecture.
    """
    members, soup = [0], dict(models[0]())
    best = measure(soup)
    for position in range(1, len(models)):
        candidate = average_with(soup, models[position](), len(members))
        value = measure(candidate)
        if value >= best:
            members.append(position)
            soup, best = candidate, value
    return members, soup, best


def average_with(soup: State, added: State, count: int) -> dict[str, Tensor]:
    """The average of `count` models, which `soup` is, and one more.

    It is kept in float32 at least; integers, such as counters, stay those of `soup`.

    Raises:
        BadInput: they are not of one architecture.
    """
    check_same_architecture(soup, added)
    averaged = {}
    for name, tensor in soup.items():
        if not tensor.is_floating_point():
            averaged[name] = tensor.clone()
            continue
        exact = torch.promote_types(tensor.dtype, torch.float32)
        other = added[name].to(tensor.device, exact)
        averaged[name] = tensor.to(exact).lerp(other, 1 / (count + 1))
    return averaged
