"""Depths, freezing and layer-wise rates on real architectures; LoRA merges into what it learnt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cliptune.errors import BadInput
from cliptune.models.loading import load_model
from cliptune.training.optimization.freezing import (
    block_counts,
    freeze_parameters,
    is_frozen,
    parameter_depths,
    training_mode,
)
from cliptune.training.optimization.lora import Adapters, LoraOptions
from cliptune.training.optimization.optimizers import make_optimizer


@pytest.mark.parametrize(
    ("name", "counts", "depths"),
    [
        (
            "builtin",
            {"text": 4},
            {
                "token_embedding.weight": 0,
                "transformer.resblocks.3.ln_1.weight": 4,
                "text_projection": 5,
                "visual.trunk.stem.0.weight": 0,
                "visual.trunk.stages.0.blocks.0.gamma": 1,
            },
        ),
        (
            "RN50::random",
            {"text": 12, "vision": 16},
            {
                "visual.conv1.weight": 0,
                "visual.layer1.0.conv1.weight": 1,
                "visual.layer4.2.conv3.weight": 16,
                "visual.attnpool.positional_embedding": 17,
                "transformer.resblocks.11.mlp.c_fc.weight": 12,
                "ln_final.weight": 13,
            },
        ),
    ],
)
def test_depths_follow_the_blocks(name: str, counts: dict, depths: dict) -> None:
    clip = load_model(name).clip
    found = {n: d for by_name in parameter_depths(clip).values() for n, d in by_name.items()}
    everything = {n for n, _ in clip.named_parameters()} - {"logit_scale"}
    assert found.keys() == everything
    assert {n: found[n] for n in depths} == depths
    assert block_counts(clip).items() >= counts.items()
    last = max(parameter_depths(clip)["vision"].values())
    heads = [n for n, d in found.items() if n.startswith("visual.") and d == last]
    assert any("head" in n or "attnpool" in n for n in heads)


def test_the_first_blocks_are_frozen_and_no_others(tiny_model: Path) -> None:
    clip = load_model(tiny_model).clip
    freeze_parameters(clip, {"vision": 1, "text": 2})
    trained = {name for name, p in clip.named_parameters() if p.requires_grad}
    assert "visual.conv1.weight" not in trained
    assert not any("visual.transformer.resblocks.0." in name for name in trained)
    assert any("visual.transformer.resblocks.1." in name for name in trained)
    text = {n for n in trained if not n.startswith("visual.")}
    assert text == {"logit_scale", "ln_final.weight", "ln_final.bias", "text_projection"}
    with pytest.raises(BadInput, match="the text tower has 2 blocks"):
        freeze_parameters(clip, {"text": 3})


def test_rates_fall_from_block_to_block(tiny_model: Path) -> None:
    clip = load_model(tiny_model).clip
    optimizer = make_optimizer("AdamW", {"layer_wise_lr_decay": 0.5}, 8.0, clip)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = {name: rate[id(p)] for name, p in clip.named_parameters()}
    assert len(rate) == len(named)
    assert named["logit_scale"] == named["visual.proj"] == named["text_projection"] == 8.0
    assert named["visual.transformer.resblocks.1.mlp.c_fc.weight"] == 4.0
    assert named["visual.transformer.resblocks.0.mlp.c_fc.weight"] == 2.0
    assert named["token_embedding.weight"] == 1.0
    with pytest.raises(BadInput, match=r"layer_wise_lr_decay is 1\.5"):
        make_optimizer("AdamW", {"layer_wise_lr_decay": 1.5}, 8.0, clip)


def test_batch_norms_keep_their_statistics() -> None:
    model = load_model("RN50::random")
    before = {name: b.clone() for name, b in model.clip.named_buffers()}
    training_mode(model.clip)
    model.vision_module(torch.randn(2, 3, 224, 224))
    after = dict(model.clip.named_buffers())
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.clip.training


@pytest.mark.parametrize("name", ["builtin", "tiny"])
def test_adapters_change_nothing_at_first_and_merge_into_plain_weights(
    name: str, tiny_model: Path
) -> None:
    model = load_model(tiny_model if name == "tiny" else name)
    clip = model.clip
    names = clip.state_dict().keys()
    x = torch.randn(3, 3, *model.preprocessing.size)
    tokens = model.tokenizer(["a", "a red dress", "two"], model.context_length)

    def embed() -> torch.Tensor:
        return torch.cat([model.vision_module(x), model.text_module(tokens)])

    with torch.no_grad():
        before = embed()
    adapters = Adapters(clip, LoraOptions(rank=2))
    torch.testing.assert_close(embed().detach(), before)
    trained = {name: p for name, p in clip.named_parameters() if p.requires_grad}
    assert all("lora_" in name or name == "logit_scale" for name in trained)
    assert not is_frozen(clip, "vision")
    assert not is_frozen(clip, "text")
    embed().square().sum().backward()
    assert all(p.grad is not None for name, p in trained.items() if "lora_B" in name)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(0.05 * torch.randn_like(parameter))
        learnt = embed()
    assert not torch.allclose(learnt, before, atol=1e-3)
    adapters.merge()
    assert clip.state_dict().keys() == names
    with torch.no_grad():
        torch.testing.assert_close(embed(), learnt, atol=1e-4, rtol=1e-4)


def test_a_frozen_tower_gets_no_adapters(tiny_model: Path) -> None:
    clip = load_model(tiny_model).clip
    freeze_parameters(clip, "vision")
    Adapters(clip, LoraOptions())
    assert is_frozen(clip, "vision")
    assert not is_frozen(clip, "text")
