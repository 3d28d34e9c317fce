"""From documents to batches: tokens, decoded pictures, labels; order and augmentation by seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from docarray import DocList
from numpy.typing import NDArray
from torch import Tensor

from cliptune.data.images import ImagePreprocessing
from cliptune.data.pixels import PixelSet
from cliptune.documents import ClipDoc
from cliptune.models.tokenizers import Tokenizer


@dataclass
class Pairs:
    """Training pairs, ready to be cut in batches."""

    pixels: NDArray[np.uint8]
    """[N, H, W, 3], perhaps mapped from disk."""
    tokens: Tensor
    """int64 [N, L], padded to the longest text."""
    labels: Tensor
    """int64 [N]: equal labels are right answers to each other."""
    ids: list[str]

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.ids)

    def subset(self, positions: NDArray[np.int64]) -> Pairs:
        """The pairs at `positions`, in that order."""
        chosen = torch.from_numpy(positions)
        return Pairs(
            self.pixels[positions],
            self.tokens[chosen],
            self.labels[chosen],
            [self.ids[i] for i in positions],
        )


@dataclass
class Batch:
    """One step's pairs on the CPU; `positions` says which pairs they are."""

    pixels: Tensor
    tokens: Tensor
    labels: Tensor
    positions: NDArray[np.int64]


def make_pairs(
    docs: DocList[ClipDoc], decoded: PixelSet, tokenizer: Tokenizer, context_length: int
) -> Pairs:
    """Pairs of the documents whose picture could be decoded (`decoded.index`)."""
    kept = [docs[i] for i in decoded.index]
    texts = [str(doc.text) for doc in kept]
    unique = list(dict.fromkeys(texts))
    row = {text: i for i, text in enumerate(unique)}
    unique_tokens = tokenizer(unique, context_length)
    tokens = unique_tokens[[row[text] for text in texts]]
    _, codes = np.unique([str(doc.label or doc.text) for doc in kept], return_inverse=True)
    labels = torch.from_numpy(codes.astype(np.int64))
    return Pairs(decoded.pixels, tokens, labels, [str(doc.id) for doc in kept])


def split_by_label(pairs: Pairs, part: float, seed: int) -> tuple[Pairs, Pairs]:
    """Keep `part` of the labels aside; no label is on both sides. Returns (training, kept)."""
    labels = pairs.labels.numpy()
    distinct = np.unique(labels)
    order = np.random.default_rng(seed).permutation(len(distinct))
    aside = distinct[order[: max(1, round(part * len(distinct)))]]
    is_aside = np.isin(labels, aside)
    return pairs.subset(np.flatnonzero(~is_aside)), pairs.subset(np.flatnonzero(is_aside))


def step_seed(*parts: int) -> int:
    """A seed from the run's seed, the epoch and the step: independent of what ran before.

    This is what makes a resumed run see the batches and crops of the uninterrupted one.
    """
    digest = hashlib.sha256(",".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % 2**63


def epoch_order(n: int, batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Positions 0..n-1 shuffled and cut in equal batches of at most `batch_size`.

    Equal batches, because a last batch of a few pairs would have next to no negatives.
    """
    order = np.random.default_rng(step_seed(seed, epoch)).permutation(n)
    return np.array_split(order, max(1, -(-n // batch_size)))


def batches(
    pairs: Pairs, order: list[NDArray[np.int64]], *, start: int = 0
) -> Iterator[tuple[int, Batch]]:
    """Yield (step, batch) from step `start` on; the next batch is read while one is trained on."""

    def read(positions: NDArray[np.int64]) -> Batch:
        chosen = torch.from_numpy(positions)
        tokens = pairs.tokens[chosen]
        # Reading a mapped file is fastest in its own order.
        sorted_positions, back = np.unique(positions, return_inverse=True)
        pixels = torch.from_numpy(np.ascontiguousarray(pairs.pixels[sorted_positions][back]))
        return Batch(pixels, tokens, pairs.labels[chosen], positions)

    with ThreadPoolExecutor(1, thread_name_prefix="cliptune-read") as pool:
        coming = pool.submit(read, order[start]) if start < len(order) else None
        for step in range(start, len(order)):
            assert coming is not None  # noqa: S101 - for the type checker
            batch = coming.result()
            if step + 1 < len(order):
                coming = pool.submit(read, order[step + 1])
            yield step, batch


def to_input(pixels: Tensor, preprocessing: ImagePreprocessing, device: torch.device) -> Tensor:
    """uint8 [N, H, W, 3] to the vision tower's input, float32 [N, 3, H, W], on `device`."""
    x = pixels.to(device).permute(0, 3, 1, 2).float().div_(255)
    mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)
    x = x.sub_(mean).div_(std)
    return x.contiguous(memory_format=torch.channels_last)


def augment(x: Tensor, *, min_area: float, flip: bool, generator: torch.Generator) -> Tensor:
    """Crop each picture of `x` [N, 3, H, W] at random and mirror half of them.

    The crop keeps between `min_area` and all of the area at the picture's aspect ratio and is
    scaled back bilinearly, all pictures in one call: open_clip's RandomResizedCrop, batched.
    """
    n = len(x)
    area = torch.empty(n).uniform_(min_area, 1, generator=generator)
    scale = area.sqrt()
    shift_x, shift_y = (torch.empty(2, n).uniform_(-1, 1, generator=generator)) * (1 - scale)
    mirror = torch.ones(n)
    if flip:
        mirror -= 2 * (torch.rand(n, generator=generator) < 0.5).float()
    elif min_area == 1:
        return x
    zero = torch.zeros(n)
    theta = torch.stack(
        [torch.stack([scale * mirror, zero, shift_x], 1), torch.stack([zero, scale, shift_y], 1)], 1
    ).to(x.device)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    cropped = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    return cropped.contiguous(memory_format=torch.channels_last)
