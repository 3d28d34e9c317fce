"""Training pairs and their batches: pictures, tokens and labels of documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from docarray import DocList
from numpy.typing import NDArray
from torch import Tensor

from cliptune.data.equivalence import KeyedDocs, same_labels
from cliptune.data.pictures.pixels import PixelSet, decode_pairs
from cliptune.data.validation import texts_of
from cliptune.documents import ClipDoc
from cliptune.errors import BadData
from cliptune.models.loading import ClipModel
from cliptune.models.tokenizers import Tokenizer, keys_of_tokens
from cliptune.training.batches.pair_weights import (
    Negatives,
    find_negatives,
    negatives_among,
    unknown_negatives,
    weights_of,
)
from cliptune.training.batches.samplers import Order
from cliptune.training.batches.text_choices import (
    TextChoices,
    labels_with_texts,
    texts_with_weights,
)
from cliptune.training.batches.word_order import WordOrder
from cliptune.training.run_logger import RunLogger

_NAMED_PROBLEMS = 20


@dataclass
class Pairs:
    """Pairs of a text and a picture, ready to be cut in batches."""

    pixels: NDArray[np.uint8]
    """[N, H, W, 3], perhaps mapped from disk."""
    tokens: Tensor
    """int64 [N, L], padded to the longest text."""
    labels: Tensor
    """int64 [N]: equal labels are right answers to each other."""
    ids: list[str]
    table: KeyedDocs | None = None
    """What the labels were decided on."""
    image_features: Tensor | None = None
    """float32 [N, width] of the vision tower's trunk, where that is frozen: computed once."""
    text_features: Tensor | None = None
    """float32 [N, width] of the text tower's trunk, where that is frozen: computed once."""
    choices: TextChoices | None = None
    """The texts of pairs that have several, of which each step draws one; `tokens` are of the
    first ones."""
    weights: Tensor | None = None
    """float32 [N]: how much each counts (see `cliptune.training.losses`); None: all alike."""
    word_order: WordOrder | None = None
    """Puts the words of texts in another order; None: they are read as they are."""
    negatives: Negatives = field(default_factory=dict)
    """By position those of wrong answers that are to be told apart from it: in one batch."""

    @property
    def all_tokens(self) -> Tensor:
        """int64 [M, L]: the tokens of all texts that may be trained on."""
        return self.tokens if self.choices is None else self.choices.tokens

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.ids)

    @property
    def right(self) -> NDArray[np.int64]:
        """The positions of the pairs that belong together: all but those of weight 0."""
        if self.weights is None:
            return np.arange(len(self))
        return np.flatnonzero(self.weights.numpy())

    def subset(self, positions: NDArray[np.int64]) -> Pairs:
        """The pairs at `positions`, in that order."""
        chosen = torch.from_numpy(positions)
        return Pairs(
            self.pixels[positions],
            self.tokens[chosen],
            self.labels[chosen],
            [self.ids[i] for i in positions],
            None if self.table is None else self.table.subset(positions.tolist()),
            choices=None if self.choices is None else self.choices.subset(positions),
            weights=None if self.weights is None else self.weights[chosen],
            negatives=negatives_among(self.negatives, positions),
        )


def read_pairs(
    docs: DocList[ClipDoc],
    role: str,
    model: ClipModel,
    workers: int,
    logger: RunLogger,
    pixel_cache: Path | None = None,
) -> Pairs:
    """Decode every picture once, and tokenise the texts; what can't be used is logged.

    Raises:
        BadData: more than a tenth of the pictures are unreadable, or more than half of the
            documents lack a text or a picture.
    """
    read = decode_pairs(
        docs,
        role,
        model.preprocessing,
        cache_dir=pixel_cache,
        workers=workers,
        on_progress=lambda done, total: logger.progress(f"Decoding {role} pictures", done, total),
    )
    docs, decoded, problems = read.docs, read.pictures, read.problems
    left_out = f", {len(problems)} left out" if problems else ""
    logger.log("INFO", f"{len(decoded.index)} {role} pairs{left_out}")
    for problem in problems[:_NAMED_PROBLEMS]:
        logger.log("WARNING", f"{role} {problem}")
    if len(problems) > _NAMED_PROBLEMS:
        more = len(problems) - _NAMED_PROBLEMS
        logger.log("WARNING", f"{more} more {role} documents are left out")
    pairs = make_pairs(docs, decoded, model.tokenizer, model.context_length)
    _tell_of_weights(pairs, role, logger)
    if pairs.choices is not None:
        count = int((np.diff(pairs.choices.starts) > 1).sum())
        logger.log("INFO", f"{count} {role} pairs have several texts")
    return pairs


