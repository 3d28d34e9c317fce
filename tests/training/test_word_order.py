"""Texts with their words in another order: the same words, alike in all processes, if wanted."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cliptune.models.loading import load_model
from cliptune.training import train
from cliptune.training.batches.pairs import Pairs, batches
from cliptune.training.batches.samplers import random_order
from cliptune.training.batches.text_choices import TextChoices
from cliptune.training.batches.word_order import WordOrder
from tests.training.test_batches import pairs
from tests.training.test_loop import Recorder, options, squares

TEXTS = [f"brand {n}, men red   sports shoe" for n in range(8)]


def tokens_of(texts: list[str]) -> torch.Tensor:
    """A number for each word, 0 after the last."""
    numbers = [[1 + sum(map(ord, word)) for word in text.split()] for text in texts]
    return torch.tensor([row + [0] * (8 - len(row)) for row in numbers])


def with_order(part: float) -> Pairs:
    data = pairs(8)
    data.tokens, data.word_order = tokens_of(TEXTS), WordOrder(part, TEXTS, tokens_of)
    return data


def read(data: Pairs, seed: int | None, rank: int = 0, world: int = 1) -> list[list[int]]:
    order = random_order(8, 8, 0, 0)
    [(_, batch)] = batches(data, order, rank=rank, world_size=world, seed_of=lambda _: seed)
    assert batch.tokens is not None
    return batch.tokens.tolist()


def test_words_stay_and_their_order_is_drawn() -> None:
    data = with_order(0.5)
    plain = read(data, None)
    assert plain == tokens_of([TEXTS[i] for i in random_order(8, 8, 0, 0)[0]]).tolist()
    changed, orders = 0, set()
    for seed in range(200):
        drawn = read(data, seed)
        assert [sorted(row) for row in drawn] == [sorted(row) for row in plain]
        changed += sum(a != b for a, b in zip(drawn, plain, strict=True))
        orders.add(tuple(drawn[0]))
    # One of 720 orders of six words is that of before.
    assert changed / 1600 == pytest.approx(0.5, abs=0.05)
    assert len(orders) > 60
    assert data.tokens.tolist() == tokens_of(TEXTS).tolist()
    assert all(a != b for a, b in zip(read(with_order(1), 3), plain, strict=True))
    assert read(with_order(0), 3) == plain


def test_alike_in_all_processes_and_in_each_run() -> None:
    data = with_order(0.5)
    whole = read(data, 5)
    assert read(data, 5) == whole
    assert read(data, 5, 0, 3) + read(data, 5, 1, 3) + read(data, 5, 2, 3) == whole


def test_of_the_text_that_was_drawn() -> None:
    data = with_order(1)
    other = [text.replace("shoe", "boot") for text in TEXTS]
    unique = [*TEXTS, *other]
    data.choices = TextChoices.of(
        [{a: 1.0, b: 1.0} for a, b in zip(TEXTS, other, strict=True)],
        {text: row for row, text in enumerate(unique)},
        tokens_of(unique),
        unique,
    )
    assert data.choices is not None
    data.word_order = WordOrder(1, data.choices.texts, tokens_of)
    plain = with_order(0)
    plain.choices = data.choices
    drawn, as_it_is = read(data, 4), read(plain, 4)
    assert [sorted(row) for row in drawn] == [sorted(row) for row in as_it_is]
    assert drawn != as_it_is


def test_tokens_are_those_of_a_text_in_that_order() -> None:
    model = load_model("builtin")
    tokenize = partial(model.tokenizer, context_length=model.context_length)
    order = WordOrder(1.0, ["Red shoes"], tokenize)
    given = tokenize(["Red shoes"])
    found = {tuple(order.read(given, [0], np.array([s]))[0].tolist()) for s in range(20)}
    assert found == {tuple(row.tolist()) for row in tokenize(["Red shoes", "shoes Red"])}


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({}, None),
        ({"augment_word_order": 0}, None),
        ({"augment_word_order": 0.25}, 0.25),
        ({"freeze": "text", "augment_word_order": 0.25}, None),
    ],
)
def test_in_a_training(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
    part: float | None,
) -> None:
    seen: list[float | None] = []

    def looked_at(data: Pairs, *args: Any, **kwargs: Any) -> Any:
        seen.append(data.word_order.part if data.word_order else None)
        return batches(data, *args, **kwargs)

    monkeypatch.setattr("cliptune.training.loop.batches", looked_at)
    logger = Recorder()
    train(options(tiny_model, epochs=1, **given), squares(2), None, [], tmp_path, logger)
    assert seen == [part]
    told = "INFO the text tower is frozen: texts are embedded once, as they are"
    assert (told in logger.lines) == ("freeze" in given)


def test_smoothing_changes_the_loss_of_training_and_not_that_of_validation(
    tiny_model: Path, tmp_path: Path
) -> None:
    losses = {}
    for smoothing in (0.0, 0.5):
        logger = Recorder()
        outcome = train(
            options(tiny_model, epochs=1, learning_rate=1e-9, label_smoothing=smoothing),
            squares(2),
            squares(3),
            [],
            tmp_path / str(smoothing),
            logger,
        )
        assert ("INFO targets are smoothed by 0.5" in logger.lines) == bool(smoothing)
        [losses[smoothing]] = outcome.history
    assert losses[0.5]["loss"] != pytest.approx(losses[0.0]["loss"], rel=1e-5)
    assert losses[0.5]["val_loss"] == pytest.approx(losses[0.0]["val_loss"], rel=1e-4)
