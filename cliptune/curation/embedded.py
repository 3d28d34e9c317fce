"""Pairs of a title and a picture, embedded once by both towers of a model."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from docarray import DocList
from numpy.typing import NDArray

from cliptune.data.equivalence import KeyedDocs, same_labels
from cliptune.data.pictures.pixels import decode_pairs, take_rows
from cliptune.data.validation import Problem, texts_of
from cliptune.documents import ClipDoc
from cliptune.errors import BadData
from cliptune.evaluation.retrieval import text_keys_of
from cliptune.evaluation.search_task import OnProgress, encode_pictures
from cliptune.inference import TextTower, VisionTower


@dataclass(frozen=True)
class EmbeddedPairs:
    """Pairs that belong together: those of grade 0 are not among them.

    Equal titles (by the tower's tokens) and equal pictures (by their bytes) are embedded once.
    Beside the documents this takes 4 · D bytes for each title and for each picture.
    """

    docs: DocList[ClipDoc]
    """The pairs, N of them."""
    rows: list[int]
    """[N]: where they stand among the documents that were given."""
    groups: NDArray[np.int64]
    """[N]: equal where pairs are right answers to each other, as in training."""
    title_of: NDArray[np.int64]
    """[N]: which of `titles`."""
    picture_of: NDArray[np.int64]
    """[N]: which of `pictures`."""
    titles: NDArray[np.float32]
    """[T, D], of unit length."""
    pictures: NDArray[np.float32]
    """[P, D], of unit length."""
    problems: list[Problem] = field(default_factory=list)
    """What was left out: without a title, without a picture that can be read."""
    n_wrong: int = 0
    """How many were left out because their grade is 0."""

    def __len__(self) -> int:
        """N, how many pairs there are."""
        return len(self.docs)


def embed_pairs(
    docs: DocList[ClipDoc],
    text_tower: TextTower,
    vision_tower: VisionTower,
    *,
    role: str = "data",
    pixel_cache: Path | None = None,
    tell: OnProgress = lambda *_: None,
) -> EmbeddedPairs:
    """Decode and embed the pairs among `docs`, and decide which are the same, as training does.

    Args:
        docs: pairs of a title and a picture.
        text_tower: of the model.
        vision_tower: likewise.
        role: what they are, named in errors.
        pixel_cache: a folder for decoded pictures, which a training at the same size reads again.
        tell: of the progress.

    Raises:
        BadData: more than half of them lack something, more than a tenth of the pictures can't be
            read, or fewer than two pairs are left.
    """
    read = decode_pairs(
        docs,
        role,
        vision_tower.preprocessing,
        cache_dir=pixel_cache,
        on_progress=lambda done, total: tell("decoding pictures", done, total),
    )
    decoded = read.pictures
    keyed = KeyedDocs.of(read.docs, text_keys_of(text_tower), decoded.digests).subset(decoded.index)
    labels = same_labels(keyed)[0]
    right = [row for row, doc in enumerate(keyed.docs) if doc.grade != 0]
    if len(right) < 2:
        raise BadData(f"{role}: {len(right)} usable pair(s), at least 2 are needed")
    pairs = keyed.subset(right)
    title_of, first_title = _distinct(pairs.texts)
    picture_of, first_picture = _distinct(pairs.pictures)
    texts = texts_of(pairs.docs[row] for row in first_title)
    tell("embedding titles", 0, len(texts))
    titles = text_tower.encode_distinct(text_tower.tokenize(texts))
    pixels = take_rows(decoded.pixels, [right[row] for row in first_picture])
    pictures = encode_pictures(vision_tower, pixels, "embedding pictures", tell)
    return EmbeddedPairs(
        pairs.docs,
        [read.places[decoded.index[row]] for row in right],
        _distinct([labels[row] for row in right])[0],
        title_of,
        picture_of,
        titles,
        pictures,
        read.problems,
        len(keyed.docs) - len(right),
    )


def _distinct(keys: Sequence[Hashable]) -> tuple[NDArray[np.int64], list[int]]:
    """For each key which of the distinct ones it is, in order; and where each is first."""
    number: dict[Hashable, int] = {}
    first: list[int] = []
    numbers = np.empty(len(keys), dtype=np.int64)
    for position, key in enumerate(keys):
        if key not in number:
            number[key] = len(first)
            first.append(position)
        numbers[position] = number[key]
    return numbers, first
