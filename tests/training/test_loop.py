"""The loop on real (small) pictures: it learns, repeats, resumes exactly, and fails clearly."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from docarray import DocList
from PIL import Image
from safetensors.torch import load_file, save_file

from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadInput
from cliptune.models.loading import load_model
from cliptune.models.modules import VisionModule
from cliptune.training import Cancelled, TrainingOptions, train
from cliptune.training.callbacks import Callback, EvaluationCallback, WiSEFTCallback
from cliptune.training.run_logger import StandardRunLogger
from cliptune.training.state import Training, list_checkpoints
from cliptune.training.step import TrainingFailed

COLOURS = {
    "red": (200, 30, 30),
    "green": (30, 160, 40),
    "blue": (30, 50, 200),
    "black": (10, 10, 10),
    "yellow": (230, 210, 40),
    "pink": (250, 150, 190),
}


class Recorder(StandardRunLogger):
    """Remembers what it is told; stops the run after `stop_after` steps."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.steps: list[tuple[str, int, int, dict[str, float]]] = []
        self.stop_after = stop_after
        self.asked = 0

    def log(self, level: str, message: str) -> None:
        self.lines.append(f"{level} {message}")

    def progress(self, description: str, done: int, total: int, **values: float) -> None:
        self.steps.append((description, done, total, values))

    def cancelled(self) -> bool:
        self.asked += 1
        return self.asked == self.stop_after


def squares(seed: int, per_colour: int = 6) -> DocList[ClipDoc]:
    """Noisy one-colour pictures with a title."""
    random = np.random.default_rng(seed)
    docs = []
    for name, colour in COLOURS.items():
        for number in range(per_colour):
            noise = random.integers(-20, 20, (40, 36, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            text = f"a {name} square"
            docs.append(ClipDoc(id=f"{name}-{seed}-{number}", text=text, image=buffer.getvalue()))
    return DocList[ClipDoc](docs)


def options(tiny_model: Path, **values: Any) -> TrainingOptions:
    settings = {"epochs": 3, "batch_size": 12, "learning_rate": 3e-3, "device": "cpu"}
    return TrainingOptions.parse({"model": str(tiny_model), **settings, **values})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder / "artifact").clip.state_dict()


def test_it_learns_and_says_so(tiny_model: Path, tmp_path: Path) -> None:
    evaluation = EvaluationCallback(query_data=squares(2, 1), index_data=squares(3), limit=5)
    logger = Recorder()
    outcome = train(
        options(tiny_model, epochs=6), squares(1), squares(4, 2), [evaluation], tmp_path, logger
    )
    name = "clip-text-to-clip-vision_precision_at_k"
    assert outcome.after[name] > outcome.before[name] + 0.3
    assert outcome.after[name] == outcome.history[-1]["metrics"][name]
    losses = [entry["loss"] for entry in outcome.history]
    assert losses[-1] < 0.7 * losses[0]
    assert outcome.history[-1]["val_loss"] < outcome.history[0]["val_loss"]
    description, done, total, values = [s for s in logger.steps if "Training" in s[0]][-1]
    assert (description, done, total) == ("Training [6/6]", 3, 3)
    assert values == {"loss": losses[-1], "val_loss": outcome.history[-1]["val_loss"]}
    assert "INFO Done ✨" in logger.lines
    assert f"DEBUG Metric: {name!r} Value: {outcome.after[name]:.5f}" in logger.lines
    scale = weights(tmp_path)["logit_scale"]
    assert 0 <= scale <= np.log(100) + 1e-6


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_as_well(
    tiny_model: Path, tmp_path: Path, precision: Literal["bf16", "fp16"]
) -> None:
    def losses(precision: str) -> list[float]:
        chosen = options(tiny_model, precision=precision)
        found = train(chosen, squares(1), None, [], tmp_path / precision, Recorder())
        return [entry["loss"] for entry in found.history]

    found, exact = losses(precision), losses("fp32")
    assert found != exact
    assert found[-1] < 0.9 * found[0]
    # fp16's scaler leaves out the first steps, until its scale no longer overflows.
    same = found if precision == "bf16" else found[:1]
    assert same == pytest.approx(exact[: len(same)], rel=0.05)


def test_the_same_seed_gives_the_same_losses_and_weights(tiny_model: Path, tmp_path: Path) -> None:
    def run(name: str, seed: int) -> list[float]:
        found = train(
            options(tiny_model, seed=seed), squares(1), None, [], tmp_path / name, Recorder()
        )
        return [entry["loss"] for entry in found.history]

    assert run("a", 1) == run("b", 1) != run("c", 2)
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("stop_after", "settings"),
    [
        (1, {}),
        (3, {"batch_size": None, "micro_batch_size": 5}),
        (4, {"loss": "SigLIPLoss", "lora": {"rank": 4}, "optimizer": "SGD"}),
        (8, {"sampler": "hard_negatives", "freeze": "vision"}),
        (4, {"precision": "fp16"}),
    ],
)
def test_a_stopped_run_resumes_to_the_same_weights(
    tiny_model: Path, tmp_path: Path, stop_after: int, settings: dict[str, Any]
) -> None:
    callbacks = [EvaluationCallback(query_data=squares(2, 1), index_data=squares(3), limit=5)]
    chosen = options(tiny_model, **settings)
    whole = train(chosen, squares(1), None, callbacks, tmp_path / "whole", Recorder())
    stopped = tmp_path / "stopped"
    with pytest.raises(Cancelled):
        train(chosen, squares(1), None, callbacks, stopped, Recorder(stop_after))
    assert not (stopped / "artifact").exists()
    [checkpoint] = list_checkpoints(stopped / "checkpoints")
    again = train(chosen, squares(1), None, callbacks, stopped, Recorder(), checkpoint)
    expected, found = weights(tmp_path / "whole"), weights(stopped)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert again.before == whole.before
    assert again.after == whole.after
    assert [e["loss"] for e in again.history] == [e["loss"] for e in whole.history]


