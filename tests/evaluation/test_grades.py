"""Graded right answers: nDCG against scikit-learn's, and who judges what."""

from __future__ import annotations

import io

import numpy as np
import pytest
from docarray import DocList
from PIL import Image
from sklearn.metrics import ndcg_score

from cliptune.data.equivalence import KeyedDocs, word_keys
from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadInput
from cliptune.evaluation.relevance import decide_answers
from cliptune.evaluation.retrieval import evaluate, evaluate_embeddings


@pytest.mark.parametrize("limit", [1, 5, 20, 60])
def test_ndcg_is_scikit_learns_by_the_gains(limit: int) -> None:
    random = np.random.default_rng(limit)
    queries, index = random.normal(size=(30, 12)), random.normal(size=(50, 12))
    grades = np.where(random.random((30, 50)) < 0.2, random.integers(0, 4, (30, 50)), 0)
    grades[:, 0] = 1  # no query without a right answer
    given = [{int(i): int(g) for i, g in enumerate(row) if random.random() < 2} for row in grades]
    found = evaluate_embeddings(queries, [0] * 30, index, [0] * 50, limit=limit, grades=given)
    unit = index / np.linalg.norm(index, axis=1, keepdims=True)
    scores = queries @ unit.T
    theirs = [
        ndcg_score([2.0**truth - 1], [score], k=limit)
        for truth, score in zip(grades, scores, strict=True)
    ]
    np.testing.assert_allclose(found.by_query["ndcg_at_k_textbook"], theirs, atol=1e-9)
    # All other metrics: what has a grade is right.
    best = np.argsort(-scores, axis=1)[:, :limit]
    hits = np.take_along_axis(grades, best, axis=1) > 0
    np.testing.assert_allclose(
        found.by_query["recall_at_k_textbook"], hits.sum(axis=1) / (grades > 0).sum(axis=1)
    )
    np.testing.assert_array_equal(found.hits, hits)


def test_one_grade_for_all_is_the_plain_ndcg() -> None:
    random = np.random.default_rng(0)
    queries, index = random.normal(size=(20, 8)), random.normal(size=(40, 8))
    labels, of_index = np.arange(20) % 7, np.arange(40) % 7
    plain = evaluate_embeddings(queries, labels, index, of_index, limit=10)
    for grade in (1, 3):
        given = [{int(i): grade for i in np.flatnonzero(of_index == label)} for label in labels]
        graded = evaluate_embeddings(queries, labels, index, of_index, limit=10, grades=given)
        for name, values in plain.by_query.items():
            factor = 2**grade - 1 if name == "dcg_at_k_textbook" else 1
            np.testing.assert_allclose(graded.by_query[name], factor * values, err_msg=name)


def picture(colour: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(data, "PNG")
    return data.getvalue()


def judgements() -> DocList[ClipDoc]:
    rows = [
        ("red shoe", "red", 3),
        ("Red  shoe", "crimson", 1),
        ("red shoe", "blue", 0),
        ("blue shoe", "blue", None),
        ("blue shoe", "blue", 2),
        ("blue shoe", "red", 0),
    ]
    return DocList[ClipDoc](
        [ClipDoc(id=str(i), text=t, image=picture(c), grade=g, label="one")
         for i, (t, c, g) in enumerate(rows)]
    )  # fmt: skip


def test_each_text_is_asked_once_and_each_picture_searched_once() -> None:
    docs = KeyedDocs.of(judgements(), word_keys)
    answers = decide_answers(docs, docs, each_once_for="clip-vision")
    assert [doc.id for doc in answers.queries] == ["0", "3"]
    assert [doc.id for doc in answers.index] == ["0", "1", "2"]
    assert answers.query_rows == [0, 3]
    assert answers.grades == [{0: 3, 1: 1}, {2: 3}], "a blank is a full grade, the highest counts"
    assert answers.right(0) == [0, 1]
    assert answers.right(1) == [2]
    other = DocList[ClipDoc]([ClipDoc(id="x", image=picture("green")),
                              ClipDoc(id="y", image=picture("crimson"))])  # fmt: skip
    answers = decide_answers(docs, KeyedDocs.of(other, word_keys))
    assert answers.grades == [{1: 1}, {}]
    untitled = DocList[ClipDoc]([ClipDoc(id="z", image=picture("red"), grade=1)])
    with pytest.raises(BadInput, match=r"document 0 \(id z\) has a grade and no text"):
        decide_answers(KeyedDocs.of(untitled, word_keys), docs)


class Colours:
    """A tower by colour alone."""

    def __init__(self, name: str) -> None:
        self.name = name

    def encode(self, inputs: list[bytes] | list[str]) -> np.ndarray:
        rows = []
        for one in inputs:
            if isinstance(one, str):
                rows.append([255, 0, 0] if "red" in one.lower() else [0, 0, 255])
            else:
                rows.append(Image.open(io.BytesIO(one)).convert("RGB").getpixel((0, 0)))
        return np.array(rows, dtype=np.float32) + 1


def test_an_evaluation_of_judgements() -> None:
    docs = judgements()
    towers = Colours("clip-text"), Colours("clip-vision")
    found = evaluate(*towers, docs, limit=2)
    assert (found.n_queries, found.n_index, found.n_without_answers) == (2, 3, 0)
    assert found.metrics["ndcg_at_k_textbook"] == pytest.approx(1)
    assert [doc.id for doc in found.asked(docs)] == ["0", "3"]
    examples = found.examples(docs, docs, k=2)
    assert [[match["hit"] for match in one["matches"]] for one in examples] == [
        [True, True], [True, False],
    ]  # fmt: skip
    other = DocList[ClipDoc]([ClipDoc(image=picture(c)) for c in ("green", "white")])
    with pytest.raises(BadData, match="none of the pictures with a grade above 0 is searched"):
        evaluate(*towers, docs, other)
