"""Rows that look wrong: titles and labels that don't fit their picture, and near-duplicates.

What fits is said by the pictures nearest to a pair's own, by an exact search in blocks:

- **Titles**, most of which are there once, are compared with the neighbours' titles: a title's
  agreement is the mean of its three highest cosines with them, after the mean of all titles was
  taken off. Suspected is what lies further below the median than `deviations` times the usual
  deviation (1.4826 times the median one: Hampel, 1974).
- **Labels** are judged by confident learning (Northcutt, Jiang & Chuang, "Confident learning:
  Estimating uncertainty in dataset labels", JAIR 2021) as cleanlab has it. It asks for the
  probability of each label for each pair, from elsewhere than the pair itself: here the part of
  the neighbours that have it.

A pair has no vote on itself, nor have pairs of the same picture. So a picture of a shoe among
shoes with the title of a shirt is found; one with another shoe's title is not. (Confident learning
on groups of like titles finds fewer of them: see the documentation.)

Beside the embeddings this takes about 100 MB, and for each pair 12 bytes a neighbour, and 8 a
label.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cliptune.curation.embedded import EmbeddedPairs
from cliptune.curation.negatives import QUERIES
from cliptune.data.tables.writing import write_rows
from cliptune.data.validation import is_blank
from cliptune.errors import BadInput
from cliptune.evaluation.search_task import OnProgress
from cliptune.evaluation.topk import top_k
from cliptune.extras import need
from cliptune.inference.towers import unit_length

BY_TITLE, BY_LABEL, NEAR = "title", "label", "near-duplicate"
"""Why a pair is suspected."""
SUSPECT_ID, DROP, CORRECTION = "id", "drop", "correction"
COLUMNS = (
    SUSPECT_ID, "title", "label", "picture", "reason", "score", "suggested", "neighbour",
    "neighbour_title", DROP, CORRECTION,
)  # fmt: skip
"""Those of the table of suspects. The last two are for who decides: anything in the first, the
right title or label in the other."""
VOTERS = 50
"""How many of the nearest pictures are asked."""
_AGREEING = 3
"""So many of them whose titles are most like a pair's own say how well that fits."""
_LEAST_OF_LABEL = 5
"""Labels of fewer pairs are not judged: next to nobody could vote for them."""
_NUMBERS = 2**24
"""Of embeddings that are compared at once."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SuspectOptions:
    """What is looked for."""

    near_pictures: float = 0.97
    """The cosine from which two pictures are near-duplicates."""
    deviations: float = 3.0
    """So many usual deviations below the median a title's agreement is suspicious."""
    most: int = 300
    """At most so many of each reason, the likeliest."""

    def __post_init__(self) -> None:
        """Refuse what can't be.

        Raises:
            BadInput: a value is out of its bounds; the message repeats it.
        """
        if not 0 < self.near_pictures <= 1:
            raise BadInput(f"near_pictures is {self.near_pictures}: give a number above 0, up to 1")
        if self.most < 1:
            raise BadInput(f"most is {self.most}: give a number from 1")
        if not 0 < self.deviations < math.inf:
            raise BadInput(f"deviations is {self.deviations}: give a number above 0")

    def __str__(self) -> str:
        """What will be done, in a sentence."""
        return (
            f"titles and labels that the {VOTERS} nearest pictures speak against (titles by "
            f"{self.deviations:g} deviations), and pictures of a cosine of at least "
            f"{self.near_pictures:g} that don't belong together; at most {self.most} of each"
        )


@dataclass(frozen=True)
class Suspect:
    """A pair that looks wrong."""

    position: int
    """Among the pairs."""
    reason: str
    """`BY_TITLE`, `BY_LABEL` or `NEAR`."""
    score: float
    """The lower, the likelier it is wrong: a title's agreement, from -1 to 1; the part of the
    neighbours that have the label; of near-duplicates 1 less their cosine."""
    suggested: str | None
    """What fits better: the neighbours' most typical title, or their likeliest label."""
    neighbour: int
    """The pair that has it, or the near-duplicate."""

    def described(self, pairs: EmbeddedPairs) -> str:
        """In words."""
        doc, other = pairs.docs[self.position], pairs.docs[self.neighbour]
        if self.reason == NEAR:
            return f"{doc.text!r} looks like {other.id}, {other.text!r}"
        own = doc.text if self.reason == BY_TITLE else doc.label
        return f"{own!r} seems to be {self.suggested!r}, as {other.id}"


