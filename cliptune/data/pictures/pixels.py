"""Decoding every picture of a data set once, to the uint8 pixels that the vision tower takes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
from docarray import DocList
from numpy.typing import NDArray

from cliptune.data.pictures.images import decode_pixels, image_bytes, known_formats, picture_digest
from cliptune.data.pictures.pixel_cache import Decoded, collect, read_or_write
from cliptune.data.pictures.preprocessing import ImagePreprocessing
from cliptune.data.validation import PAIR, Problem, split_complete
from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadImage

log = logging.getLogger("cliptune")

MAX_UNREADABLE = 0.1
"""More than this part unreadable, and the data set is refused: something else is wrong."""
_VERSION = 3
"""Raised whenever pictures are decoded otherwise, so that old pixels are not taken."""

_GLANCE = ImagePreprocessing(size=(32, 32), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@dataclass
class PixelSet:
    """The decoded pictures of a data set."""

    pixels: NDArray[np.uint8]
    """[N, H, W, 3]; mapped from disk when there is a cache folder."""
    index: list[int]
    """The position of each of the N pictures in the documents."""
    problems: list[Problem] = field(default_factory=list)
    digests: list[str | None] = field(default_factory=list)
    """The SHA-256 of every document's picture; None where there is none that can be read."""


def decode_documents(
    docs: DocList[ClipDoc],
    preprocessing: ImagePreprocessing,
    *,
    cache_dir: Path | None = None,
    workers: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> PixelSet:
    """Decode and resize the picture of every document, in `workers` threads (0: one a core).

    Equal pictures are decoded once. With `cache_dir` the pixels are kept there under a key made
    of all pictures' SHA-256 and the preprocessing, and read from there the next time.
    Unreadable pictures are left out and listed in `problems`.

    Raises:
        BadData: no documents, or more than a tenth of the pictures are unreadable.
        Unavailable: the cache folder can't be written, or its disk is full.
    """
    if not docs:
        raise BadData("no documents")
    workers = workers or os.cpu_count() or 1
    hashes, problems = _hash_pictures(docs, workers)
    unique: dict[str, int] = {}
    for position, digest in hashes.items():
        unique.setdefault(digest, position)
    decoded = _decode(docs, unique, preprocessing, workers, on_progress)
    if cache_dir is None:
        stored = collect(decoded, len(unique), preprocessing.size)
    else:
        key = _key(unique, preprocessing)
        stored = read_or_write(cache_dir, key, decoded, len(unique), preprocessing.size)
    index = [position for position, digest in hashes.items() if digest in stored.rows]
    problems += [
        Problem(position, str(docs[position].id), stored.undecodable[digest])
        for position, digest in hashes.items()
        if digest in stored.undecodable
    ]
    problems.sort(key=lambda problem: problem.position)
    _check_part(problems, len(docs))
    order = [stored.rows[hashes[position]] for position in index]
    digests = [hashes.get(position) for position in range(len(docs))]
    return PixelSet(take_rows(stored.pixels, order), index, problems, digests)


@dataclass(frozen=True)
class DecodedPairs:
    """The documents of a data set that have a title and a picture, and their pictures."""

    docs: DocList[ClipDoc]
    """Those that have both."""
    pictures: PixelSet
    """Of these documents."""
    places: list[int]
    """Of each of these documents: its position among all that were given."""
    problems: list[Problem]
    """What is left out, by the position among all that were given."""


def decode_pairs(
    docs: DocList[ClipDoc],
    role: str,
    preprocessing: ImagePreprocessing,
    *,
    cache_dir: Path | None = None,
    workers: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> DecodedPairs:
    """As `decode_documents`, of those that have a title and a picture; `role` is named in errors.

    Raises:
        BadData: more than half of them lack something, or as `decode_documents`.
        Unavailable: as `decode_documents`.
    """
    given = len(docs)
    docs, problems = split_complete(docs, PAIR, role)
    lacking = {one.position for one in problems}
    places = [position for position in range(given) if position not in lacking]
    pictures = decode_documents(
        docs, preprocessing, cache_dir=cache_dir, workers=workers, on_progress=on_progress
    )
    problems += [replace(one, position=places[one.position]) for one in pictures.problems]
    problems.sort(key=lambda one: one.position)
    return DecodedPairs(docs, pictures, places, problems)


def readable_only(docs: DocList[ClipDoc]) -> DocList[ClipDoc]:
    """The documents whose picture can be decoded; the others are named in the log.

    For what reads pictures one by one and stops at one that it can't. It looks at them small,
    which is quick for JPEG.

    Raises:
        BadData: more than a tenth of the pictures are unreadable.
    """
    glance = decode_documents(docs, _GLANCE)
    if not glance.problems:
        return docs
    return DocList[ClipDoc]([docs[position] for position in glance.index])


def take_rows(pixels: NDArray[np.uint8], rows: Sequence[int]) -> NDArray[np.uint8]:
    """`pixels[rows]`; where these are all rows, a map of them stays as it is, unread."""
    return pixels if list(rows) == list(range(len(pixels))) else pixels[list(rows)]


def _hash_pictures(docs: DocList[ClipDoc], workers: int) -> tuple[dict[int, str], list[Problem]]:
    """The SHA-256 of each document's picture by position; documents without one are problems."""

    def one(doc: ClipDoc) -> str | BadImage:
        try:
            return picture_digest(doc)
        except BadImage as error:
            return error

    hashes: dict[int, str] = {}
    problems = []
    with ThreadPoolExecutor(workers, thread_name_prefix="cliptune-hash") as pool:
        for position, digest in enumerate(pool.map(one, docs)):
            if isinstance(digest, str):
                hashes[position] = digest
            else:
                problems.append(Problem(position, str(docs[position].id), str(digest)))
    return hashes, problems


def _key(digests: Iterable[str], preprocessing: ImagePreprocessing) -> str:
    # What is undecodable is kept too: it may no longer be, once more formats are known.
    settings = [_VERSION, known_formats(), preprocessing.to_dict()]
    content = json.dumps([settings, list(digests)])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _decode(
    docs: DocList[ClipDoc],
    unique: dict[str, int],
    preprocessing: ImagePreprocessing,
    workers: int,
    on_progress: Callable[[int, int], None] | None,
) -> Decoded:
    """Yield (digest, pixels or the reason why there are none), in the documents' order."""

    def one(position: int) -> NDArray[np.uint8] | str:
        try:
            data = image_bytes(docs[position], allow_files=True)
            return decode_pixels(data, preprocessing)
        except BadImage as error:
            return str(error)

    items = iter(unique.items())
    done, total = 0, len(unique)
    with ThreadPoolExecutor(workers, thread_name_prefix="cliptune-decode") as pool:
        while chunk := list(islice(items, 64 * workers)):
            results = pool.map(one, [position for _, position in chunk])
            for (digest, _), result in zip(chunk, results, strict=True):
                yield digest, result
                done += 1
            if on_progress is not None:
                on_progress(done, total)


def _check_part(problems: Sequence[Problem], total: int) -> None:
    for problem in problems[:20]:
        log.warning("%s", problem)
    if len(problems) > 20:
        log.warning("%d more unreadable pictures", len(problems) - 20)
    if len(problems) > MAX_UNREADABLE * total:
        first = "; ".join(map(str, problems[:3]))
        raise BadData(
            f"{len(problems)} of {total} pictures are unreadable, more than a tenth; first: {first}"
        )
