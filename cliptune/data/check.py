"""What a table would be trained or indexed as, found out without doing either.

The table is read once more than for training, a document at a time; of its pictures an even sample
is decoded.
"""

from __future__ import annotations

import heapq
import io
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cliptune.data.pictures.images import decode_image, decode_pixels, image_bytes
from cliptune.data.pictures.preprocessing import ImagePreprocessing
from cliptune.data.source import Documents
from cliptune.data.summary import DataSummary
from cliptune.errors import BadImage

SHOWN = 3
LONGEST = 5
NEAR_BITS = 3
"""Of 64: pictures whose hashes differ in no more look the same."""
NEAR_COLOURS = 3.0
"""Of 255: and whose colours differ in no more on the average."""
_BUCKET = 200
_THUMBNAIL = 200
COUNTED = 200_000
"""Documents of a table whose titles' tokens are counted."""
CONTEXT = 77
"""Tokens of a text that CLIP reads, its begin and end among them."""


@dataclass(frozen=True)
class Shown:
    """A document as it is shown."""

    id: str
    text: str | None
    label: str | None
    picture: bytes
    """A small JPEG."""


@dataclass
class TableCheck:
    """What was found of a table."""

    summary: DataSummary
    pairs: list[Shown] = field(default_factory=list)
    reasons: list[tuple[str, int, str]] = field(default_factory=list)
    """(why documents are left out, how many, the first one's place)"""
    groups: list[tuple[str | None, int]] = field(default_factory=list)
    """The largest groups of right answers, by label or title."""
    longest: list[str] = field(default_factory=list)
    cut: int = 0
    """Titles with more tokens than CLIP reads; of large tables those with as many bytes, at most
    as many of which are cut."""
    cut_is_exact: bool = True
    looked_at: int = 0
    """Pictures that were decoded."""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """(id, why) of those of them that can't be."""
    near: list[tuple[Shown, Shown]] = field(default_factory=list)
    """Some of the pictures that look the same and have different titles."""
    near_count: int = 0
    seconds_a_picture: float = 0.0
    """To decode one to a tower's pixels, on one core."""
    pixel_bytes: int = 0
    """Of all pictures' pixels, which training keeps on disk."""


def check_documents(
    docs: Documents,
    *,
    pictures: int = 2000,
    size: int = 224,
    count_tokens: Callable[[str], int],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TableCheck:
    """Look through `docs`, which were opened to be streamed.

    Args:
        docs: of `cliptune.data.source.stream_documents`.
        pictures: how many of them are decoded, evenly over the table.
        size: pixels of a side of the vision tower's input.
        count_tokens: a title's tokens, begin and end among them.
        progress: told (done, total) now and then.
    """
    check = TableCheck(docs.summary, pixel_bytes=3 * size**2 * len(docs))
    preprocessing = ImagePreprocessing(size=(size, size), mean=(0.0,) * 3, std=(1.0,) * 3)
    every = max(1, len(docs) // max(1, pictures))
    longest: list[tuple[int, str]] = []
    looked: list[Shown] = []
    glances: list[_Glance] = []
    spent = 0.0
    # The tokenizer brings 0.2 GB of libraries, which a large table's rows need.
    check.cut_is_exact = len(docs) <= COUNTED
    for number, doc in enumerate(docs):
        if doc.text:
            if len(doc.text) > (longest[0][0] if len(longest) == LONGEST else 0):
                heapq.heappush(longest, (len(doc.text), doc.text))
                del longest[: len(longest) > LONGEST]
                heapq.heapify(longest)
            # A token is a byte at least.
            if len(doc.text.encode()) > CONTEXT - 2:
                check.cut += not check.cut_is_exact or count_tokens(doc.text) > CONTEXT
        if number % every == 0 and check.looked_at < pictures:
            check.looked_at += 1
            try:
                data = image_bytes(doc, allow_files=True)
                begun = time.perf_counter()
                decode_pixels(data, preprocessing)
                spent += time.perf_counter() - begun
                image = decode_image(data)
            except BadImage as error:
                check.unreadable.append((str(doc.id), str(error)))
                continue
            glances.append(_Glance.of(image))
            image.thumbnail((_THUMBNAIL, _THUMBNAIL))
            small = io.BytesIO()
            image.save(small, "JPEG", quality=80)
            looked.append(Shown(str(doc.id), doc.text, doc.label, small.getvalue()))
        if number % 1000 == 0:
            progress(number, len(docs))
    decoded = check.looked_at - len(check.unreadable)
    check.seconds_a_picture = spent / max(1, decoded)
    check.longest = [text for _, text in sorted(longest, reverse=True)]
    check.pairs = [looked[i * (len(looked) - 1) // 2] for i in range(SHOWN)] if looked else []
    check.reasons = _reasons(docs.summary)
    labels = docs.summary.labels
    check.groups = (labels if len(labels) else docs.summary.titles).counts()
    _find_near(check, looked, glances)
    return check


def _reasons(summary: DataSummary) -> list[tuple[str, int, str]]:
    # Reasons that name a value or a path differ in that alone.
    counted = Counter(one.reason.partition(":")[0].partition(", '")[0] for one in summary.left_out)
    first: dict[str, str] = {}
    for one in summary.left_out:
        reason = one.reason.partition(":")[0].partition(", '")[0]
        first.setdefault(reason, one.place or f"document {one.position}")
    return [(reason, count, first[reason]) for reason, count in counted.most_common()]


@dataclass(frozen=True)
class _Glance:
    """What is left of a picture at a glance."""

    bits: int
    """64: where it grows brighter to the right (dHash, Krawetz 2013)."""
    colours: NDArray[np.int16]
    """[16, 16, 3]"""

    @classmethod
    def of(cls, image: Image.Image) -> _Glance:
        grey = np.asarray(image.convert("L").resize((9, 8)), dtype=np.int16)
        bits = np.packbits((grey[:, 1:] > grey[:, :-1]).ravel())
        colours = np.asarray(image.resize((16, 16)), dtype=np.int16)
        return cls(int.from_bytes(bits.tobytes(), "big"), colours)

    def is_like(self, other: _Glance) -> bool:
        """Whether both look the same: a plain background's bits are noise, so its colours too."""
        if (self.bits ^ other.bits).bit_count() > NEAR_BITS:
            return False
        return float(np.abs(self.colours - other.colours).mean()) <= NEAR_COLOURS


def _find_near(check: TableCheck, looked: Sequence[Shown], glances: Sequence[_Glance]) -> None:
    """Pairs of pictures whose bits are alike in at least one of four parts, then altogether."""
    seen: set[tuple[int, int]] = set()
    for part in range(4):
        buckets: defaultdict[int, list[int]] = defaultdict(list)
        for number, glance in enumerate(glances):
            buckets[(glance.bits >> (16 * part)) & 0xFFFF].append(number)
        for one, other in _pairs_of(buckets.values()):
            if glances[one].is_like(glances[other]) and not _same(looked[one], looked[other]):
                seen.add((one, other))
    check.near_count = len(seen)
    check.near = [(looked[one], looked[other]) for one, other in sorted(seen)[:SHOWN]]


def _pairs_of(buckets: Iterable[Sequence[int]]) -> Iterable[tuple[int, int]]:
    for bucket in buckets:
        for place, one in enumerate(bucket):
            for other in bucket[place + 1 : place + _BUCKET]:
                yield one, other


def _same(one: Shown, other: Shown) -> bool:
    """Whether they are right answers to each other anyway."""
    if one.label and one.label == other.label:
        return True
    texts = [(each.text or "").casefold().split() for each in (one, other)]
    return texts[0] == texts[1]