def find_suspects(
    pairs: EmbeddedPairs, options: SuspectOptions, tell: OnProgress = lambda *_: None
) -> list[Suspect]:
    """The pairs that look wrong: by title, by label, near-duplicates; of each the likeliest first.

    Args:
        pairs: see `embed_pairs`; best by a model that was not trained on them.
        options: see `SuspectOptions`.
        tell: of the progress.

    Raises:
        Unavailable: cleanlab isn't installed.
    """
    need("suspects", "looking for suspects")
    if len(pairs.pictures) < 2:
        return []
    neighbours, cosines = _neighbours(pairs, tell)
    found = _wrong_titles(pairs, neighbours, options, tell)
    labels, codes = _labels(pairs)
    if labels:
        tell("judging labels", 0, 1)
        found += _mislabelled(codes, neighbours, labels)[: options.most]
    return found + _near(pairs, neighbours, cosines, options)


def write_suspects(pairs: EmbeddedPairs, found: Sequence[Suspect], out: Path) -> None:
    """Write `found` as a table with two more columns, `DROP` and `CORRECTION`, for decisions.

    Raises:
        BadInput: as `write_rows`.
    """
    rows = []
    for one in found:
        doc, other = pairs.docs[one.position], pairs.docs[one.neighbour]
        picture = doc.uri if doc.uri and not doc.uri.startswith("data:") else ""
        values = (
            str(doc.id), doc.text, doc.label or "", picture, one.reason, round(one.score, 4),
            one.suggested or "", str(other.id), other.text, "", "",
        )  # fmt: skip
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    write_rows(out, COLUMNS, rows)


def _neighbours(pairs: EmbeddedPairs, tell: OnProgress) -> tuple[Ints, NDArray[np.float32]]:
    """[N, VOTERS]: the pairs whose pictures are nearest, of each picture one, and their cosines.

    -1 where there are no more.
    """
    pictures = pairs.pictures
    first = np.unique(pairs.picture_of, return_index=True)[1]
    stands_for = np.append(first, -1)
    ids = np.empty((len(pictures), min(VOTERS, len(pictures))), dtype=np.int64)
    cosines = np.empty(ids.shape, dtype=np.float32)
    for start in range(0, len(pictures), QUERIES):
        tell("looking for neighbours", start, len(pictures))
        own = np.arange(start, min(start + QUERIES, len(pictures)))
        ids[own], cosines[own] = top_k(pictures[own], pictures, VOTERS, exclude=own)
    return stands_for[ids][pairs.picture_of], cosines[pairs.picture_of]


def _wrong_titles(
    pairs: EmbeddedPairs, neighbours: Ints, options: SuspectOptions, tell: OnProgress
) -> list[Suspect]:
    """Pairs whose titles are unlike those of the nearest pictures, the least like first."""
    mean = pairs.titles[pairs.title_of].mean(axis=0)
    titles = unit_length(pairs.titles - mean)
    agreements = np.full(len(pairs), np.nan)
    for rows in _blocks(neighbours, titles.shape[1]):
        tell("judging titles", int(rows[0]), len(pairs))
        others = titles[pairs.title_of[neighbours[rows]]]
        cosines = np.matmul(others, titles[pairs.title_of[rows], :, None])[:, :, 0]
        cosines[neighbours[rows] < 0] = np.nan
        agreements[rows] = _mean_of_highest(cosines)
    middle = np.nanmedian(agreements)
    deviation = 1.4826 * np.nanmedian(abs(agreements - middle))
    wrong = np.flatnonzero(agreements < middle - options.deviations * deviation)
    wrong = wrong[np.argsort(agreements[wrong], kind="stable")][: options.most]
    found = []
    for row in wrong:
        voters = neighbours[row][neighbours[row] >= 0]
        asked = titles[pairs.title_of[voters]]
        typical = int(voters[(asked @ asked.sum(axis=0)).argmax()])
        text = str(pairs.docs[typical].text)
        found.append(Suspect(int(row), BY_TITLE, float(agreements[row]), text, typical))
    return found


