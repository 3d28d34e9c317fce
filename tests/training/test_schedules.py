"""Schedules against torch's own where it has one, and against their shape."""

from __future__ import annotations

import pytest
import torch

from cliptune.errors import BadInput
from cliptune.training.optimization.optimizers import SCHEDULES, make_schedule

PEAK = 0.1


def rates(name: str, options: dict, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=PEAK)
    schedule = make_schedule(name, options, optimizer, 1, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_cosine_is_torchs() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=PEAK)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    for rate in rates("cosine", {"num_warmup_steps": 0}, 50):
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_rises_and_nothing_exceeds_the_peak(name: str) -> None:
    found = rates(name, {"num_warmup_steps": 10}, 100)
    assert found[:11] == sorted(found[:11])
    assert found[0] > 0
    assert max(found) == pytest.approx(PEAK)
    if "constant" not in name and "restarts" not in name:
        assert found[10:] == sorted(found[10:], reverse=True)
        assert found[-1] < 0.1 * PEAK


def test_restarts_come_back_to_the_peak() -> None:
    found = rates("cosine_with_restarts", {"num_cycles": 4, "num_warmup_steps": 0}, 100)
    assert [round(found[i], 6) for i in (0, 25, 50, 75)] == [PEAK] * 4


def test_a_fraction_of_warm_up_steps_and_wrong_options() -> None:
    assert rates("linear", {"num_warmup_steps": 0.2}, 100)[20] == pytest.approx(PEAK)
    with pytest.raises(BadInput, match="no option 'num_cycle'"):
        rates("cosine", {"num_cycle": 1}, 10)
    with pytest.raises(BadInput, match="num_warmup_steps is -1"):
        rates("cosine", {"num_warmup_steps": -1}, 10)
    for steps in ({}, {"num_training_steps": 10}):
        with pytest.raises(BadInput, match="num_warmup_steps is 11, and there are 10 steps"):
            rates("cosine", {"num_warmup_steps": 11, **steps}, 10)
