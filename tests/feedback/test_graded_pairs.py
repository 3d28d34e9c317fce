"""Graded pairs of a log: weights against their definition, and against clicks that were drawn."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pytest

from cliptune.errors import BadInput
from cliptune.feedback.pairs import Export, graded_pairs
from cliptune.feedback.records import Asked, Event, Feedback, Record, Search, Shown

AT = datetime(2026, 11, 29, tzinfo=UTC)


def search(
    identity: str, shown: Sequence[str], text: str | None = "boots", first: int = 1
) -> Search:
    return Search(
        id=identity,
        at=AT,
        model="d",
        query=[Asked(text=text) if text else Asked(picture=True)],
        parameters={},
        shown=[Shown(rank=rank, id=one, score=0.0) for rank, one in enumerate(shown, first)],
    )


def told(identity: str, event: Event, *ids: str) -> Feedback:
    return Feedback(search=identity, at=AT, event=event, ids=list(ids))


def rows(made: Export) -> dict[tuple[str, str], tuple[int, float, int]]:
    return {(p.text, p.id): (p.grade, round(p.weight, 6), p.searches) for p in made.pairs}


def test_a_choice_counts_by_its_rank_and_by_how_often_it_was_shown() -> None:
    log: list[Record] = [
        search("1", "abc"),
        told("1", "click", "b"),
        told("1", "click", "b"),  # twice is once
        search("2", "abc", "  BOOTS "),
        search("3", "cab", "Boots"),
        told("3", "click", "b"),
        told("3", "purchase", "b"),
        search("4", "ab", "red  boots"),
        told("4", "cart", "a"),
        search("5", "xyz", first=21),
        told("5", "click", "z"),
        search("6", "ab", None),
        told("6", "click", "a"),
        search("7", "ab").model_copy(update={"query": [Asked(text="boots", weight=-1)]}),
        told("gone", "click", "a"),
        told("1", "click", "never shown"),
    ]
    made = graded_pairs(lambda: log)
    assert rows(made) == {
        ("boots", "b"): (3, round((2 + 3) / 3, 6), 3),
        ("red boots", "a"): (2, 1.0, 1),
        ("boots", "z"): (1, 10.0, 1),  # rank 23, cut
    }
    assert [pair.grade for pair in made.pairs] == [3, 2, 1]
    counts = (made.searches, made.without_text, made.feedback, made.unknown, made.not_shown)
    assert counts == (7, 2, 7, 1, 1)
    plain = graded_pairs(lambda: log, eta=0, source="shop")
    assert rows(plain)["boots", "b"] == (3, round(2 / 3, 6), 3)
    assert {pair.source for pair in plain.pairs} == {"shop"}
    assert rows(graded_pairs(lambda: log, max_weight=2.5))["boots", "b"] == (3, 1.5, 3)
    # Passed over: above the lowest choice of a search, and never chosen.
    skipped = rows(graded_pairs(lambda: log, skipped=True))
    assert {key: row for key, row in skipped.items() if not row[0]} == {
        ("boots", "a"): (0, round(2 / 3, 6), 3),
        ("boots", "c"): (0, round(1 / 3, 6), 3),
        ("boots", "x"): (0, 1.0, 1),
        ("boots", "y"): (0, 1.0, 1),
    }


def test_weights_estimate_what_people_think_wherever_a_document_stands() -> None:
    """Clicks drawn by the position-based model, from orders that favour the wrong documents."""
    draw = np.random.default_rng(0)
    relevance = {"good": 0.8, "fair": 0.4, "poor": 0.2}
    log: list[Record] = []
    for number in range(20_000):
        order = ["poor", "fair", "good"] if draw.random() < 0.9 else ["good", "fair", "poor"]
        log.append(search(str(number), order))
        for rank, one in enumerate(order, 1):
            if draw.random() < relevance[one] / rank:
                log.append(told(str(number), "click", one))
    weights = {pair.id: pair.weight for pair in graded_pairs(lambda: log).pairs}
    assert weights == pytest.approx(relevance, abs=0.02)
    naive = {pair.id: pair.weight for pair in graded_pairs(lambda: log, eta=0).pairs}
    assert naive["good"] < 0.45  # what ranks hide


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eta": -1}, "eta is -1, it must be from 0 to 5"),
        ({"eta": float("nan")}, "eta is nan"),
        ({"max_weight": 0.5}, "max_weight is 0.5"),
        ({"max_weight": float("inf")}, "max_weight is inf"),
        ({"source": " "}, "source is empty"),
    ],
)
def test_options_that_can_t_be_right(options: dict[str, float], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        graded_pairs(list, **options)