def test_wise_ft_mixes_what_is_saved_and_measured(tiny_model: Path, tmp_path: Path) -> None:
    plain = options(tiny_model)
    train(plain, squares(1), None, [], tmp_path / "tuned", Recorder())
    train(plain, squares(1), None, [WiSEFTCallback(alpha=0.3)], tmp_path / "mixed", Recorder())
    train(plain, squares(1), None, [WiSEFTCallback(alpha=0.0)], tmp_path / "zero", Recorder())
    before, tuned = load_model(tiny_model).clip.state_dict(), weights(tmp_path / "tuned")
    for name, value in weights(tmp_path / "mixed").items():
        torch.testing.assert_close(value, 0.7 * before[name] + 0.3 * tuned[name])
    assert load_model(tmp_path / "zero" / "artifact").digest == load_model(tiny_model).digest


@pytest.mark.parametrize(
    ("freeze", "moves"), [("vision", "text"), ("text", "vision"), (True, "heads")]
)
def test_frozen_towers_stay_as_they_were(
    tiny_model: Path, tmp_path: Path, freeze: bool | str, moves: str
) -> None:
    train(options(tiny_model, freeze=freeze), squares(1), None, [], tmp_path, Recorder())
    before, after = load_model(tiny_model).clip.state_dict(), weights(tmp_path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "logit_scale" in changed
    is_vision = {name.startswith("visual.") for name in changed - {"logit_scale"}}
    assert is_vision == {"text": {False}, "vision": {True}, "heads": {False, True}}[moves]
    if moves == "heads":
        assert changed == {"logit_scale", "text_projection", "visual.proj"}


@pytest.mark.parametrize("freeze", ["vision", True])
def test_a_frozen_towers_features_are_computed_once(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, freeze: bool | str
) -> None:
    seen: list[int] = []
    forward = VisionModule.forward

    def counted(self: VisionModule, pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        return forward(self, pixels)

    monkeypatch.setattr(VisionModule, "forward", counted)
    logger = Recorder()
    chosen = options(tiny_model, freeze=freeze, micro_batch_size=12)
    train(chosen, squares(1), squares(4, 2), [], tmp_path, logger)
    pictures = 6 * 6 + 6 * 2
    assert sum(seen) == pictures, "three epochs, and each picture embedded once"
    assert any("pictures are embedded once, not cropped" in line for line in logger.lines)


def test_adapters_are_merged_into_a_plain_model(tiny_model: Path, tmp_path: Path) -> None:
    evaluation = EvaluationCallback(query_data=squares(2, 1), index_data=squares(3), limit=5)
    logger = Recorder()
    chosen = options(tiny_model, epochs=6, learning_rate=0.02, lora={"rank": 4})
    outcome = train(chosen, squares(1), None, [evaluation], tmp_path, logger)
    name = "clip-text-to-clip-vision_precision_at_k"
    assert outcome.after[name] == pytest.approx(outcome.history[-1]["metrics"][name], abs=0.02)
    assert outcome.after[name] > outcome.before[name] + 0.2
    before, after = load_model(tiny_model).clip.state_dict(), weights(tmp_path)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert all("attn" in name or "mlp" in name for name in changed - {"logit_scale"})
    assert any("parameters are trained in" in line for line in logger.lines)


def test_siglips_loss_gives_a_bias_that_goes_along(tiny_model: Path, tmp_path: Path) -> None:
    chosen = options(tiny_model, loss="SigLIPLoss", epochs=6)
    outcome = train(chosen, squares(1), squares(4, 2), [], tmp_path, Recorder())
    assert outcome.history[-1]["val_loss"] < outcome.history[0]["val_loss"]
    tuned = load_model(tmp_path / "artifact")
    assert tuned.clip.logit_bias.item() < 0
    mixed = WiSEFTCallback(alpha=0.5)
    train(chosen, squares(1), None, [mixed], tmp_path / "mixed", Recorder())
    assert load_model(tmp_path / "mixed" / "artifact").clip.logit_bias is not None
    again = options(tmp_path / "artifact", loss="SigLIPLoss", epochs=1)
    train(again, squares(1), None, [], tmp_path / "again", Recorder())


def test_checkpoints_of_another_run_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    train(options(tiny_model), squares(1), None, [], tmp_path, Recorder())
    [checkpoint] = list_checkpoints(tmp_path / "checkpoints")
    other = options(tiny_model, learning_rate=1e-3)
    with pytest.raises(BadInput, match="another run: its options"):
        train(other, squares(1), None, [], tmp_path, Recorder(), checkpoint)


def test_a_loss_that_is_not_a_number_stops_with_the_batch(tiny_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    weights_file = broken / "open_clip_model.safetensors"
    state = load_file(weights_file)
    state["positional_embedding"][1, 2] = float("nan")
    save_file(state, weights_file)
    wild = options(broken)
    with pytest.raises(TrainingFailed, match=r"the loss is nan in epoch 1 at step 1"):
        train(wild, squares(1), None, [], tmp_path, Recorder())
    saved = json.loads((tmp_path / "bad-batch.json").read_text())
    assert set(saved["ids"]) <= {doc.id for doc in squares(1)}
    assert len(saved["ids"]) == 12
    assert not (tmp_path / "artifact").exists()


class Spoiler(Callback):
    """Makes the second step's gradients of the logit scale not a number."""

    name: Literal["Spoiler"] = "Spoiler"

    def on_step_end(self, training: Training) -> None:
        training.model.clip.logit_scale.register_hook(lambda gradient: gradient * torch.nan)


@pytest.mark.parametrize("max_grad_norm", [1.0, None])
def test_gradients_that_are_not_numbers_stop_with_their_own_batch(
    tiny_model: Path, tmp_path: Path, max_grad_norm: float | None
) -> None:
    """With a finite loss: or the weights would be spoilt, and the next batch blamed."""
    wild = options(tiny_model, max_grad_norm=max_grad_norm)
    with pytest.raises(TrainingFailed, match=r"the gradients' norm is nan in epoch 1 at step 2"):
        train(wild, squares(1), None, [Spoiler()], tmp_path, Recorder())
    assert len(json.loads((tmp_path / "bad-batch.json").read_text())["ids"]) == 12


def test_too_little_data(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"1 usable training pair"):
        train(options(tiny_model), squares(1)[:1], None, [], tmp_path, Recorder())
    with pytest.raises(BadData, match="same label"):
        train(options(tiny_model), squares(1)[:6], None, [], tmp_path, Recorder())
