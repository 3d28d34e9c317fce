"""Muon against torch's own for matrices, torch's AdamW for the rest, and singular values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cliptune.errors import BadInput
from cliptune.models.loading import load_model
from cliptune.training.optimization.muon import Muon, orthogonalised
from cliptune.training.optimization.optimizers import make_optimizer

RATE, DECAY = 0.01, 0.1


def stepped(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, like: Tensor) -> Tensor:
    """`parameter` after four steps with gradients that are always the same ones."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        parameter.grad = torch.randn(like.shape, generator=generator).view(parameter.shape)
        optimizer.step()
    return parameter.detach()


def ours(parameter: nn.Parameter, **group: Any) -> Muon:
    return Muon([{"params": [parameter], **group}], RATE, weight_decay=DECAY)


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (8, 8)])
def test_matrices_are_stepped_as_by_torchs_own(shape: tuple[int, int]) -> None:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mine, reference = (nn.Parameter(start.clone()) for _ in range(2))
    theirs = torch.optim.Muon([reference], RATE, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")
    expected = stepped(theirs, reference, start)
    torch.testing.assert_close(stepped(ours(mine, matrices=True), mine, start), expected)
    assert (expected - start).norm() > 0.01


def test_a_convolution_is_the_matrix_of_its_outputs() -> None:
    start = torch.randn((6, 20), generator=torch.Generator().manual_seed(0))
    flat = nn.Parameter(start.clone())
    shaped = start.clone().view(6, 5, 2, 2).contiguous(memory_format=torch.channels_last)
    convolution = nn.Parameter(shaped)
    expected = stepped(ours(flat, matrices=True), flat, start)
    found = stepped(ours(convolution, matrices=True), convolution, start)
    torch.testing.assert_close(found.flatten(1), expected)


def test_all_else_is_stepped_as_by_adamw() -> None:
    start = torch.randn((7, 3), generator=torch.Generator().manual_seed(0))
    mine, reference = (nn.Parameter(start.clone()) for _ in range(2))
    theirs = torch.optim.AdamW([reference], RATE, betas=(0.9, 0.98), eps=1e-6, weight_decay=DECAY)
    torch.testing.assert_close(stepped(ours(mine), mine, start), stepped(theirs, reference, start))


def test_all_directions_are_as_long() -> None:
    matrix = torch.diag(torch.logspace(0, -2, 16)) @ torch.linalg.qr(torch.randn(16, 16))[0]
    values = torch.linalg.svdvals(orthogonalised(matrix).float())
    assert torch.linalg.cond(matrix) > 90
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_embeddings_gains_and_biases_are_no_matrices() -> None:
    clip = load_model("builtin").clip
    optimizer = make_optimizer("Muon", {"momentum": 0.9}, RATE, clip)
    name_of = {id(parameter): name for name, parameter in clip.named_parameters()}
    names = {True: set[str](), False: set[str]()}
    for group in optimizer.param_groups:
        names[group["matrices"]] |= {name_of[id(parameter)] for parameter in group["params"]}
    assert {"token_embedding.weight", "positional_embedding", "logit_scale"} <= names[False]
    assert {"text_projection", "visual.trunk.stem.0.weight"} <= names[True]
    assert not any(name.endswith("bias") for name in names[True])
    assert all(group["momentum"] == 0.9 for group in optimizer.param_groups)


@pytest.mark.parametrize("options", [{"momentum": 1.0}, {"betas": [0.9, 1.5]}, {"nesterow": True}])
def test_bad_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=next(iter(options))):
        make_optimizer("Muon", options, RATE, nn.Linear(2, 2))