def _tell_of_weights(pairs: Pairs, role: str, logger: RunLogger) -> None:
    """Say which pairs count for more or less, and which answers are wrong."""
    if pairs.weights is not None:
        right = pairs.weights[pairs.weights > 0]
        wrong = len(pairs) - len(right)
        said = f", {wrong} of them wrong answers (grade 0)" if wrong else ""
        least, most = (float(right.min()), float(right.max())) if len(right) else (0.0, 0.0)
        logger.log("INFO", f"{role} pairs weigh {least:g} to {most:g}{said}")
    if pairs.negatives:
        count = len(pairs.negatives)
        logger.log("INFO", f"{count} {role} pairs name wrong answers, and share batches with them")
    assert pairs.table is not None  # noqa: S101 - `make_pairs` gives it
    if unknown := unknown_negatives(pairs.table.docs):
        logger.log(
            "WARNING",
            f"{role}: {len(unknown)} wrong answers are no documents, such as {unknown[0]!r}",
        )


def make_pairs(
    docs: DocList[ClipDoc], decoded: PixelSet, tokenizer: Tokenizer, context_length: int
) -> Pairs:
    """Pairs of the documents whose picture could be decoded (`decoded.index`).

    All of them must have a text (see `cliptune.data.validation`).
    """
    kept = DocList[ClipDoc]([docs[i] for i in decoded.index])
    texts = texts_of(kept)
    several = [texts_with_weights(doc) for doc in kept]
    unique = list(dict.fromkeys([*texts, *(text for one in several for text in one)]))
    unique_tokens = tokenizer(unique, context_length)
    keys = keys_of_tokens(unique_tokens)
    first_of_key: dict[bytes, int] = {}
    row = {text: first_of_key.setdefault(keys[i], i) for i, text in enumerate(unique)}
    rows = [row[text] for text in texts]
    pictures = [decoded.digests[i] for i in decoded.index]
    table = KeyedDocs(kept, [keys[i] for i in rows], pictures)
    labels = torch.zeros(len(kept), dtype=torch.int64)
    ids = [str(doc.id) for doc in kept]
    pairs = Pairs(
        decoded.pixels,
        unique_tokens[rows],
        labels,
        ids,
        table,
        choices=TextChoices.of(several, row, unique_tokens, unique),
        weights=weights_of(kept),
        negatives=find_negatives(kept, rows),
    )
    label_together(pairs)
    return pairs


def label_together(*several: Pairs) -> None:
    """Decide once, for all of them, which pairs are the same: the same get equal labels."""
    tables = [pairs.table for pairs in several if pairs.table is not None]
    names = [str(label) for labels in same_labels(*tables) for label in labels]
    _, codes = np.unique(names, return_inverse=True)
    labels = torch.from_numpy(codes.astype(np.int64))
    parts = torch.split(labels, [len(pairs) for pairs in several])
    for pairs, part in zip(several, parts, strict=True):
        pairs.labels = part


def check_trainable(pairs: Pairs) -> None:
    """Refuse pairs that nothing can be learnt from.

    Raises:
        BadData: fewer than two, or all of one label.
    """
    right = pairs.right
    if len(right) < 2:
        wrong = f" besides {len(pairs) - len(right)} of grade 0" if len(pairs) > len(right) else ""
        raise BadData(
            f"{len(right)} usable training pair(s){wrong}: contrastive training needs at least 2"
        )
    if len(set(pairs.labels.tolist())) < 2:
        raise BadData(
            "all training pairs have the same label, so that none is a wrong answer to another: "
            "give them different texts or labels"
        )


