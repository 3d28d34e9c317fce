"""What counts as right, across tables and captions; against hand calculations and torchmetrics."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from docarray import DocList
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from cliptune.cli.app import app
from cliptune.data.equivalence import KeyedDocs, word_keys
from cliptune.data.pictures.images import decode_image
from cliptune.documents import ClipDoc
from cliptune.errors import BadInput
from cliptune.evaluation.relevance import decide_answers
from cliptune.evaluation.retrieval import evaluate
from cliptune.evaluation.tables import describe_counts

COLOURS = {
    "red": (230, 20, 20),
    "green": (20, 220, 30),
    "blue": (30, 30, 240),
    "pink": (250, 160, 190),
}
CAPTIONS = ["a {} shirt", "shirt in {}", "the {} one", "wear {} today", "{} cotton shirt"]


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), COLOURS[colour]).save(buffer, "PNG")
    return buffer.getvalue()


class Words:
    """A text tower that knows colours: its embedding is the colour that a text names."""

    name = "clip-text"

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        return unit([next(rgb for name, rgb in COLOURS.items() if name in text) for text in texts])


class Pictures:
    """A vision tower: the mean colour."""

    name = "clip-vision"

    def __init__(self) -> None:
        self.seen = 0

    def encode(self, images: list[bytes]) -> NDArray[np.float32]:
        images = list(images[0 : len(images)])
        self.seen += len(images)
        return unit([np.asarray(decode_image(image)).mean(axis=(0, 1)) for image in images])


def unit(values: list) -> NDArray[np.float32]:
    array = np.asarray(values, dtype=np.float32) - 128
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def captioned() -> DocList[ClipDoc]:
    """Five captions of each picture."""
    return DocList[ClipDoc](
        [
            ClipDoc(id=f"{name}-{i}", text=caption.format(name), image=picture(name))
            for name in COLOURS
            for i, caption in enumerate(CAPTIONS)
        ]
    )


def test_an_index_that_shares_pictures_and_no_caption() -> None:
    queries = captioned()
    index = DocList[ClipDoc](
        [ClipDoc(text=f"stock photo {i}", image=picture(n)) for i, n in enumerate(COLOURS)]
    )
    found = evaluate(Words(), Pictures(), queries, index, limit=4)
    assert found.metrics["hit_at_k"] == found.metrics["reciprocal_rank"] == 1
    assert found.counts() == {"n_queries": 20, "n_index": 4, "n_without_answers": 0}
    bare = DocList[ClipDoc]([ClipDoc(image=picture(name)) for name in COLOURS])
    assert evaluate(Words(), Pictures(), queries, bare, limit=4).metrics == found.metrics


def test_a_picture_of_five_captions_is_searched_once() -> None:
    docs, tower = captioned(), Pictures()
    for index in (None, docs):
        found = evaluate(Words(), tower, docs, index, limit=3)
        assert (found.n_queries, found.n_index, found.n_without_answers) == (20, 4, 0)
        # One answer of three is all that can be right.
        assert found.metrics["precision_at_k"] == pytest.approx(1 / 3)
        assert found.metrics["recall_at_k"] == found.metrics["hit_at_k"] == 1
    assert tower.seen == 8
    shown = found.examples(docs, docs, k=3, queries=[7])
    assert shown[0]["matches"][0]["id"] == "green-0"
    assert {match["id"] for match in shown[0]["matches"]} <= {f"{name}-0" for name in COLOURS}
    # An index that is given is searched as it is.
    given = evaluate(Words(), tower, docs, DocList[ClipDoc](list(docs)), limit=3)
    assert given.n_index == 20
    assert given.metrics["precision_at_k"] == 1


def test_pictures_search_texts_once_each_and_themselves_never() -> None:
    docs = captioned()
    for doc in docs[5:10]:
        doc.text = docs[5].text
    found = evaluate(Pictures(), Words(), docs, limit=5)
    assert found.n_index == 16
    alike = evaluate(Pictures(), Pictures(), docs, None, limit=1, exclude_self=False)
    assert (alike.n_index, alike.metrics["hit_at_k"]) == (4, 1)
    # A picture's only right answer is itself, under whichever of its captions.
    twice = docs[:5]
    twice.append(ClipDoc(text="red too", image=picture("pink"), label=None))
    twice.append(ClipDoc(text="red too", image=picture("red")))
    twice += [ClipDoc(text="both", image=picture(name)) for name in ("blue", "green")]
    one = evaluate(Pictures(), Pictures(), twice, limit=2)
    assert one.n_index == 4
    assert (one.ids != np.array([0] * 5 + [5, 0, 7, 8])[:, None]).all(), "not itself"
    assert one.n_without_answers == 0
    assert one.hits[:7, 0].all(), "the pictures share a caption"


def test_labels_of_one_picture_stay_apart() -> None:
    docs = captioned()
    for doc in docs:
        doc.label = doc.text
    found = evaluate(Words(), Pictures(), docs, limit=20)
    assert found.n_index == 20
    assert found.metrics["recall_at_k"] == 1


def test_against_torchmetrics() -> None:
    """Captions and pictures at random, what is right written down by hand."""
    import torch
    from torchmetrics.functional.retrieval import retrieval_recall, retrieval_reciprocal_rank

    random = np.random.default_rng(3)
    images = [np.float32(random.standard_normal(6)) for _ in range(9)]
    texts = [f"caption {i}" for i in range(40)]
    of_picture = random.integers(0, 9, 40)
    files = [picture_of(i) for i in range(9)]
    docs = DocList[ClipDoc](
        [ClipDoc(text=text, image=files[i]) for text, i in zip(texts, of_picture, strict=True)]
    )
    vectors = {text: np.float32(random.standard_normal(6)) for text in texts}

    class Text:
        name = "clip-text"

        def encode(self, given: list[str]) -> NDArray[np.float32]:
            return norm([vectors[text] for text in given])

    class Vision:
        name = "clip-vision"

        def encode(self, given: list[bytes]) -> NDArray[np.float32]:
            return norm([images[files.index(data)] for data in given[0 : len(given)]])

    found = evaluate(Text(), Vision(), docs, limit=3)
    used = sorted(set(of_picture.tolist()))
    scores = norm([vectors[t] for t in texts]) @ norm([images[i] for i in used]).T
    expected: dict[str, list[float]] = {"recall_at_k": [], "reciprocal_rank": []}
    for row, right in zip(scores, of_picture, strict=True):
        target = torch.tensor([i == right for i in used])
        given = torch.from_numpy(row + 10)
        expected["recall_at_k"].append(float(retrieval_recall(given, target, top_k=3)))
        rank = retrieval_reciprocal_rank(given, target, top_k=3)
        expected["reciprocal_rank"].append(float(rank))
    for name, values in expected.items():
        assert found.metrics[name] == pytest.approx(np.mean(values), abs=1e-6)
    assert found.n_index == len(used)


def picture_of(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def norm(values: list) -> NDArray[np.float32]:
    array = np.asarray(values, dtype=np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def test_a_document_without_anything_to_go_by_is_named() -> None:
    docs = KeyedDocs.of(DocList[ClipDoc]([ClipDoc(text="a"), ClipDoc(id="bare")]), word_keys)
    with pytest.raises(BadInput, match=r"robust index: document 1 \(id bare\) has neither"):
        decide_answers(docs.subset([0]), docs, role="robust ")


def test_counts_in_words() -> None:
    counts = {"n_queries": 40, "n_index": 9, "n_without_answers": 0}
    assert "every query has a right answer" in describe_counts(counts)
    words = describe_counts({**counts, "n_without_answers": 3})
    assert "3 queries (7.5%) have no right answer" in words


def test_the_shell_says_how_many_queries_have_no_answer(tmp_path: Path, tiny_model: Path) -> None:
    for name in COLOURS:
        (tmp_path / f"{name}.png").write_bytes(picture(name))
        (tmp_path / f"again {name}.png").write_bytes(picture(name))
    rows = [f"again {name}.png,A {name.upper()}  shirt" for name in list(COLOURS)[:3]]
    (tmp_path / "queries.csv").write_text("\n".join([*rows, "pink.png,something pink"]))
    (tmp_path / "index.csv").write_text("\n".join(f"{n}.png,photo of {n}" for n in ("red", "blue")))
    arguments = ["evaluate", str(tiny_model), "--queries", str(tmp_path / "queries.csv")]
    given = [*arguments, "--index", str(tmp_path / "index.csv")]
    shown = CliRunner().invoke(app, given)
    assert "2 queries (50.0%) have no right answer" in " ".join(shown.output.split())
    as_json = json.loads(CliRunner().invoke(app, [*given, "--json"]).stdout)
    assert (as_json["n_queries"], as_json["n_index"], as_json["n_without_answers"]) == (4, 2, 2)
    assert as_json["hit_at_k"] == 0.5
