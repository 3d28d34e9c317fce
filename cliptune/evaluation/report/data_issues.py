"""Faults in the data that a trained model can point at: duplicates and wrong labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from docarray import DocList
from numpy.typing import NDArray

from cliptune.data.validation import texts_of
from cliptune.documents import ClipDoc
from cliptune.evaluation.search_task import Embedded, SearchTask

NEAR = 0.97
"""The cosine from which two pictures of different labels count as near-duplicates."""
_BLOCK = 2048


@dataclass(frozen=True)
class Duplicate:
    """Two documents of different labels whose pictures are (nearly) the same."""

    first: int
    second: int
    cosine: float
    is_same_file: bool


@dataclass(frozen=True)
class Mislabelled:
    """A document whose picture fits another label better than its own."""

    position: int
    likely: str
    """The label that it seems to belong to."""
    own_probability: float
    likely_probability: float


@dataclass(frozen=True)
class Faults:
    """What looks wrong in a set of documents."""

    where: str
    """Such as `the index`."""
    docs: DocList[ClipDoc]
    duplicates: list[Duplicate]
    mislabelled: list[Mislabelled]
    text_of: dict[str, str]
    """A text of each label, to show what a picture seems to belong to."""


def find_faults(
    where: str,
    task: SearchTask,
    before: Embedded,
    after: Embedded,
    logit_scale: float,
) -> Faults:
    """`find_duplicates` and `find_mislabelled` of the pictures that a search is about.

    Args:
        where: what the pictures are of.
        task: texts and pictures.
        before: both's embeddings by the model before fine-tuning.
        after: likewise by the tuned model.
        logit_scale: the tuned model's factor on cosines.
    """
    answers, labels, text_labels = (
        task.answers,
        task.answers.index_labels,
        task.answers.query_labels,
    )
    return Faults(
        where,
        answers.index,
        find_duplicates(before[1], labels, task.digests),
        find_mislabelled(after[1], labels, after[0], text_labels, logit_scale),
        dict(zip(reversed(text_labels), reversed(texts_of(answers.queries)), strict=True)),
    )


def find_duplicates(
    embeddings: NDArray[np.float32],
    labels: Sequence[str],
    hashes: Sequence[str | None],
    *,
    threshold: float = NEAR,
    most: int = 24,
) -> list[Duplicate]:
    """Pairs of documents with different labels and (nearly) the same picture, the closest first.

    Such pairs teach a model that one picture is both right and wrong.

    Args:
        embeddings: of the pictures, float32 [N, D] of unit length; best those of the model
            before fine-tuning, which has not been told the labels.
        labels: [N]
        hashes: of the pictures' files, [N].
        threshold: the least cosine.
        most: how many pairs at most.
    """
    codes = np.unique(np.asarray(labels), return_inverse=True)[1]
    pairs: list[Duplicate] = []
    for top in range(0, len(embeddings), _BLOCK):
        for left in range(top, len(embeddings), _BLOCK):
            cosines = embeddings[top : top + _BLOCK] @ embeddings[left : left + _BLOCK].T
            rows, columns = np.nonzero(cosines >= threshold)
            first, second = rows + top, columns + left
            kept = (first < second) & (codes[first] != codes[second])
            pairs += [
                Duplicate(int(i), int(j), float(cosines[i - top, j - left]), hashes[i] == hashes[j])
                for i, j in zip(first[kept], second[kept], strict=True)
            ]
            pairs.sort(key=lambda pair: (not pair.is_same_file, -pair.cosine, pair.first))
            del pairs[most:]
    return pairs


def find_mislabelled(
    pictures: NDArray[np.float32],
    labels: Sequence[str],
    texts: NDArray[np.float32],
    text_labels: Sequence[str],
    logit_scale: float,
    *,
    most: int = 24,
) -> list[Mislabelled]:
    """Documents whose label is probably wrong, by confident learning, the clearest first.

    Northcutt, Jiang & Chuang, "Confident learning: estimating uncertainty in dataset labels",
    2021: a label's threshold is the mean probability that it gets from the pictures which bear
    it; a picture that passes another label's threshold, and finds that one the most probable of
    those it passes, is counted as that other's. Probabilities are CLIP's: the softmax over all
    labels of the logit scale times the cosine.

    Args:
        pictures: embeddings float32 [N, D] of unit length.
        labels: [N]
        texts: embeddings float32 [T, D] of unit length.
        text_labels: [T]; a label's direction is the mean of its texts'.
        logit_scale: the factor on the cosines.
        most: how many documents at most.
    """
    names, codes = np.unique(np.asarray(text_labels), return_inverse=True)
    directions = np.zeros((len(names), texts.shape[1]), dtype=np.float32)
    np.add.at(directions, codes, texts)
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    place = {name: i for i, name in enumerate(names.tolist())}
    own = np.array([place.get(label, -1) for label in labels])
    thresholds = _thresholds(pictures, own, directions, logit_scale)
    suspects: list[Mislabelled] = []
    for start, probable in _probabilities(pictures, directions, logit_scale):
        passing = np.where(probable >= thresholds, probable, -1.0)
        likely = passing.argmax(axis=1)
        for row in np.flatnonzero(passing.max(axis=1) >= 0):
            mine, other = own[start + row], likely[row]
            if mine >= 0 and mine != other:
                suspects.append(
                    Mislabelled(
                        int(start + row),
                        str(names[other]),
                        float(probable[row, mine]),
                        float(probable[row, other]),
                    )
                )
    suspects.sort(key=lambda each: each.own_probability - each.likely_probability)
    return suspects[:most]


def _thresholds(
    pictures: NDArray[np.float32],
    own: NDArray[np.int64],
    directions: NDArray[np.float32],
    logit_scale: float,
) -> NDArray[np.float64]:
    """[L]: each label's mean probability among its own pictures; infinite where it has none."""
    total, count = np.zeros(len(directions)), np.zeros(len(directions))
    for start, probable in _probabilities(pictures, directions, logit_scale):
        mine = own[start : start + len(probable)]
        labelled = np.flatnonzero(mine >= 0)
        np.add.at(total, mine[labelled], probable[labelled, mine[labelled]])
        np.add.at(count, mine[labelled], 1)
    return np.where(count > 0, total / np.maximum(count, 1), np.inf)


def _probabilities(
    pictures: NDArray[np.float32], directions: NDArray[np.float32], logit_scale: float
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """(First row, probabilities [n, L]) of some pictures at a time."""
    for start in range(0, len(pictures), _BLOCK):
        cosines = torch.from_numpy(pictures[start : start + _BLOCK] @ directions.T)
        yield start, (logit_scale * cosines.double()).softmax(dim=1).numpy()
