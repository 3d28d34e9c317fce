"""Two models on the same queries: significance, groups, conditions, and other people's recall."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from docarray import DocList
from scipy.stats import binomtest, permutation_test
from typer.testing import CliRunner

from cliptune.cli.app import app
from cliptune.documents import ClipDoc
from cliptune.errors import BadInput
from cliptune.evaluation.bootstrap import compare_means, interval_of_mean
from cliptune.evaluation.conditions import Condition
from cliptune.evaluation.groups import (
    changes_by_group,
    figures_by_group,
    group_queries,
    groupings_of,
)
from cliptune.evaluation.metrics import METRICS
from cliptune.evaluation.retrieval import evaluate_embeddings


@pytest.mark.parametrize("gain", [0.0, 0.02, 0.05, 0.09])
def test_p_values_are_near_those_of_a_permutation_test(gain: float) -> None:
    random = np.random.default_rng(3)
    before = random.random(300)
    after = before + gain + random.normal(0, 0.35, 300)
    after -= (after - before).mean() - gain  # the mean change is the gain
    change = compare_means({"m": before}, {"m": after})["m"]
    theirs = permutation_test(
        (after - before,), np.mean, permutation_type="samples", n_resamples=4000, rng=1
    ).pvalue
    assert change.p_value == pytest.approx(theirs, abs=0.03)
    assert change.is_certain == (change.p_value < 0.05)


def test_p_values_are_even_where_nothing_differs() -> None:
    """As often below 0.1 as one expects: 10 %, of 300 pairs of equal models."""
    random = np.random.default_rng(0)
    values = []
    for _ in range(300):
        one, other = random.random((2, 120))
        values.append(compare_means({"m": one}, {"m": other}, resamples=500)["m"].p_value)
    below = np.mean(np.array(values) < 0.1)
    assert 0.05 < below < 0.16
    same = compare_means({"m": one}, {"m": one})["m"]
    assert (same.p_value, same.is_certain) == (1.0, False)


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_a_handful_of_queries_is_no_more_sure_than_a_sign_test(n: int) -> None:
    """Their bootstrap never draws the other sign, however few they are."""
    before = np.linspace(0.1, 0.2, n)
    change = compare_means({"m": before}, {"m": before + 0.5})["m"]
    assert change.difference.low > 0
    assert change.p_value == pytest.approx(binomtest(n, n).pvalue)
    assert change.is_certain is (n >= 6)


def queries() -> DocList[ClipDoc]:
    random = np.random.default_rng(0)
    docs = []
    for number in range(200):
        kind = "shoe" if number % 4 else f"rare {number}"
        tags = {"kind": kind, "price": float(number), "sku": 5000 + number, "blank": ""}
        text = " ".join(["word"] * (1 + number % 9))
        docs.append(ClipDoc(text=text, tags=tags, weight=float(random.pareto(1) + 0.01)))
    return DocList[ClipDoc](docs)


def test_groups_are_all_queries_once() -> None:
    docs = queries()
    for by in ("kind", "price", "words", "weight", "blank"):
        groups = group_queries(docs, by)
        rows = np.concatenate([rows for _, rows in groups])
        assert sorted(rows.tolist()) == list(range(200)), by
    kinds = group_queries(docs, "kind")
    assert (kinds[0][0], len(kinds[0][1])) == ("shoe", 150)
    assert (kinds[-1][0], len(kinds)) == ("others", 13)
    prices = group_queries(docs, "price")
    assert [(name, len(rows)) for name, rows in prices] == [
        ("0 to 49", 50), ("50 to 99", 50), ("100 to 149", 50), ("150 to 199", 50),
    ]  # fmt: skip
    words = dict(group_queries(docs, "words"))
    assert all(len((docs[int(i)].text or "").split()) <= 2 for i in words["1–2 words"])
    head, tail = (rows for _, rows in group_queries(docs, "weight"))
    weights = np.array([doc.weight or 0 for doc in docs])
    assert weights[head].min() >= weights[tail].max()
    assert weights[head].sum() >= weights.sum() / 2 > weights[head].sum() - weights[head].min()
    with pytest.raises(BadInput, match="can't be grouped by 'kinds'.*kind"):
        group_queries(docs, "kinds")
    with pytest.raises(BadInput, match="name the column of weights"):
        group_queries(DocList[ClipDoc]([ClipDoc(text="a")]), "weight")


def test_what_a_report_groups_by_itself() -> None:
    docs = queries()
    assert groupings_of(docs) == ["weight", "words", "price"], "not by ids, nor by rare kinds"
    for number, doc in enumerate(docs):
        doc.tags["brand"] = f"brand {number % 5}"
    assert "brand" in groupings_of(docs)
    assert groupings_of(DocList[ClipDoc]([ClipDoc(text="a b"), ClipDoc(text="c d")])) == []


def test_figures_of_groups_are_those_of_their_queries_alone() -> None:
    docs, random = queries(), np.random.default_rng(1)
    before, after = {"m": random.random(200)}, {"m": random.random(200)}
    [shoes, *_] = figures_by_group(before, docs, "kind", "m")
    is_shoe = np.array([doc.tags["kind"] == "shoe" for doc in docs])
    assert (shoes.name, shoes.n) == ("shoe", 150)
    assert shoes.value == interval_of_mean(before["m"][is_shoe])
    assert shoes.value.low < shoes.value.mean == before["m"][is_shoe].mean() < shoes.value.high
    [changed, *_] = changes_by_group(before, after, docs, "kind", "m")
    alone = compare_means({"m": before["m"][is_shoe]}, {"m": after["m"][is_shoe]})["m"]
    assert changed.change == alone


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("mrr < 0.3", True), ("mrr<=0.25", True), (" mrr >= 0.25 ", True), ("mrr > 0.25", False),
        ("mrr < .2", False), ("mrr.p > 1e-3", True), ("ndcg@10 < -1", False),
    ],
)  # fmt: skip
def test_conditions(text: str, holds: bool) -> None:
    condition = Condition.parse(text)
    assert condition.holds({"mrr": 0.25, "mrr.p": 0.5, "ndcg@10": 0.0}) is holds
    assert Condition.parse(str(condition)) == condition


@pytest.mark.parametrize(
    "text",
    ["", "mrr", "mrr = 1", "mrr < nan", "mrr < inf", "mrr < x", "mrr < 1 or 1", "1 < mrr",
     "__import__('os').system('x') < 1", "mrr < 1; mrr", "mrr == 0.3", "mrr < 1 < 2"],
)  # fmt: skip
def test_nothing_else_is_a_condition(text: str) -> None:
    with pytest.raises(BadInput, match="such as 'reciprocal_rank < 0.3'"):
        Condition.parse(text)


def test_a_condition_on_no_figure_is_an_error_not_a_pass() -> None:
    with pytest.raises(BadInput, match="no figure 'reciprocal_rang'.*reciprocal_rank"):
        Condition.parse("reciprocal_rang < 1").holds(dict.fromkeys(METRICS, 0.0))


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_of_clip_papers_is_hit_at_k(k: int) -> None:
    """`image_retrieval_recall@k` and `text_retrieval_recall@k` as CLIP_benchmark 1.6 computes them.

    Its recall is 1 where at least one right answer is among the k best, else 0.
    """
    generator = torch.Generator().manual_seed(k)
    images = torch.nn.functional.normalize(torch.randn(40, 16, generator=generator), dim=-1)
    of_text = torch.arange(200) // 5  # five captions a picture, as in Flickr30k and COCO
    noise = torch.randn(200, 16, generator=generator)
    texts = torch.nn.functional.normalize(images[of_text] + 0.7 * noise, dim=-1)
    scores = texts @ images.T
    positive = torch.zeros(200, 40, dtype=torch.bool)
    positive[torch.arange(200), of_text] = True
    for ours, (table, right) in (
        ((texts, of_text, images, torch.arange(40)), (scores, positive)),
        ((images, torch.arange(40), texts, of_text), (scores.T, positive.T)),
    ):
        found = (table.topk(k, dim=1).indices[:, :, None] == torch.arange(table.shape[1])).sum(1)
        recall = (found * right).sum(1) / right.sum(1)
        theirs = float((recall > 0).float().mean())
        q, q_labels, n, n_labels = ours
        metrics = evaluate_embeddings(
            q.numpy(), q_labels.tolist(), n.numpy(), n_labels.tolist(), limit=k
        ).metrics
        assert metrics["hit_at_k"] == pytest.approx(theirs)


@pytest.mark.e2e
def test_two_models_of_other_kinds_by_the_command(tiny_model: Path, tmp_path: Path) -> None:
    """The tiny model against the built-in one: other pictures, other lengths of embeddings."""
    run, table = CliRunner(), tmp_path / "queries.jsonl"
    from cliptune.demo.catalogue import load_catalogue

    docs, rows = load_catalogue("catalogue-index")[:60], []
    for number, doc in enumerate(docs):
        (tmp_path / f"{number}.png").write_bytes(doc.image or b"")
        rows.append({"title": doc.label, "image": f"{number}.png", "asked": 1 + number % 7})
    table.write_text("\n".join(map(json.dumps, rows)))
    given = ["compare", str(tiny_model), "builtin", "--queries", str(table), "--weight-column",
             "asked", "--by", "weight", "--by", "words", "--limit", "5"]  # fmt: skip
    result = run.invoke(app, [*given, "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    change = said["metrics"]["reciprocal_rank"]
    assert change["after"] > change["before"] + 0.1
    assert change["interval"][0] > 0
    assert 0 < change["p"] < 0.05, "as the interval leaves out 0"
    assert sum(group["n"] for group in said["groups"]["weight"]) == 60 == said["n_queries"]
    # Both as `evaluate` has them alone.
    for model, side in ((str(tiny_model), "before"), ("builtin", "after")):
        alone = run.invoke(app, ["evaluate", model, *given[3:5], "--limit", "5", "--json"])
        value = json.loads(alone.stdout)["reciprocal_rank"]
        assert value == pytest.approx(change[side], abs=0.02)
    gate = run.invoke(app, [*given, "--fail-if", "reciprocal_rank.low > 0", "--fail-if",
                            "reciprocal_rank < 0"])  # fmt: skip
    assert gate.exit_code == 3
    assert "failed: reciprocal_rank.low is" in gate.stderr
    assert "failed: reciprocal_rank is" not in gate.stderr
    assert run.invoke(app, ["evaluate", "builtin", *given[3:5], "--fail-if",
                            "reciprocal_rank < 0"]).exit_code == 0  # fmt: skip
    wrong = run.invoke(app, ["evaluate", "builtin", *given[3:5], "--fail-if", "mrr < 1"])
    assert isinstance(wrong.exception, BadInput)
