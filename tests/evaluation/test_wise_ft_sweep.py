"""Sweeping WiSE-FT's alpha: the ends, the middle, the rule, the ranges and the picture."""

from __future__ import annotations

import warnings
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from docarray import DocList
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadInput
from cliptune.evaluation.retrieval import evaluate
from cliptune.evaluation.wise_ft import Documents, Point, Rule, parse_alphas, sweep
from cliptune.evaluation.wise_ft_plot import frontier_plot
from cliptune.inference import get_tower
from cliptune.models.loading import ClipModel, load_model

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 40), "blue": (30, 50, 200), "grey": (90,) * 3}
MRR = "reciprocal_rank"


def drawn(folder: Path, seed: int) -> Documents:
    """Queries for colours, two of them with one text, and noisy pictures of them as files."""
    random = np.random.default_rng(seed)
    queries, index = DocList[ClipDoc](), DocList[ClipDoc]()
    folder.mkdir()
    for name, colour in COLOURS.items():
        queries.append(ClipDoc(text=f"a {name} square of noise", label=name))
        for number in range(9):
            noise = random.integers(-60, 60, (33, 40, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            path = folder / f"{name}-{number}.png"
            Image.fromarray(pixels).save(path)
            index.append(ClipDoc(uri=str(path), label=name))
    queries.append(ClipDoc(text="a red square of noise", label="red"))
    queries.append(ClipDoc(text="red"))  # its text is its label
    return queries, index


@pytest.fixture(scope="module")
def models(tiny_model: Path) -> tuple[ClipModel, ClipModel]:
    """A model, and the same after all its weights have moved."""
    before, after = load_model(tiny_model), load_model(tiny_model)
    torch.manual_seed(5)
    with torch.no_grad():
        for weights in after.clip.parameters():
            weights.add_(torch.randn_like(weights) * 0.3 * (weights.std() if weights.dim() else 1))
    return before, after


def measured(model: ClipModel, documents: Documents, limit: int) -> dict[str, float]:
    towers = get_tower(model, "clip-text"), get_tower(model, "clip-vision")
    return evaluate(*towers, *documents, limit=limit).metrics


def test_a_sweep_measures_what_evaluate_does_and_decodes_once(
    models: tuple[ClipModel, ClipModel], tiny_model: Path, tmp_path: Path
) -> None:
    before, after = models
    digests = before.digest, after.digest
    in_domain, robust = drawn(tmp_path / "a", 1), drawn(tmp_path / "b", 2)
    by_hand = load_model(tiny_model)
    ends = before.clip.state_dict(), after.clip.state_dict()
    by_hand.clip.load_state_dict(
        {name: 0.7 * ends[0][name] + 0.3 * ends[1][name] for name in ends[0]}
    )
    expected = [
        [measured(model, data, 5) for model in (before, by_hand, after)]
        for data in (in_domain, robust)
    ]
    seen = []

    def progress(description: str, done: int, total: int) -> None:
        seen.append((description, done, total))
        if description == "Measuring" and done == 0:
            for path in tmp_path.rglob("*.png"):
                path.unlink()  # nothing is read after this

    points = sweep(before, after, [1, 0.3, 0.3], in_domain, robust, limit=5, on_progress=progress)
    assert [point.alpha for point in points] == [0, 0.3, 1]
    for number, point in enumerate(points):
        assert point.in_domain == pytest.approx(expected[0][number], abs=1e-12)
        assert point.robust == pytest.approx(expected[1][number], abs=1e-12)
    assert points[0].in_domain != points[2].in_domain
    assert points[1].in_domain != points[1].robust
    assert (before.digest, after.digest) == digests
    assert seen[-4:] == [("Measuring", done, 3) for done in range(4)]
    assert {s[0] for s in seen} >= {"Decoding in-domain pictures", "Decoding robust pictures"}


def test_what_a_sweep_refuses(models: tuple[ClipModel, ClipModel], tmp_path: Path) -> None:
    before, after = models
    queries, index = drawn(tmp_path / "a", 1)
    for alphas, words in (([], "no alphas"), ([0.5, 1.5], "alpha is 1.5")):
        with pytest.raises(BadInput, match=words):
            sweep(before, after, alphas, (queries, index))
    with pytest.raises(BadInput, match="differ in their weights' names"):
        sweep(load_model("builtin"), after, [0.5], (queries, index))
    without_text = DocList[ClipDoc]([*queries[:1], ClipDoc(label="red"), ClipDoc(id="x", text=" ")])
    with pytest.raises(BadData, match=r"robust queries: 2 of 3 .*document 2 \(id x\): an empty"):
        sweep(before, after, [0.5], (queries, index), (without_text, index))
    others = DocList[ClipDoc]([ClipDoc(text="a boat")])
    with pytest.raises(BadData, match=r"robust data: no query has a relevant document.*a boat"):
        sweep(before, after, [0.5], (queries, index), (others, index))
    # Without a label and a text, it is the same as the one with its picture.
    unlabelled = DocList[ClipDoc]([*index, ClipDoc(id="y", uri=index[0].uri)])
    [point] = sweep(before, after, [0.5], (queries, unlabelled))
    assert point.in_domain_counts == {
        "n_queries": len(queries), "n_index": len(index) + 1, "n_without_answers": 0,
    }  # fmt: skip


def test_half_documents_are_left_out_of_a_sweep(
    models: tuple[ClipModel, ClipModel], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queries, index = drawn(tmp_path / "a", 1)
    [expected] = sweep(*models, [0.5], (queries, index))
    halves = DocList[ClipDoc]([ClipDoc(id="x", label="red"), *queries])
    more = DocList[ClipDoc]([*index, ClipDoc(id="y", text="red")])
    assert sweep(*models, [0.5], (halves, more)) == [expected]
    assert "in-domain queries: 1 left out: document 0 (id x): no title" in caplog.text
    assert "(id y): no picture" in caplog.text


def points(*rows: tuple[float, ...]) -> list[Point]:
    """Rows of alpha, the in-domain value and perhaps the robust value."""
    return [
        Point(alpha, {MRR: inside, "hit_at_k": 1 - inside}, {MRR: rest[0]} if rest else None)
        for alpha, inside, *rest in rows
    ]


PEAK = [(0, 0.50, 0.40), (0.25, 0.60, 0.50), (0.5, 0.70, 0.45), (0.75, 0.80, 0.397), (1, 0.82, 0.3)]


@pytest.mark.parametrize(
    ("rows", "max_loss", "alpha"),
    [
        (PEAK, 0.0, 0.5),  # as robust as alpha 0, which is not the most robust one
        (PEAK, 0.007, 0.5),
        (PEAK, 0.01, 0.75),  # 0.397 is within 1 % of 0.4
        (PEAK, 0.24, 0.75),
        (PEAK, 0.26, 1),
        (PEAK[::-1], 0.01, 0.75),  # the order does not matter
        ([(0, 0.5, 0.4), (0.5, 0.7, 0.4), (1, 0.7, 0.4)], 0.0, 0.5),  # equally good: the smaller
        ([(0, 0.5, 0.9), (0.5, 0.6, 0.5), (1, 0.6, 0.2)], 0.01, 0),  # all mixing hurts
        ([(0, 0.5, 0.0), (0.6, 0.6, 0.0)], 0.0, 0.6),  # nothing to lose
        ([(0, 0.5), (0.5, 0.9), (1, 0.8)], 0.0, 0.5),  # no robust data
        ([(1, 0.9), (0.5, 0.9), (0.1, 0.8)], 0.0, 0.5),
    ],
)
def test_the_rule(rows: list[tuple[float, ...]], max_loss: float, alpha: float) -> None:
    pick = Rule(MRR, max_loss).pick(points(*rows))
    assert pick.alpha == alpha
    value = next(inside for a, inside, *_ in rows if a == alpha)
    assert f"the best in-domain {MRR}, {value:.4f}" in pick.reason


def test_the_reason_says_what_was_left_out() -> None:
    assert Rule(MRR, 0.01).pick(points(*PEAK)).reason == (
        "the best in-domain reciprocal_rank, 0.8000, among the 4 of 5 alphas whose robust "
        "reciprocal_rank is at least 0.3960, which is 1 % below the pre-trained model's"
    )
    for few, words in (([], "no points"), (PEAK[1:], "no robust metrics at alpha 0")):
        with pytest.raises(BadInput, match=words):
            Rule(MRR).pick(points(*few))
    assert Rule("hit_at_k").pick(points((0, 0.5), (1, 0.9))).alpha == 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"metric": "recall"}, "metric is 'recall': did you mean .*'recall_at_k'"),
        ({"max_loss": -0.1}, "max_loss is -0.1"),
        ({"max_loss": 5}, "max_loss is 5"),
        ({"max_loss": float("nan")}, "max_loss is nan"),
    ],
)
def test_bad_rules(values: dict, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Rule(**values)


@pytest.mark.parametrize(
    ("text", "alphas"),
    [
        ("0:1:0.1", [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]),
        ("0:1:0.3", [0, 0.3, 0.6, 0.9]),
        (".2 : .4 : .1", [0.2, 0.3, 0.4]),
        ("0.5:0.5:1", [0.5]),
        ("0.5", [0.5]),
        ("1, 0,0.5,0.50", [0, 0.5, 1]),
        ("0:1:1e-3", [number / 1000 for number in range(1001)]),
    ],
)
def test_alphas(text: str, alphas: list[float]) -> None:
    assert parse_alphas(text) == alphas


@given(st.integers(0, 100), st.integers(1, 100), st.integers(0, 100))
def test_a_range_ends_at_its_stop(start: int, step: int, count: int) -> None:
    stop = start + count * step
    if stop > 100:
        return
    text = ":".join(str(Decimal(number) / 100) for number in (start, stop, step))
    assert parse_alphas(text) == [(start + n * step) / 100 for n in range(count + 1)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'' is no number"),
        ("0,a,1", "'0,a,1', and 'a' is no number"),
        ("0:1", "'0:1': a range is start:stop:step"),
        ("0:1:0.1:2", "start:stop:step"),
        ("0:1:0", "'0:1:0': go up"),
        ("0:1:-0.1", "go up"),
        ("1:0:0.1", "'1:0:0.1': go up"),
        ("0:1:nan", "'nan' is no number"),
        ("0:inf:0.1", "'inf' is no number"),
        ("0:2:0.5", "alpha is 2"),
        ("-0.5:1:0.5", "alpha is -0.5"),
        ("0,1.01", "alpha is 1.01"),
        ("0:1:1e-9", "'0:1:1e-9': a range has at most 1001"),
        ("0:1:1e-99", "at most 1001"),
    ],
)
def test_bad_alphas(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        parse_alphas(text)


@pytest.mark.parametrize(
    "rows",
    [
        PEAK,
        [row[:2] for row in PEAK],
        [(0, 0.5, 0.5)],
        [(0, 0.5, 0.4), (1, 0.5, 0.4)],
        [(n / 200, n / 400, 1 - (n / 200) ** 2) for n in range(201)],
    ],
    ids=["curve", "no robust data", "one", "all alike", "many"],
)
def test_the_frontier_is_drawn(rows: list[tuple[float, ...]], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picked = Rule(MRR).pick(points(*rows)).alpha
        path = frontier_plot(
            points(*rows), picked, tmp_path / "new" / "f.png", Rule(MRR), title="t"
        )
    with Image.open(path) as image:
        assert image.size == (1008, 691)
        pixels = np.asarray(image.convert("RGB")).astype(int)
    marked = (np.abs(pixels - (0xE5, 0x8A, 0x1F)).sum(axis=2) < 6).sum()
    assert 150 < marked < 900, "one mark of the picked alpha"
    assert [p.name for p in path.parent.iterdir()] == ["f.png"]
