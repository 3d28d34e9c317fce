"""WiSE-FT's interpolation against its definition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from cliptune.errors import BadInput
from cliptune.models.artifact import TOWERS
from cliptune.models.artifact_writer import write_artifact
from cliptune.models.loading import ClipModel, load_model
from cliptune.models.wise_ft import interpolate, mix_models


def tuned_model(folder: Path) -> ClipModel:
    """The model in `folder` after all of its weights have moved; the logit scale too."""
    model = load_model(folder)
    torch.manual_seed(3)
    with torch.no_grad():
        for weights in model.clip.parameters():
            weights.add_(torch.randn_like(weights) * 0.1)
    return model


def stored(artifact: Path) -> dict[str, np.ndarray]:
    """All weights of an artifact, read without torch and without cliptune."""
    files = [artifact / "models" / tower / "model.safetensors" for tower in TOWERS]
    return {name: value for file in files for name, value in load_file(file).items()}


def test_a_mixed_artifact_holds_the_papers_sum(tiny_model: Path, tmp_path: Path) -> None:
    before, after = load_model(tiny_model), tuned_model(tiny_model)
    mixed = mix_models(before, after, 0.3)
    for name, model in (("before", before), ("after", after), ("mixed", mixed)):
        write_artifact(model, tmp_path / name)
    a, b, found = (stored(tmp_path / name) for name in ("before", "after", "mixed"))
    assert a.keys() == b.keys() == found.keys()
    assert "logit_scale" in found
    for name, value in found.items():
        expected = 0.7 * a[name].astype(np.float64) + 0.3 * b[name].astype(np.float64)
        np.testing.assert_allclose(value, expected, rtol=3e-7, atol=3e-8, err_msg=name)
    assert mixed.digest not in (before.digest, after.digest)
    assert load_model(tmp_path / "mixed").digest == mixed.digest


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_ends_are_the_two_models_bit_for_bit(
    tiny_model: Path, tmp_path: Path, alpha: float
) -> None:
    models = load_model(tiny_model), tuned_model(tiny_model)
    digests = [model.digest for model in models]
    mixed = mix_models(*models, alpha)
    for name, model in (("end", models[int(alpha)]), ("mixed", mixed)):
        write_artifact(model, tmp_path / name)
    for tower in TOWERS:
        file = f"models/{tower}/model.safetensors"
        assert (tmp_path / "end" / file).read_bytes() == (tmp_path / "mixed" / file).read_bytes()
    assert load_model(tmp_path / "mixed").digest == digests[int(alpha)]
    with torch.no_grad():
        mixed.clip.logit_scale.zero_()
    assert [load_model(tiny_model).digest, models[1].digest] == digests, "memory is shared"


def test_the_scale_is_mixed_as_a_logarithm() -> None:
    before, after = ({"logit_scale": torch.tensor(scale).log()} for scale in (10.0, 90.0))
    assert interpolate(before, after, 0.5)["logit_scale"].exp().item() == pytest.approx(30.0)


def test_a_logit_bias_that_fine_tuning_added_stays() -> None:
    before, after = {"w": torch.zeros(1)}, {"w": torch.ones(1), "logit_bias": torch.tensor(-7.0)}
    for alpha in (0.0, 0.25, 1.0):
        assert interpolate(before, after, alpha) == {"w": alpha, "logit_bias": -7.0}
    with pytest.raises(BadInput, match="logit_bias"):
        interpolate(after, before, 0.5)


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.7])
def test_weights_that_stayed_are_untouched_and_infinities_are_no_nan(alpha: float) -> None:
    inf = float("inf")
    frozen = torch.randn(1000)
    before = {"mask": torch.tensor([0.0, -inf, inf, -inf]), "frozen": frozen}
    after = {"mask": torch.tensor([0.0, -inf, inf, 2.0]), "frozen": frozen.clone()}
    mixed = interpolate(before, after, alpha)
    assert mixed["mask"].tolist() == [0.0, -inf, inf, -inf]
    assert torch.equal(mixed["frozen"], frozen)


def test_a_causal_mask_survives(tiny_model: Path) -> None:
    mixed = mix_models(load_model(tiny_model), tuned_model(tiny_model), 0.5)
    mask = mixed.clip.attn_mask
    assert torch.equal(mask, load_model(tiny_model).clip.attn_mask)
    assert mask.isneginf().any()
    assert mixed.text_module(mixed.tokenizer(["a red shoe"])).isfinite().all()


def test_batch_norms() -> None:
    def passed(batches: int, seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        norm = nn.BatchNorm2d(3)
        for _ in range(batches):
            norm(torch.randn(8, 3, 4, 4) * seed + seed)
        return norm.state_dict()

    before, after = passed(2, 1), passed(5, 4)
    mixed = interpolate(before, after, 0.25)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(mixed[name], 0.75 * before[name] + 0.25 * after[name])
    counts = [
        interpolate(before, after, alpha)["num_batches_tracked"] for alpha in (0.0, 0.25, 1.0)
    ]
    assert counts == [2, 5, 5]
    assert counts[1].dtype == torch.int64


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (torch.float16, torch.float16, torch.float16),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float32, torch.float32),
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.float64, torch.float64, torch.float64),
    ],
)
def test_half_and_double_weights_are_rounded_once(
    before: torch.dtype, after: torch.dtype, expected: torch.dtype
) -> None:
    torch.manual_seed(1)
    a, b = torch.randn(500).double().to(before), torch.randn(500).double().to(after)
    if before == torch.float64:
        a, b = a + 1e-12, b - 1e-12  # lost if the sum went through float32
    mixed = interpolate({"w": a}, {"w": b}, 0.3)["w"]
    assert mixed.dtype == expected
    exact = 0.7 * a.double() + 0.3 * b.double()
    # One rounding to the result's dtype, and that of the sum in float32 (or float64).
    unit = torch.finfo(expected).eps / 2
    inner = torch.finfo(torch.promote_types(expected, torch.float32)).eps * 4
    torch.testing.assert_close(mixed.double(), exact, rtol=unit, atol=inner)


def test_tied_weights_stay_tied() -> None:
    def tied(value: float) -> nn.Module:
        first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        nn.init.constant_(first.weight, value)
        second.weight = first.weight
        return nn.Sequential(first, second)

    before, after = tied(1.0), tied(3.0)
    after.load_state_dict(interpolate(before.state_dict(), after.state_dict(), 0.25))
    assert after[0].weight is after[1].weight
    assert after[1].weight.unique().tolist() == [1.5]


def test_all_but_the_weights_is_the_fine_tuned_models(tiny_model: Path) -> None:
    before = load_model(tiny_model)
    after = replace(tuned_model(tiny_model), name="tuned", base="its base")
    mixed = mix_models(before, after, 0.5)
    assert (mixed.name, mixed.base, mixed.tokenizer) == ("tuned", "its base", after.tokenizer)
    assert not mixed.clip.training


@pytest.mark.parametrize("alpha", [-0.01, 1.01, float("nan")])
def test_alpha_outside_is_refused(alpha: float) -> None:
    with pytest.raises(BadInput, match=f"alpha is {alpha}"):
        interpolate({}, {}, alpha)


def test_different_architectures_are_refused() -> None:
    with pytest.raises(BadInput, match="names"):
        interpolate({"a": torch.ones(1)}, {"b": torch.ones(1)}, 0.5)
    with pytest.raises(BadInput, match=r"a has the shapes \(1,\) and \(2,\)"):
        interpolate({"a": torch.ones(1)}, {"a": torch.ones(2)}, 0.5)
