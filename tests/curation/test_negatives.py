"""Hard negatives: as sentence-transformers finds them, and as a search of all couples does."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from docarray import DocList
from sentence_transformers.util import mine_hard_negatives

from cliptune.curation import negatives as module
from cliptune.curation.embedded import EmbeddedPairs, embed_pairs
from cliptune.curation.mining_options import MiningOptions
from cliptune.curation.negatives import Mined, mine, with_negatives
from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadInput
from cliptune.inference.engines import both_towers
from tests.curation.pairs import random_pairs
from tests.pictures import picture

Answers = dict[str, list[str]]
ANY = {"near_pictures": None, "near_titles": None, "relative_margin": None}


class Embedder:
    """What `mine_hard_negatives` asks of a model: embeddings that are there already."""

    device = torch.device("cpu")

    def __init__(self, known: dict[str, np.ndarray]) -> None:
        self.known = known

    def encode_document(self, texts: list[str], **_: Any) -> np.ndarray:
        return np.stack([self.known[text] for text in texts])

    encode_query = encode_document

    def similarity(self, one: Any, other: Any) -> torch.Tensor:
        return torch.as_tensor(one) @ torch.as_tensor(other).T

    def similarity_pairwise(self, one: Any, other: Any) -> torch.Tensor:
        return (torch.as_tensor(one) * torch.as_tensor(other)).sum(dim=1)


def theirs(pairs: EmbeddedPairs, direction: str, **options: Any) -> Answers:
    """What sentence-transformers finds, by what looks for it."""
    titles = [f"title {title}" for title in pairs.title_of]
    pictures = [f"p{picture}" for picture in pairs.picture_of]
    known = {f"title {n}": one for n, one in enumerate(pairs.titles)}
    known |= {f"p{n}": one for n, one in enumerate(pairs.pictures)}
    columns = (titles, pictures) if direction == "pictures" else (pictures, titles)
    found = mine_hard_negatives(
        Dataset.from_dict(dict(zip(("anchor", "positive"), columns, strict=True))),
        Embedder(known),  # type: ignore[arg-type]
        verbose=False,
        **options,
    )
    by_anchor: defaultdict[str, list[str]] = defaultdict(list)
    for row in found:
        if row["negative"] not in by_anchor[row["anchor"]]:  # once for each right answer
            by_anchor[row["anchor"]].append(row["negative"])
    return dict(by_anchor)


def ours(pairs: EmbeddedPairs, direction: str, **options: Any) -> Answers:
    mined = mine(pairs, MiningOptions(direction=direction, **{**ANY, **options}))  # type: ignore[arg-type]
    found: Answers = {}
    for doc, wrong in zip(pairs.docs, mined.negatives, strict=True):
        anchor = doc.text if direction == "pictures" else doc.id
        others = [pairs.docs[one.position] for one in wrong]
        names = [str(other.id if direction == "pictures" else other.text) for other in others]
        assert found.setdefault(str(anchor), names) == names  # pairs of one title alike
    return {anchor: names for anchor, names in found.items() if names}


@pytest.mark.parametrize("direction", ["pictures", "titles"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_negatives": 5, "range_min": 4},
        {"relative_margin": 0.05},
        {"relative_margin": 0.4, "num_negatives": 2},
        {"absolute_margin": 0.1},
        {"absolute_margin": 0.2, "relative_margin": 0.1, "range_min": 2},
        {"max_score": 0.3, "min_score": 0.1, "num_negatives": 4},
    ],
)
def test_what_is_found_is_what_sentence_transformers_finds(
    direction: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_NUMBERS", 16 * 90 * 7)  # a few pairs at a time
    monkeypatch.setattr(module, "QUERIES", 11)
    pairs = random_pairs()
    found = ours(pairs, direction, range_max=90, **options)
    assert found == theirs(pairs, direction, range_max=90, **options)
    assert len(found) > 10


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("direction", ["pictures", "titles", "both"])
def test_what_is_found_is_what_a_search_of_all_couples_finds(seed: int, direction: str) -> None:
    pairs = random_pairs(40, 40, 8, seed, n_groups=25)
    options = MiningOptions(
        direction=direction,  # type: ignore[arg-type]
        num_negatives=4,
        range_min=1,
        range_max=15,
        relative_margin=0.1,
        near_pictures=0.8,
        near_titles=0.75,
    )
    cosines = pairs.titles[pairs.title_of] @ pairs.pictures.T  # [title of a pair, picture]
    own = np.diag(cosines)
    near = (pairs.pictures @ pairs.pictures.T >= 0.8) | (
        pairs.titles[pairs.title_of] @ pairs.titles[pairs.title_of].T >= 0.75
    )
    mined = mine(pairs, options)
    ways = {"pictures": cosines, "titles": cosines.T}
    chosen = [ways[way] for way in ways if direction in (way, "both")]
    for row, found in enumerate(mined.negatives):
        wrong = np.flatnonzero(pairs.groups != pairs.groups[row])
        candidates: set[int] = set()
        for way in chosen:
            candidates |= set(wrong[np.argsort(-way[row][wrong])][:15].tolist())
        passing = [
            other
            for other in candidates
            if not near[row, other]
            and all(way[row, other] <= own[row] - abs(own[row]) * 0.1 for way in chosen)
        ]
        score = {other: max(way[row, other] for way in chosen) for other in passing}
        expected = sorted(passing, key=lambda other: -score[other])[1:15][:4]
        assert [one.position for one in found] == expected
        assert [one.score for one in found] == pytest.approx(
            [score[other] for other in expected], abs=1e-5
        )
    assert mined.left_out["near_pictures"]
    assert mined.left_out["relative_margin"]
    assert mined.n_found == sum(map(len, mined.negatives))
    assert mined.n_short == sum(len(found) < 4 for found in mined.negatives)


def test_chance_takes_of_those_that_pass_and_the_same_by_the_same_seed() -> None:
    pairs = random_pairs()
    everything = mine(pairs, MiningOptions(direction="titles", num_negatives=60, range_max=60))
    options = MiningOptions(
        direction="titles", sampling_strategy="random", num_negatives=3, range_max=60
    )
    some = mine(pairs, options)
    assert some.negatives == mine(pairs, options).negatives
    assert some.negatives != mine(pairs, replace(options, seed=1)).negatives
    assert some.negatives != mine(pairs, replace(options, sampling_strategy="top")).negatives
    for found, all_of_row in zip(some.negatives, everything.negatives, strict=True):
        assert len(found) == min(3, len(all_of_row))
        assert set(found) <= set(all_of_row)
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_what_belongs_together_is_never_wrong(tiny_model: object) -> None:
    docs = [
        ClipDoc(id="shirt", text="Red Shirt", image=picture(1)),
        ClipDoc(id="same title", text="red  shirt", image=picture(2)),
        ClipDoc(id="same picture", text="a top", image=picture(2)),
        ClipDoc(id="same product", text="blouse", image=picture(3), label="a top"),
        ClipDoc(id="hat", text="hat", image=picture(4)),
        ClipDoc(id="no hat", text="hat", image=picture(5), grade=0),
        ClipDoc(id="shoe", text="shoe", image=picture(6), negatives=["shirt"]),
        ClipDoc(id="nothing", text="shoe"),
        ClipDoc(id="broken", text="shoe", image=picture(7)[:60]),
        *(ClipDoc(id=f"more {n}", text=f"more {n}", image=picture(n)) for n in range(8, 20)),
    ]
    pairs = embed_pairs(DocList[ClipDoc](docs), *both_towers(str(tiny_model), device="cpu"))
    ids = [str(doc.id) for doc in pairs.docs]
    assert ids == [str(docs[row].id) for row in pairs.rows]
    assert set(ids) == {str(doc.id) for doc in docs} - {"no hat", "nothing", "broken"}
    assert ([one.id for one in pairs.problems], pairs.n_wrong) == (["nothing", "broken"], 1)
    together = ids[:4]
    assert len(set(pairs.groups[:4].tolist())) == 1
    assert len(set(pairs.groups.tolist())) == len(ids) - 3
    everything = MiningOptions(num_negatives=30, **ANY)  # type: ignore[arg-type]
    mined = with_negatives(pairs, mine(pairs, everything))
    for doc in mined:
        others = set(together) if doc.id in together else {doc.id}
        assert doc.negatives is not None
        assert not others & set(doc.negatives)
        # All the others' titles and pictures, each once: a picture of two pairs is the first's.
        expected = set(ids) - others - {"same picture"}
        assert set(doc.negatives) | {"same picture"} == expected | {"same picture"}
    assert next(doc for doc in mined if doc.id == "shoe").negatives[0] == "shirt"  # type: ignore[index]
    with pytest.raises(BadData, match="1 usable pair"):
        embed_pairs(DocList[ClipDoc](docs[:1]), *both_towers(str(tiny_model), device="cpu"))


def test_near_duplicates_are_told_by_either_side() -> None:
    pairs = random_pairs(30, 30)
    pairs.pictures[7] = pairs.pictures[3]
    pairs.titles[9] = pairs.titles[4]
    strict = mine(pairs, MiningOptions(num_negatives=29, range_max=30, relative_margin=None))
    loose = mine(pairs, MiningOptions(num_negatives=29, range_max=30, **ANY))  # type: ignore[arg-type]
    for one, other in ((3, 7), (4, 9)):
        assert _names(loose, one, other)
        assert _names(loose, other, one)
        assert not _names(strict, one, other)
        assert not _names(strict, other, one)
    assert dict(strict.left_out) == {"near_pictures": 2, "near_titles": 2}
    assert loose.n_found == 30 * 29
    assert strict.n_found == 30 * 29 - 4


def _names(mined: Mined, row: int, other: int) -> bool:
    return other in [one.position for one in mined.negatives[row]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"direction": "up"}, r"direction is 'up', allowed: 'both', 'pictures', 'titles'"),
        ({"sampling_strategy": "best"}, r"sampling_strategy is 'best', allowed: 'top', 'random'"),
        ({"num_negatives": 0}, "num_negatives is 0: give a whole number from 1 to 100"),
        ({"num_negatives": 3.0}, "num_negatives is 3.0: give a whole number from 1 to 100"),
        ({"max_score": float("nan")}, "max_score is nan: give a number from -1 to 1"),
        ({"num_negatives": 2.5}, "num_negatives is 2.5: give a whole number"),
        ({"num_negatives": None}, "num_negatives is None"),
        ({"range_min": -1}, "range_min is -1: give a whole number from 0"),
        ({"range_min": 8, "range_max": 10}, "range_max is 10: give a whole number from 11"),
        ({"range_min": 9_999}, "range_min is 9999"),
        ({"relative_margin": 1.5}, "relative_margin is 1.5: give a number from -1 to 1"),
        ({"max_score": float("nan")}, "max_score is nan: give a number"),
        ({"near_titles": "0.9"}, "near_titles is '0.9': give a number"),
        ({"seed": True}, "seed is True: give a whole number"),
        ({"min_score": 0.5, "max_score": 0.4}, "min_score is 0.5, above max_score, 0.4"),
        ({"margin": 0.1}, r"unknown option 'margin' of mining: .*relative_margin"),
    ],
)
def test_what_cannot_be_is_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        MiningOptions.parse(options)


def test_options_say_what_will_be_done() -> None:
    assert str(MiningOptions(direction="titles", range_min=2, max_score=0.4)) == (
        "at most 3 wrong answers a pair, of the 100 nearest titles near the picture, the first 2 "
        "skipped; left out are right answers, a relative_margin of 0.05, a max_score of 0.4, a "
        "near_pictures of 0.97 and a near_titles of 0.99"
    )
