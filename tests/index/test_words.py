"""Search by words and meaning: against its parts, and what a shop's customers type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cliptune.documents import Match
from cliptune.errors import BadInput
from cliptune.index import Index
from cliptune.index.fusion import fuse
from cliptune.index.words import WordMatch, words_of
from cliptune.protocol.parameters import SearchParameters
from tests.index.index_helpers import DIGEST, cosine, doc, docs, vector

SHOP = [
    doc("AB-123/X", text="Red rain boots", tags={"brand": "Nordvik", "price": 12}),
    doc("b", text="Blue hat", tags={"sku": "ZZ9", "size": ["S", "M"], "ean": 4006381333931}),
    doc("c", text="Rain boot, green", tags={"brand": "Caf\u00e9 Noir"}),
    doc("d", text=None, tags={"in": {"deep": ["velvet"]}}),
    *(doc(f"other-{n}", text=f"thing number{n}", tags={"price": 99}) for n in range(30)),
]


def found(index: Index, text: str, **options: object) -> list[Match]:
    [matches] = index.search(vector(5)[None], DIGEST, texts=[text], **options)
    return list(matches)


def by_words(index: Index, text: str, **options: object) -> set[str]:
    """The ids that have the words: those that words alone rank above nothing."""
    matches = found(index, text, limit=50, **options)
    near = [m.id for m in index.search(vector(5)[None], DIGEST, limit=50, **options)[0]]
    return {
        str(one.id)
        for one in matches
        if (one.fused_score or 0) > 1 / (60 + 1 + near.index(one.id)) + 1e-9
    }


def test_words_are_found_where_they_are(open_store: Callable[..., Index], store: str) -> None:
    index = open_store()
    index.add(docs(*SHOP))
    if store == "milvus":
        with pytest.raises(BadInput, match="Milvus are not found by words"):
            found(index, "boots")
        assert len(found(index, "")) == 10
        return
    for again in (False, True):  # as they come, and indexed
        assert by_words(index, "boots") == {"AB-123/X", "c"}
        assert by_words(index, "BOOT") == {"AB-123/X", "c"}
        assert by_words(index, "boots", filter="brand == 'Nordvik'") == {"AB-123/X"}
        assert by_words(index, "nordvik hat") == {"AB-123/X", "b"}
        assert by_words(index, "cafe") == {"c"}
        assert by_words(index, "velvet") == {"d"}
        assert by_words(index, "brand deep") == set()  # names of tags
        assert by_words(index, "!?") == set()
        assert by_words(index, "nordvkk") == {"AB-123/X"}  # a letter off
        for code, first in (
            ("ab-123/x", "AB-123/X"),
            ("zz9", "b"),
            ("4006381333931", "b"),
            ("other-7", "other-7"),
        ):
            best, second = found(index, code)[:2]
            assert best.id == first, code
            assert (best.fused_score or 0) > 1 > (second.fused_score or 0)
        if not again:
            index.optimize()
    index.delete(ids=["c"])
    index.add(docs(doc("new", text="boots of snow")))
    assert by_words(index, "boots") == {"AB-123/X", "new"}


def test_both_rankings_are_fused_as_it_is_defined(
    open_store: Callable[..., Index], store: str
) -> None:
    if store == "milvus":
        pytest.skip("Milvus 2.3 finds no words")
    index = open_store()
    index.add(docs(*SHOP))
    query = vector(5)
    embeddings = np.stack([np.asarray(one.embedding) for one in SHOP])
    cosines = dict(
        zip((str(one.id) for one in SHOP), cosine(query[None], embeddings)[0], strict=True)
    )
    near = sorted(cosines, key=lambda one: -cosines[one])
    worded = [m.id for m in found(index, "rain boots red", alpha=0.0, limit=2)]
    assert set(worded) == {"AB-123/X", "c"}
    expected = {one: 1 / (61 + near.index(one)) for one in near}
    for rank, one in enumerate(worded):
        expected[str(one)] += 1 / (61 + rank)
    matches = found(index, "rain boots red", limit=40)
    assert [m.id for m in matches] == sorted(expected, key=lambda one: -expected[one])
    for match in matches:
        assert match.fused_score == pytest.approx(expected[str(match.id)])
        assert match.score == pytest.approx(cosines[str(match.id)], abs=1e-5)
    pages = [found(index, "rain boots red", limit=5, offset=at) for at in range(0, 40, 5)]
    assert [m.id for page in pages for m in page] == [m.id for m in matches]
    assert [m.id for m in found(index, "rain boots red", alpha=1.0)] == near[:10]
    assert all(m.score >= 0.1 for m in found(index, "rain boots red", score_threshold=0.1))
    left = found(index, "rain boots red", without=[{worded[0]}], limit=40)
    assert [m.id for m in left] == [m.id for m in matches if m.id != worded[0]]
    for texts, alpha, problem in (
        (["a", "b"], None, "those of 2 queries, and there are 1"),
        (["a"], 1.5, "alpha: .*1.5"),
        (["a"], float("nan"), "alpha: .*nan"),
    ):
        with pytest.raises(BadInput, match=problem):
            index.search(query[None], DIGEST, texts=texts, alpha=alpha)


def test_alpha_weighs_scaled_scores() -> None:
    near = [Match(id="a", score=0.9), Match(id="b", score=0.5), Match(id="c", score=0.1)]
    worded = [WordMatch(Match(id="c", score=0.1), 8.0), WordMatch(Match(id="d", score=0.0), 2.0)]
    scores = {m.id: m.fused_score for m in fuse(near, worded, "red boots", 0.25)}
    assert scores == pytest.approx({"a": 0.25, "b": 0.125, "c": 0.75, "d": 0.1875})


@pytest.mark.parametrize(
    ("given", "share"),
    [({}, 0.3), ({"alpha": 0.0}, 0.0), ({"fusion": "scores"}, 0.3), ({"fusion": "ranks"}, None)],
)
def test_what_meaning_counts_beside_words(given: dict[str, Any], share: float | None) -> None:
    parameters = SearchParameters.model_validate({"hybrid": True, **given})
    assert parameters.meaning_share == share


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"alpha": 0.5}, "alpha is 0.5 without hybrid"),
        ({"fusion": "ranks"}, "fusion is 'ranks' without hybrid"),
        ({"hybrid": True, "fusion": "ranks", "alpha": 0.5}, "alpha is 0.5 with fusion 'ranks'"),
        ({"hybrid": True, "fusion": "magic"}, "'scores' or 'ranks'"),
    ],
)
def test_fusions_that_make_no_sense(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        SearchParameters.model_validate(given)


def test_what_a_documents_words_are() -> None:
    tags = {"a": "red", "n": 12, "ean": 4006381333931, "b": True, "l": ["x", {"y": "z"}, "red"]}
    assert words_of("id-1", "A title", tags) == "id-1 A title red 4006381333931 x z"
    assert words_of("id-1", None, {}) == "id-1"
