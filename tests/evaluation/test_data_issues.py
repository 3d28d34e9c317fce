"""Planted faults are found, and what is right is left alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cliptune.evaluation.report import data_issues
from cliptune.evaluation.report.data_issues import find_duplicates, find_mislabelled


def unit(values: NDArray) -> NDArray[np.float32]:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def test_duplicates_equal_a_brute_force_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_issues, "_BLOCK", 16)  # several blocks, with a remainder
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((70, 24))
    labels = [f"l{i % 10}" for i in range(70)]
    hashes = [f"h{i}" for i in range(70)]
    for source, copy, noise in ((3, 44, 0.02), (17, 18, 0.0), (5, 66, 0.05), (0, 60, 0.01)):
        embeddings[copy] = embeddings[source] + noise * rng.standard_normal(24)
    hashes[18] = hashes[17]  # 0 and 60 have one label: not a fault
    embeddings = unit(embeddings)
    found = find_duplicates(embeddings, labels, hashes)
    cosines = embeddings @ embeddings.T
    expected = {
        (i, j)
        for i in range(70)
        for j in range(i + 1, 70)
        if cosines[i, j] >= 0.97 and labels[i] != labels[j]
    }
    assert {(pair.first, pair.second) for pair in found} == expected == {(3, 44), (17, 18), (5, 66)}
    assert (found[0].first, found[0].is_same_file) == (17, True)
    nearest_first = sorted((float(cosines[3, 44]), float(cosines[5, 66])), reverse=True)
    assert [pair.cosine for pair in found[1:]] == pytest.approx(nearest_first, abs=1e-6)
    assert find_duplicates(embeddings, labels, hashes, most=1) == found[:1]
    assert find_duplicates(embeddings[:0], [], []) == []


def test_swapped_labels_are_found_and_nothing_else() -> None:
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((12, 32))
    true = np.repeat(np.arange(12), 6)
    pictures = unit(centres[true] + 0.25 * rng.standard_normal((72, 32)))
    texts = unit(centres + 0.1 * rng.standard_normal((12, 32)))
    labels = [f"label {i}" for i in true]
    planted = {4: "label 7", 13: "label 8", 30: "label 0", 45: "label 1", 71: "label 3"}
    for position, wrong in planted.items():
        labels[position] = wrong
    names = [f"label {i}" for i in range(12)]
    found = find_mislabelled(pictures, labels, texts, names, logit_scale=20.0)
    # The threshold is a mean, so the least typical of the wrong ones may stay below it.
    assert {one.position for one in found} <= set(planted)
    assert len(found) >= 3
    for one in found:
        assert one.likely == f"label {true[one.position]}"
        assert one.own_probability < 0.1 < one.likely_probability
    margins = [one.own_probability - one.likely_probability for one in found]
    assert margins == sorted(margins)


def test_two_pictures_with_each_others_title_are_found() -> None:
    rng = np.random.default_rng(2)
    centres = unit(rng.standard_normal((40, 32)))
    pictures = unit(centres + 0.05 * rng.standard_normal((40, 32)))
    labels = [f"title {i}" for i in range(40)]
    swapped = [*labels]
    swapped[8], swapped[9] = labels[9], labels[8]
    found = find_mislabelled(pictures, swapped, centres, labels, logit_scale=30.0)
    assert {(one.position, one.likely) for one in found} == {(8, "title 8"), (9, "title 9")}
    # A label without a text, as of pictures that no query asks for, is not judged.
    assert find_mislabelled(pictures, ["other"] * 40, centres, labels, logit_scale=30.0) == []