def split_by_label(pairs: Pairs, part: float, seed: int) -> tuple[Pairs, Pairs]:
    """Keep `part` of the labels aside; no label is on both sides. Returns (training, kept)."""
    labels = pairs.labels.numpy()
    distinct = np.unique(labels)
    order = np.random.default_rng(seed).permutation(len(distinct))
    aside = distinct[order[: max(1, round(part * len(distinct)))]]
    is_aside = np.isin(labels, aside)
    return pairs.subset(np.flatnonzero(~is_aside)), pairs.subset(np.flatnonzero(is_aside))


@dataclass
class Batch:
    """One step's pairs on the CPU, or the part of them that this process works on.

    Pictures, tokens and features are this process's n of the batch's N pairs: `here` says which.
    """

    positions: NDArray[np.int64]
    """[N]: which pairs they are."""
    labels: Tensor
    """int64 [N]"""
    here: slice
    weights: Tensor | None = None
    """float32 [N]; None: all are 1."""
    tokens: Tensor | None = None
    """int64 [n, L]; None where the text features are known."""
    pixels: Tensor | None = None
    """uint8 [n, H, W, 3]; None where the image features are known."""
    text_features: Tensor | None = None
    """float32 [n, width]"""
    image_features: Tensor | None = None
    """float32 [n, width]"""

    def __len__(self) -> int:
        """N, the pairs of the whole batch."""
        return len(self.positions)


def read_batch(
    pairs: Pairs, positions: NDArray[np.int64], here: slice, seed: int | None = None
) -> Batch:
    """The batch of `pairs` at `positions`, with the contents of its part `here`.

    Of pairs with several texts one is drawn by `seed`, and the order of its words; without, it is
    the first, as it is.
    """
    places = torch.from_numpy(positions)
    batch = Batch(positions, pairs.labels[places], here)
    if pairs.weights is not None:
        batch.weights = pairs.weights[places]
    own = positions[here]
    tokens, features, chosen = pairs.tokens, pairs.text_features, torch.from_numpy(own)
    if pairs.choices is not None and seed is not None:
        rows = pairs.choices.draw(positions, seed)
        # The text of a wrong answer makes nothing right.
        read = rows if batch.weights is None else np.where(batch.weights > 0, rows, -1 - positions)
        batch.labels = labels_with_texts(batch.labels, read)
        tokens, features = pairs.choices.tokens, pairs.choices.features
        chosen = torch.from_numpy(rows[here])
    if features is None:
        batch.tokens = tokens[chosen]
        if pairs.word_order is not None and seed is not None:
            seeds = pairs.word_order.draw(len(positions), seed)[here]
            batch.tokens = pairs.word_order.read(batch.tokens, chosen.tolist(), seeds)
    else:
        batch.text_features = features[chosen]
    if pairs.image_features is None:
        # Reading a mapped file is fastest in its own order.
        in_order, back = np.unique(own, return_inverse=True)
        batch.pixels = torch.from_numpy(np.ascontiguousarray(pairs.pixels[in_order][back]))
    else:
        batch.image_features = pairs.image_features[torch.from_numpy(own)]
    return batch


def batches(
    pairs: Pairs,
    order: Order,
    *,
    start: int = 0,
    rank: int = 0,
    world_size: int = 1,
    seed_of: Callable[[int], int | None] = lambda step: None,
) -> Iterator[tuple[int, Batch]]:
    """Yield (step, batch) from step `start` on; the next batch is read while one is trained on.

    Of `world_size` processes, the one of `rank` reads its own part of each batch. `seed_of` a step
    decides which of several texts are drawn, the same ones in all processes.
    """

    def read(step: int) -> Batch:
        positions = order[step]
        here = share(len(positions), rank, world_size)
        return read_batch(pairs, positions, here, seed_of(step))

    with ThreadPoolExecutor(1, thread_name_prefix="cliptune-read") as pool:
        coming = pool.submit(read, start) if start < len(order) else None
        for step in range(start, len(order)):
            assert coming is not None  # noqa: S101 - for the type checker
            batch = coming.result()
            if step + 1 < len(order):
                coming = pool.submit(read, step + 1)
            yield step, batch


def share(n: int, rank: int, world_size: int) -> slice:
    """The part of `n` pairs that the process `rank` of `world_size` works on: near-equal parts."""
    return slice(n * rank // world_size, n * (rank + 1) // world_size)