def _mean_of_highest(cosines: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n]: the mean of the `_AGREEING` highest of [n, K]; nan counts for nothing."""
    highest = -np.sort(-cosines, axis=1)[:, :_AGREEING]  # nan is sorted to the end
    means: NDArray[np.float32] = np.nanmean(highest, axis=1)
    return means


def _blocks(neighbours: Ints, dim: int) -> Iterator[Ints]:
    """Rows whose neighbours' embeddings are held at once."""
    step = max(1, _NUMBERS // max(1, neighbours.shape[1] * dim))
    return (
        np.arange(start, min(start + step, len(neighbours)))
        for start in range(0, len(neighbours), step)
    )


def _labels(pairs: EmbeddedPairs) -> tuple[list[str], Ints]:
    """[N]: the table's labels, and their numbers: -1 of those that are not judged.

    No labels: there are none, or fewer than two that can be judged.
    """
    given = ["" if is_blank(doc.label) else str(doc.label) for doc in pairs.docs]
    codes = np.unique(given, return_inverse=True)[1].astype(np.int64)
    counts = np.bincount(codes)[codes]
    judged = (counts >= _LEAST_OF_LABEL) & (np.array(given) != "")
    if len(set(codes[judged].tolist())) < 2:
        return [], codes
    codes[judged] = _numbered(codes[judged])
    codes[~judged] = -1
    return given, codes


def _numbered(codes: NDArray[np.integer]) -> Ints:
    """Numbers without gaps, from 0."""
    numbers: Ints = np.unique(codes, return_inverse=True)[1].astype(np.int64)
    return numbers


def _mislabelled(codes: Ints, neighbours: Ints, labels: Sequence[str]) -> list[Suspect]:
    """Pairs that cleanlab takes for mislabelled, the likeliest first.

    Args:
        codes: [N]: labels by number, from 0; -1 is not judged and has no vote.
        neighbours: [N, K], -1 where there are no more.
        labels: [N].
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    judged = np.flatnonzero(codes >= 0)
    voters = neighbours[judged]
    votes = _votes(np.where(voters >= 0, codes[voters], -1), int(codes.max()) + 1)
    # One process: others would be forked from one with torch's threads.
    wrong = find_label_issues(codes[judged], votes, filter_by="prune_by_noise_rate", n_jobs=1)
    scores = get_label_quality_scores(codes[judged], votes, method="self_confidence")
    found = []
    for row in np.flatnonzero(wrong):
        likely = votes[row].argmax()  # another one than its own, or cleanlab would let it pass
        place = int(next(n for n in voters[row] if n >= 0 and codes[n] == likely))
        found.append(Suspect(int(judged[row]), BY_LABEL, float(scores[row]), labels[place], place))
    return sorted(found, key=lambda one: (one.score, one.position))


def _votes(classes: Ints, count: int) -> NDArray[np.float64]:
    """[N, count]: the part of the votes of each class, of neighbours' `classes` [N, K].

    Together one vote more, spread over all classes, stands for those who were not asked.
    """
    votes = np.full((len(classes), count), 1 / count)
    rows, places = np.nonzero(classes >= 0)
    np.add.at(votes, (rows, classes[rows, places]), 1.0)
    shares: NDArray[np.float64] = votes / votes.sum(axis=1, keepdims=True)
    return shares


def _near(
    pairs: EmbeddedPairs,
    neighbours: Ints,
    cosines: NDArray[np.float32],
    options: SuspectOptions,
) -> list[Suspect]:
    """Couples of pairs that don't belong together and have nearly the same picture."""
    rows, places = np.nonzero((cosines >= options.near_pictures) & (neighbours >= 0))
    couples = dict.fromkeys(_same_picture(pairs), 1.0)
    for row, place in zip(rows.tolist(), places.tolist(), strict=True):
        other = int(neighbours[row, place])
        if pairs.groups[row] != pairs.groups[other]:
            couples.setdefault((min(row, other), max(row, other)), float(cosines[row, place]))
    nearest = sorted(couples, key=lambda couple: (-couples[couple], couple))[: options.most]
    return [
        Suspect(one, NEAR, round(max(0.0, 1 - couples[one, other]), 6), None, other)
        for one, other in nearest
    ]


def _same_picture(pairs: EmbeddedPairs) -> list[tuple[int, int]]:
    """Couples of one picture whose own labels differ: the first pair of it, and another one."""
    first: dict[int, int] = {}
    couples = []
    for row, picture in enumerate(pairs.picture_of.tolist()):
        other = first.setdefault(picture, row)
        if pairs.groups[other] != pairs.groups[row]:
            couples.append((other, row))
    return couples
