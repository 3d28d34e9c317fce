"""Gradient caching: whatever the parts, the gradients are those of the whole batch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cliptune.errors import BadInput
from cliptune.models.loading import ClipModel, load_model
from cliptune.models.openclip import open_clip
from cliptune.training.batches.augmentation import to_input
from cliptune.training.batches.features import add_frozen_features
from cliptune.training.batches.pairs import Batch, Pairs, read_batch
from cliptune.training.losses import LOSSES
from cliptune.training.optimization.freezing import freeze_parameters, training_mode
from cliptune.training.step import Objective

CPU = torch.device("cpu")


def random_batch(model: ClipModel, n: int, seed: int = 0) -> Batch:
    random = np.random.default_rng(seed)
    words = ["red", "blue", "dress", "shirt", "cotton", "long", "new", "soft"]
    texts = [" ".join(random.choice(words, random.integers(1, 7))) + f" {i}" for i in range(n)]
    pairs = Pairs(
        random.integers(0, 256, (n, *model.preprocessing.size, 3), dtype=np.uint8),
        model.tokenizer(texts, model.context_length),
        torch.arange(n),
        [str(i) for i in range(n)],
    )
    return read_batch(pairs, np.arange(n), slice(0, n))


def gradients(model: ClipModel) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.clip.named_parameters() if p.grad is not None}


def test_beginnings_of_embeddings_are_trained_as_embeddings(tiny_model: Path) -> None:
    model = load_model(tiny_model)
    batch = random_batch(model, 12)
    whole = model.output_dim
    lengths = (2, whole // 2)
    for parts in (12, 5):
        objective = Objective(
            model, LOSSES["CLIPLoss"], CPU, micro_batch_size=parts, matryoshka=lengths
        )
        model.clip.zero_grad()
        loss = objective.backward(batch, seed=1)
        ours = gradients(model)
        model.clip.zero_grad()
        images = model.clip.encode_image(to_input(batch.pixels, model.preprocessing, CPU))
        texts = model.clip.encode_text(batch.tokens)
        theirs = [
            open_clip.ClipLoss()(
                F.normalize(images[:, :length], dim=-1),
                F.normalize(texts[:, :length], dim=-1),
                model.clip.logit_scale.exp(),
            )
            for length in (*lengths, whole)
        ]
        (sum(theirs) / 3).backward()
        assert loss == pytest.approx(sum(one.item() for one in theirs) / 3, abs=1e-5)
        for name, gradient in gradients(model).items():  # those of two numbers are large
            torch.testing.assert_close(ours[name], gradient, atol=2e-4, rtol=1e-3)
    with pytest.raises(BadInput, match=f"use lengths below {whole}"):
        Objective(model, LOSSES["CLIPLoss"], CPU, micro_batch_size=4, matryoshka=(8, whole))


def test_the_whole_batch_is_open_clips_own_backward(tiny_model: Path) -> None:
    model = load_model(tiny_model)
    batch = random_batch(model, 24)
    objective = Objective(model, LOSSES["CLIPLoss"], CPU, micro_batch_size=24)
    loss = objective.backward(batch, seed=1)
    ours = gradients(model)
    model.clip.zero_grad()
    images = model.clip.encode_image(to_input(batch.pixels, model.preprocessing, CPU))
    texts = model.clip.encode_text(batch.tokens)
    theirs = open_clip.ClipLoss()(
        F.normalize(images, dim=-1), F.normalize(texts, dim=-1), model.clip.logit_scale.exp()
    )
    theirs.backward()
    assert loss == pytest.approx(theirs.item(), abs=1e-5)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "loss"), [("tiny", "SigLIPLoss"), ("builtin", "CLIPLoss")])
def test_parts_of_any_size_give_the_same_gradients(
    name: str, loss: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cliptune.training.step._STRIP", 10)
    model = load_model(tiny_model if name == "tiny" else name)
    batch = random_batch(model, 26)
    training_mode(model.clip)
    found = []
    for parts in (26, 7, 1):
        model.clip.zero_grad()
        objective = Objective(
            model, LOSSES[loss], CPU, micro_batch_size=parts, min_area=0.5, flip=True
        )
        value = objective.backward(batch, seed=3)
        found.append((value, gradients(model)))
    for value, each in found[1:]:
        assert value == pytest.approx(found[0][0], abs=1e-5)
        for parameter, gradient in found[0][1].items():
            torch.testing.assert_close(each[parameter], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["tiny", "builtin", pytest.param("RN50::random", marks=pytest.mark.e2e)]
)
@pytest.mark.parametrize("freeze", ["text", True])
def test_frozen_features_give_the_gradients_of_the_whole_towers(
    name: str, freeze: bool | str, tiny_model: Path
) -> None:
    model = load_model(tiny_model if name == "tiny" else name)
    freeze_parameters(model.clip, freeze)
    plain = random_batch(model, 5)
    pairs = Pairs(plain.pixels.numpy(), plain.tokens, plain.labels, list("abcde"))
    add_frozen_features(model, pairs, CPU, 2, lambda done, total: None)
    assert pairs.text_features is not None
    assert (pairs.image_features is not None) == (freeze is True)
    training_mode(model.clip)
    objective = Objective(model, LOSSES["CLIPLoss"], CPU, micro_batch_size=5)
    expected = objective.backward(plain, seed=1), gradients(model)
    model.clip.zero_grad()
    found = objective.backward(read_batch(pairs, np.arange(5), slice(0, 5)), seed=1)
    assert found == pytest.approx(expected[0], abs=1e-5)
    for parameter, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[1][parameter], atol=1e-5, rtol=1e-3)
    assert gradients(model).keys() == expected[1].keys()


_MEASURED = r"""
import json, re, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from tests.training.test_objective import CPU, LOSSES, Objective
from tests.training.test_objective import load_model, random_batch, training_mode
def peak():
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
model = load_model("builtin")
batch = random_batch(model, int(sys.argv[2]))
training_mode(model.clip)
before = peak()
objective = Objective(model, LOSSES["CLIPLoss"], CPU, micro_batch_size=256, min_area=0.9, flip=True)
loss = objective.backward(batch, seed=1)
print(json.dumps({"mib": peak() - before, "loss": loss}))
"""


@pytest.mark.e2e
def test_1024_pairs_train_in_the_memory_of_256() -> None:
    def peak(pairs: int) -> float:
        command = [sys.executable, "-c", _MEASURED, str(Path(__file__).parents[2]), str(pairs)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])["mib"]

    few, many = peak(256), peak(1024)
    assert few > 300, "a batch's activations should be seen"
    assert many < 1.25 * few, (few, many)
