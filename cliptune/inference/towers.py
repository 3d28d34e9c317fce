"""A text tower and a vision tower that encode raw texts and pictures, whatever engine runs them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cliptune.data.pictures.images import Picture, decode_pixels, decoded_pixels
from cliptune.data.pictures.preprocessing import ImagePreprocessing, normalise
from cliptune.errors import BadImage, BadInput
from cliptune.inference.cache import EmbeddingCache
from cliptune.inference.cancellation import check_wanted
from cliptune.inference.decoding import Decoders
from cliptune.inference.instrumentation import Observe, timed, unobserved
from cliptune.models.artifact import TEXT_TOWER, VISION_TOWER
from cliptune.models.calibration import Calibration
from cliptune.models.tokenizers import Tokenizer, token_count
from cliptune.settings import Engine

log = logging.getLogger("cliptune")

Forward = Callable[[NDArray[Any]], NDArray[np.float32]]
"""What an engine offers: a batch of inputs to embeddings float32 [N, D], not normalised."""


@dataclass
class TextTower:
    """Texts to embeddings of unit length.

    Equal texts are encoded once. Where the tower allows it, a batch goes through it in groups of
    texts of like length, each cut to its longest (see `cliptune.models.modules.TextModule`).
    """

    forward: Forward
    """Tokens int64 [N, L] to embeddings float32 [N, D]."""
    tokenizer: Tokenizer
    context_length: int
    digest: str
    output_dim: int
    cuttable: bool = True
    batch_size: int = 32
    call_cost: float = 16
    """What a call of `forward` costs beside its tokens, in tokens: it says how finely a batch is
    divided by length. On a CPU 12 to 16 (ViT-B/32); infinity never divides."""
    name: str = TEXT_TOWER
    engine: Engine = "torch"
    """What computes `forward`."""
    truncated: int = 0
    """How many texts so far were longer than the context and were cut to it."""
    cache: EmbeddingCache | None = None
    """Remembers the embeddings of texts that are asked for again."""
    observe: Observe = unobserved
    """Told of what it does."""
    calibration: Calibration | None = None
    """What cosines with its texts mean, where the model was calibrated."""
    lengths: tuple[int, ...] = ()
    """At which the first numbers of embeddings were trained to be embeddings."""

    def __post_init__(self) -> None:
        """Run batches as they come; `batching.share_batches` puts them together."""
        self.run: Forward = self._cut_and_forward

    def encode(self, texts: Sequence[str], dimensions: int | None = None) -> NDArray[np.float32]:
        """Embed `texts`; returns float32 [N, D], rows of unit length, in their order.

        With `dimensions` they are the embeddings' first numbers, of unit length.

        Raises:
            BadInput: something among them is not a text, or the model was not trained for so many
                `dimensions`.
        """
        check_length(dimensions, self.output_dim, self.lengths)
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise BadInput(f"text {position} is a {type(text).__name__}, not a str")
        if not texts:
            return np.empty((0, dimensions or self.output_dim), dtype=np.float32)
        embeddings = self.cache.get(texts) if self.cache else {}
        new = sorted(set(texts) - embeddings.keys(), key=len)  # texts of like length share a batch
        if self.cache:
            self.observe("cache_hits", len(embeddings))
            self.observe("cache_misses", len(new))
        if new:
            with timed(self.observe, "preprocess_seconds"):
                tokens = self.tokenize(new)
            encoded = dict(zip(new, self.encode_tokens(tokens), strict=True))
            if self.cache:
                self.cache.put(encoded)
            embeddings |= encoded
        return first_numbers(np.stack([embeddings[text] for text in texts]), dimensions)

    def tokenize(self, texts: list[str]) -> Tensor:
        """`texts` as int64 [N, L]; what is cut to the context is counted and told once."""
        tokens = self.tokenizer(texts, self.context_length)
        self._count_truncated(texts, tokens.numpy())
        return tokens

    def count_tokens(self, text: str) -> int:
        """How many tokens of `text` are read: marks of begin and end count, what is cut doesn't."""
        return min(token_count(self.tokenizer, text), self.context_length)

    def encode_tokens(self, tokens: Tensor) -> NDArray[np.float32]:
        """Embed texts that are tokens already: int64 [N, L] to float32 [N, D] of unit length."""
        starts = range(0, len(tokens), self.batch_size)
        parts = []
        for start in starts:
            check_wanted()
            parts.append(self.run(tokens[start : start + self.batch_size].numpy()))
        return unit_length(np.concatenate(parts))

    def encode_distinct(self, tokens: Tensor) -> NDArray[np.float32]:
        """As `encode_tokens`, equal texts once, and those of like length in one batch."""
        distinct, back = torch.unique(tokens, dim=0, return_inverse=True)
        order = (distinct != 0).sum(dim=1).argsort()
        embeddings = self.encode_tokens(distinct[order])
        places: NDArray[np.int64] = order.argsort()[back].numpy()
        return embeddings[places]

    def _cut_and_forward(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        if not self.cuttable:
            return self.forward(tokens)
        lengths = tokens.shape[1] - np.argmax(tokens[:, ::-1] != 0, axis=1)
        groups = length_groups(lengths, self.call_cost)
        if len(groups) == 1:
            return self.forward(tokens[:, : lengths.max()])
        embeddings = np.empty((len(tokens), self.output_dim), dtype=np.float32)
        for rows in groups:
            embeddings[rows] = self.forward(tokens[rows, : lengths[rows].max()])
        return embeddings

    def _count_truncated(self, texts: Sequence[str], tokens: NDArray[np.int64]) -> None:
        full = np.flatnonzero(tokens[:, -1] != 0).tolist()
        cut = [i for i in full if token_count(self.tokenizer, texts[i]) > self.context_length]
        if cut and not self.truncated:
            log.warning(
                "%d text(s) are longer than the model's context of %d tokens and are cut to it "
                "(said once; the first begins %r)",
                len(cut),
                self.context_length,
                texts[cut[0]][:60],
            )
        self.truncated += len(cut)
        if cut:
            self.observe("truncated_texts", len(cut))


@dataclass
class VisionTower:
    """Pictures to embeddings of unit length."""

    forward: Forward
    """Pixels float32 [N, 3, H, W] to embeddings float32 [N, D]."""
    preprocessing: ImagePreprocessing
    digest: str
    output_dim: int
    batch_size: int = 32
    workers: int = 4
    name: str = VISION_TOWER
    engine: Engine = "torch"
    """What computes `forward`."""
    observe: Observe = unobserved
    """Told of what it does."""
    lengths: tuple[int, ...] = ()
    """At which the first numbers of embeddings were trained to be embeddings."""

    def __post_init__(self) -> None:
        """Run batches as they come; `batching.share_batches` puts them together."""
        self.run: Forward = self._normalise_and_forward
        self._decoders = Decoders(self.workers)

    def encode(
        self, images: Sequence[Picture], dimensions: int | None = None
    ) -> NDArray[np.float32]:
        """Embed `images`: encoded bytes, paths, open files, PIL images, or uint8 [H, W, 3].

        All forms of one picture give the same embedding (see `cliptune.data.pictures.images`).

        Returns float32 [N, D], rows of unit length, in their order. A batch is decoded while the
        one before it is in the tower. `dimensions` as in `TextTower.encode`.

        Raises:
            BadImage: a picture can't be decoded; the message gives its position.
            BadInput: the model was not trained for so many `dimensions`.
        """
        check_length(dimensions, self.output_dim, self.lengths)
        step = self.batch_size
        sizes = [self._decoded_size(image) for image in images]
        pixels = self._decoders.decode(self._pixels, images, sizes)
        try:
            parts = []
            for start in range(0, len(images), step):
                batch = self._decoded(pixels[start : start + step])
                check_wanted()
                parts.append(self.run(batch))
        finally:  # after an error nobody needs the others
            for one in pixels:
                one.cancel()
        return first_numbers(self._joined(parts), dimensions)

    def _decoded_size(self, image: Picture) -> int:
        if not isinstance(image, bytes):
            return 0  # decoded already
        try:
            return decoded_pixels(image, self.preprocessing)
        except BadImage:
            return 0  # decoding will say so, with its position

    def _decoded(self, batch: list[Future[NDArray[np.uint8]]]) -> NDArray[np.uint8]:
        with timed(self.observe, "preprocess_seconds"):
            return np.stack([pixels.result() for pixels in batch])

    def encode_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed pictures that are resized already: uint8 [N, H, W, 3] to float32 [N, D]."""
        step = self.batch_size
        starts = range(0, len(pixels), step)
        return self._joined([self.run(pixels[s : s + step]) for s in starts])

    def _pixels(self, position: int, image: Picture) -> NDArray[np.uint8]:
        try:
            return decode_pixels(image, self.preprocessing)
        except BadImage as error:
            raise BadImage(f"picture {position}: {error}") from error

    def _normalise_and_forward(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.forward(normalise(pixels, self.preprocessing))

    def _joined(self, parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        if not parts:
            return np.empty((0, self.output_dim), dtype=np.float32)
        return unit_length(np.concatenate(parts))


def check_length(dimensions: int | None, whole: int, lengths: Sequence[int]) -> None:
    """Refuse to cut embeddings of `whole` numbers to others than they were trained for.

    Raises:
        BadInput: `dimensions` is neither all of them (None too) nor one of `lengths`.
    """
    if dimensions in (None, whole, *lengths):
        return
    if lengths:
        known = ", ".join(map(str, (*lengths, whole)))
        raise BadInput(f"dimensions is {dimensions}: this model's embeddings have {known}")
    raise BadInput(
        f"dimensions is {dimensions}: this model's embeddings have {whole}; only those of models "
        "trained with matryoshka can be shortened"
    )


def first_numbers(embeddings: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
    """The first `dimensions` numbers of embeddings [N, D], of unit length; None: all of them."""
    return embeddings if dimensions is None else unit_length(embeddings[:, :dimensions])


def length_groups(lengths: NDArray[np.integer], call_cost: float) -> list[NDArray[np.intp]]:
    """Divide a batch by its rows' `lengths` [N], so that padding and calls together cost least.

    A group of n rows costs n times its longest, and `call_cost`. Returns the groups' rows.
    """
    levels, counts = np.unique(lengths, return_counts=True)
    before = np.concatenate([[0], np.cumsum(counts)])
    # The least cost of the rows of the first levels, and where its last group begins.
    least, begins = [0.0], [0]
    for end in range(1, len(levels) + 1):
        longest = levels[end - 1]
        costs = [
            least[start] + (before[end] - before[start]) * longest + call_cost
            for start in range(end)
        ]
        begins.append(int(np.argmin(costs)))
        least.append(costs[begins[-1]])
    groups = []
    end = len(levels)
    while end:
        start = begins[end]
        inside = (lengths >= levels[start]) & (lengths <= levels[end - 1])
        groups.append(np.flatnonzero(inside))
        end = start
    return groups


def unit_length(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each row of `embeddings` [N, D] to length 1, so that a dot product is a cosine."""
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    units: NDArray[np.float32] = embeddings / np.maximum(norms, 1e-12)
    return units.astype(np.float32, copy=False)
