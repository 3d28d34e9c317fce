"""Several texts of a picture: drawn by weight, the same ones again, and never a wrong answer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from cliptune.documents import ClipDoc
from cliptune.training import Cancelled, train
from cliptune.training.batches.pairs import batches
from cliptune.training.batches.samplers import random_order
from cliptune.training.batches.text_choices import (
    TextChoices,
    labels_with_texts,
    texts_with_weights,
)
from cliptune.training.state import list_checkpoints
from tests.training.test_batches import pairs
from tests.training.test_loop import Recorder, options, squares, weights

TEXTS = [{"a": 1.0}, {"b": 3.0, "c": 1.0}, {"d": 0.2, "e": 0.2, "c": 0.6}]
ROWS = {name: number for number, name in enumerate("abcde")}


def choices() -> TextChoices:
    made = TextChoices.of(TEXTS, ROWS, torch.arange(5)[:, None].repeat(1, 3), list("abcde"))
    assert made is not None
    return made


def test_texts_are_drawn_by_weight() -> None:
    made = choices()
    positions = np.array([2, 1, 0, 1])
    times: list[Counter[str]] = [Counter() for _ in positions]
    for seed in range(4000):
        for counted, row in zip(times, made.draw(positions, seed), strict=True):
            counted["abcde"[row]] += 1
    for position, counted in zip(positions, times, strict=True):
        total = sum(TEXTS[position].values())
        assert set(counted) == set(TEXTS[position])
        for text, weight in TEXTS[position].items():
            assert counted[text] / 4000 == pytest.approx(weight / total, abs=0.03)
    assert made.draw(positions, 7).tolist() == made.draw(positions, 7).tolist()
    part = made.subset(np.array([2, 1]))
    assert part.draw(np.array([0, 1]), 5).tolist() == made.draw(np.array([2, 1]), 5).tolist()
    assert TextChoices.of([{"a": 1.0}, {"b": 2.0}], ROWS, made.tokens, list("ab")) is None


def test_weights_that_nobody_can_mean_are_left_out() -> None:
    given = {"a": 1.0, "b": -1.0, "c": float("nan"), " ": 2.0, "d": float("inf")}
    assert texts_with_weights(ClipDoc(text="t", texts=given)) == {"a": 1.0}
    assert texts_with_weights(ClipDoc(text="t", texts={"a": 0.0})) == {"t": 1.0}


def test_pairs_that_draw_one_text_are_right_answers() -> None:
    labels = torch.tensor([5, 5, 7, 8, 9])
    joined = labels_with_texts(labels, [1, 2, 2, 3, 4]).tolist()
    assert joined[0] == joined[1] == joined[2]
    assert len({joined[0], joined[3], joined[4]}) == 3


def test_batches_draw_anew_each_epoch_and_alike_in_all_processes() -> None:
    data = pairs(3)
    data.choices = choices()
    order = random_order(3, 3, 0, 0)

    def texts(seed: int, rank: int = 0, world: int = 1) -> list[int]:
        [(_, batch)] = batches(
            data, order, rank=rank, world_size=world, seed_of=lambda step: seed + step
        )
        assert torch.equal(batch.pixels[:, 0, 0, 0].long(), torch.from_numpy(order[0][batch.here]))
        return batch.tokens[:, 0].tolist()

    assert len({tuple(texts(seed)) for seed in range(40)}) > 3
    assert texts(3, 0, 2) + texts(3, 1, 2) == texts(3)


@pytest.mark.parametrize("freeze", [False, "text"])
def test_a_run_with_several_texts_resumes_exactly(
    tiny_model: Path, tmp_path: Path, freeze: bool | str
) -> None:
    docs = squares(1)
    for doc in docs:
        doc.texts = {str(doc.text): 1.0, f"{doc.text} on white": 0.5, "square": 0.1}
    chosen = options(tiny_model, freeze=freeze, augment_word_order=0.5, label_smoothing=0.1)
    logger = Recorder()
    train(chosen, docs, squares(2, 1), [], tmp_path / "whole", logger)
    assert f"INFO {len(docs)} training pairs have several texts" in logger.lines
    with pytest.raises(Cancelled):
        train(chosen, docs, squares(2, 1), [], tmp_path / "stopped", Recorder(4))
    [checkpoint] = list_checkpoints(tmp_path / "stopped" / "checkpoints")
    train(chosen, docs, squares(2, 1), [], tmp_path / "stopped", Recorder(), checkpoint)
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    train(chosen, squares(1), squares(2, 1), [], tmp_path / "plain", Recorder())
    plain = weights(tmp_path / "plain")
    assert not all(torch.equal(expected[name], plain[name]) for name in expected)
