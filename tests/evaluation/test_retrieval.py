"""Evaluation of embeddings, and of towers over documents, against plain loops."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import numpy as np
import pytest
from docarray import DocList
from PIL import Image

from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadImage, BadInput
from cliptune.evaluation import METRICS, evaluate, evaluate_embeddings


def unit(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_a_small_search_by_hand() -> None:
    # Angles in degrees: the query at 0 finds b, a, a; the one at 90 finds a, a, b.
    angles = np.radians([50, 10, 20])
    index = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = evaluate_embeddings(np.eye(2), ["a", "c"], index, ["a", "b", "a"], limit=2)
    np.testing.assert_array_equal(found.ids, [[1, 2], [0, 2]])
    np.testing.assert_allclose(
        found.scores, [np.cos(np.radians([10, 20])), np.sin(np.radians([50, 20]))], atol=1e-6
    )
    np.testing.assert_array_equal(found.hits, [[False, True], [False, False]])
    assert (found.n_queries, found.n_index, found.limit, found.n_without_answers) == (2, 3, 2, 1)
    # The first query has 1 of its 2 answers, at rank 2; the second has none and counts as 0.
    assert found.metrics["precision_at_k"] == pytest.approx(0.25)
    assert found.metrics["recall_at_k"] == pytest.approx(0.25)
    assert found.metrics["hit_at_k"] == pytest.approx(0.5)
    assert found.metrics["reciprocal_rank"] == pytest.approx(0.25)
    assert list(found.metrics) == list(METRICS)


@pytest.mark.parametrize("exclude_self", [True, False])
@pytest.mark.parametrize("chunk", [7, 8192])
def test_equals_loops(exclude_self: bool, chunk: int) -> None:
    rng = np.random.default_rng(0)
    n, limit = 150, 10
    index = unit(rng.normal(size=(n, 6)))
    labels = [f"label {i}" for i in rng.integers(0, 25, n)]
    ids = [f"id {i}" for i in range(n)]
    asked = rng.permutation(n)[:40]
    found = evaluate_embeddings(
        index[asked],
        [labels[i] for i in asked],
        index,
        labels,
        limit=limit,
        query_ids=[ids[i] for i in asked],
        index_ids=ids,
        exclude_self=exclude_self,
        chunk=chunk,
    )
    hits, recall, textbook, mrr = [], [], [], []
    for i in asked:
        order = np.argsort(-(index @ index[i]), kind="stable")
        order = [j for j in order if not (exclude_self and j == i)][:limit]
        rel = [labels[j] == labels[i] for j in order]
        total = labels.count(labels[i])
        hits.append(sum(rel) / limit)
        recall.append(sum(rel) / total)
        left = total - exclude_self
        textbook.append(sum(rel) / left if left else 0)
        mrr.append(1 / (rel.index(True) + 1) if any(rel) else 0)
    assert found.metrics["precision_at_k"] == pytest.approx(np.mean(hits))
    assert found.metrics["recall_at_k"] == pytest.approx(np.mean(recall))
    assert found.metrics["recall_at_k_textbook"] == pytest.approx(np.mean(textbook))
    assert found.metrics["reciprocal_rank"] == pytest.approx(np.mean(mrr))
    if not exclude_self:
        assert found.metrics["reciprocal_rank"] == 1.0


def test_an_id_that_the_index_has_twice_is_excluded_twice() -> None:
    index = unit([[1, 0], [1, 0.1], [1, 0.2], [0, 1]])
    found = evaluate_embeddings(
        index[:1],
        ["x"],
        index,
        ["x", "x", "y", "x"],
        limit=4,
        query_ids=["same"],
        index_ids=["same", "same", "other", "another"],
    )
    np.testing.assert_array_equal(found.ids, [[2, 3, -1, -1]])
    np.testing.assert_array_equal(found.hits, [[False, True, False, False]])
    assert found.metrics["recall_at_k_textbook"] == 1.0
    assert found.metrics["recall_at_k"] == pytest.approx(1 / 3)
    assert found.metrics["precision_at_k"] == 0.5


def test_leaving_out_a_document_of_another_label_costs_no_answer() -> None:
    found = evaluate_embeddings(
        np.eye(2), ["x", "y"], np.eye(2), ["y", "x"], query_ids=["p", "q"], index_ids=["p", "q"]
    )
    np.testing.assert_array_equal(found.ids, [[1, -1], [0, -1]])
    assert found.n_without_answers == 0
    assert found.metrics["recall_at_k"] == found.metrics["recall_at_k_textbook"] == 1.0


def test_labels_may_be_integers_in_an_array() -> None:
    found = evaluate_embeddings(np.eye(3), np.arange(3), np.eye(3), np.arange(3), limit=1)
    assert found.metrics["hit_at_k"] == 1.0


def _docs(texts: Sequence[str]) -> DocList[ClipDoc]:
    return DocList[ClipDoc](
        [ClipDoc(id=f"doc-{i}", text=text, label=text) for i, text in enumerate(texts)]
    )


def test_examples_are_json_and_lead_back_to_the_documents() -> None:
    rng = np.random.default_rng(1)
    index = _docs([f"text {i % 5}" for i in range(30)])
    queries = _docs([f"text {i % 5}" for i in range(50)])
    found = evaluate_embeddings(
        unit(rng.normal(size=(50, 4))),
        [d.label for d in queries],
        unit(rng.normal(size=(30, 4))),
        [d.label for d in index],
    )
    examples = found.examples(queries, index, k=3, queries=[4, 0])
    assert json.loads(json.dumps(examples)) == examples
    assert [e["id"] for e in examples] == ["doc-4", "doc-0"]
    for example in examples:
        position = example["position"]
        assert example["text"] == queries[position].text
        assert [m["position"] for m in example["matches"]] == found.ids[position, :3].tolist()
        for match in example["matches"]:
            doc = index[match["position"]]
            assert (match["id"], match["text"]) == (doc.id, doc.text)
            assert match["hit"] == (doc.label == queries[position].label)
    spread = [e["position"] for e in found.examples(queries, index)]
    assert len(spread) == 20
    assert spread[0] == 0
    assert spread[-1] == 49
    with pytest.raises(BadInput, match="30 index documents were evaluated, 29 are given"):
        found.examples(queries, index[:29])
    with pytest.raises(BadInput, match="no query 50"):
        found.examples(queries, index, queries=[50])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"query_labels": ["a"]}, BadInput, "query_labels has 1 entries for 2 embeddings"),
        ({"index_labels": ["a", None]}, BadInput, "index_labels holds None at 1 .*first is 1"),
        ({"query_labels": ["x", "y"]}, BadData, r"no query has .*\['x', 'y'\].*\['a', 'b'\]"),
        (
            {"query_labels": ["a", "a"], "index_labels": ["a", "a"]},
            BadData,
            "all 2 index documents have the label 'a': every answer would be right",
        ),
        ({"query_emb": np.zeros((0, 2)), "query_labels": []}, BadData, "no query documents"),
        ({"index_emb": np.zeros((0, 2)), "index_labels": []}, BadData, "no index documents"),
        ({"limit": 0}, BadInput, "limit is 0"),
        ({"distance": "euclidean"}, BadInput, "'euclidean', allowed: 'cosine'"),
        (
            {"query_ids": ["p", "q"], "index_ids": ["p", "q"]},
            BadData,
            "is the query itself, which exclude_self leaves out",
        ),
        ({"query_ids": ["p"], "index_ids": ["p", "q"]}, BadInput, "query_ids has 1 entries"),
    ],
)
def test_bad_input_is_named(change: dict, error: type[Exception], message: str) -> None:
    arguments = {
        "query_emb": np.eye(2),
        "query_labels": ["a", "b"],
        "index_emb": np.eye(2),
        "index_labels": ["a", "b"],
    }
    with pytest.raises(error, match=message):
        evaluate_embeddings(**{**arguments, **change})


COLOURS = {"red": (220, 20, 20), "green": (20, 200, 30), "blue": (30, 30, 210)}


class ColourWords:
    """A text tower that knows three words."""

    name = "clip-text"

    def encode(self, inputs: Sequence[str], /) -> np.ndarray:
        return unit([COLOURS[text.split()[0]] for text in inputs])


class MeanColour:
    """A vision tower that sees the mean colour; in batches of two, as the real one slices."""

    name = "clip-vision"

    def encode(self, inputs: Sequence[bytes], /) -> np.ndarray:
        from cliptune.data.pictures.images import decode_image

        seen = []
        for start in range(0, len(inputs), 2):
            for position, data in enumerate(inputs[start : start + 2], start):
                try:
                    seen.append(np.asarray(decode_image(data)).mean(axis=(0, 1)))
                except BadImage as error:
                    raise BadImage(f"picture {position}: {error}") from error
        return unit(np.array(seen))


def _picture(colour: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def _catalogue() -> DocList[ClipDoc]:
    docs = DocList[ClipDoc]()
    for name, colour in COLOURS.items():
        for shade in (1.0, 0.8):
            dark = tuple(int(c * shade) for c in colour)
            docs.append(ClipDoc(text=f"{name} shirt", image=_picture(dark)))
    return docs


def test_evaluate_reads_texts_pictures_and_labels_from_the_documents() -> None:
    index = _catalogue()
    queries = DocList[ClipDoc]([ClipDoc(text=f"{name} shirt") for name in COLOURS])
    found = evaluate(ColourWords(), MeanColour(), queries, index, limit=2)
    assert found.metrics["precision_at_k"] == 1.0
    assert found.metrics["recall_at_k"] == 1.0
    back = evaluate(MeanColour(), ColourWords(), index, queries, limit=1)
    assert back.metrics["hit_at_k"] == 1.0


def test_a_title_finds_its_own_picture_and_a_picture_finds_others() -> None:
    docs = _catalogue()
    assert evaluate(ColourWords(), MeanColour(), docs, limit=2).metrics["precision_at_k"] == 1.0
    same = evaluate(MeanColour(), MeanColour(), docs, limit=1)
    assert same.metrics["hit_at_k"] == 1.0
    assert (same.ids[:, 0] != np.arange(len(docs))).all()
    itself = evaluate(MeanColour(), MeanColour(), docs, limit=1, exclude_self=False)
    assert set(itself.ids[:, 0]) <= set(range(len(docs)))
    assert itself.scores.min() > 0.99999


def test_a_document_that_lacks_what_is_read_is_named() -> None:
    docs = _catalogue()
    labelled = [ClipDoc(text="red", label="red shirt"), ClipDoc(id="bad", label="x")]
    with pytest.raises(BadInput, match=r"query: document 1 \(id bad\) has no text"):
        evaluate(ColourWords(), MeanColour(), DocList[ClipDoc](labelled), docs)
    docs[3].image, docs[3].id = None, "empty"
    with pytest.raises(BadInput, match=r"index: document 3 \(id empty\)"):
        evaluate(ColourWords(), MeanColour(), docs[:1], docs)
    docs[3].image = b"not a picture"
    with pytest.raises(BadImage, match="index: picture 3"):
        evaluate(ColourWords(), MeanColour(), docs[:1], docs)
