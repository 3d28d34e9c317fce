"""Decoding every picture of a data set once: a store of uint8 pixels on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from docarray import DocList
from numpy.typing import NDArray

from cliptune.data.images import ImagePreprocessing, decode_image, image_bytes, to_pixels
from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadImage
from cliptune.files import new_folder

log = logging.getLogger("cliptune")

MAX_UNREADABLE = 0.1
"""More than this part unreadable, and the data set is refused: something else is wrong."""
_PIXELS = "pixels.u8"
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Problem:
    """A document that is left out, and why."""

    position: int
    id: str
    reason: str


@dataclass
class PixelSet:
    """The decoded pictures of a data set."""

    pixels: NDArray[np.uint8]
    """[N, H, W, 3]; mapped from disk when there is a cache folder."""
    index: list[int]
    """The position of each of the N pictures in the documents."""
    problems: list[Problem] = field(default_factory=list)


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
    """
    if not docs:
        raise BadData("no documents")
    hashes, problems = _hash_pictures(docs)
    store = cache_dir / _key(hashes, preprocessing) if cache_dir is not None else None
    if store is not None and (cached := _read_store(store, preprocessing)) is not None:
        pixels, rows, undecodable = cached
    else:
        unique: dict[str, int] = {}
        for position, digest in hashes.items():
            unique.setdefault(digest, position)
        decoded = _decode(docs, unique, preprocessing, workers or os.cpu_count() or 1, on_progress)
        if store is None:
            pixels, rows, undecodable = _collect(decoded, len(unique), preprocessing)
        else:
            with new_folder(store, replace=True) as beside:
                _write_store(beside, decoded, preprocessing)
            written = _read_store(store, preprocessing)
            assert written is not None, "what was just written fits"  # noqa: S101
            pixels, rows, undecodable = written
    index = [position for position, digest in hashes.items() if digest in rows]
    problems += [
        Problem(position, str(docs[position].id), undecodable[digest])
        for position, digest in hashes.items()
        if digest in undecodable
    ]
    problems.sort(key=lambda problem: problem.position)
    _check_part(problems, len(docs))
    order = [rows[hashes[position]] for position in index]
    # Without duplicates and left-out pictures the map can stay as it is, unread.
    chosen = pixels if order == list(range(len(pixels))) else pixels[order]
    return PixelSet(chosen, index, problems)


def _hash_pictures(docs: DocList[ClipDoc]) -> tuple[dict[int, str], list[Problem]]:
    """The SHA-256 of each document's picture by position; documents without one are problems."""
    hashes: dict[int, str] = {}
    problems = []
    for position, doc in enumerate(docs):
        try:
            hashes[position] = hashlib.sha256(image_bytes(doc, allow_files=True)).hexdigest()
        except BadImage as error:
            problems.append(Problem(position, str(doc.id), str(error)))
    return hashes, problems


def _key(hashes: dict[int, str], preprocessing: ImagePreprocessing) -> str:
    content = json.dumps([preprocessing.to_dict(), list(dict.fromkeys(hashes.values()))])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _decode(
    docs: DocList[ClipDoc],
    unique: dict[str, int],
    preprocessing: ImagePreprocessing,
    workers: int,
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[str, NDArray[np.uint8] | str]]:
    """Yield (digest, pixels or the reason why there are none), in the documents' order."""

    def one(position: int) -> NDArray[np.uint8] | str:
        try:
            data = image_bytes(docs[position], allow_files=True)
            return to_pixels(decode_image(data), preprocessing)
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


def _collect(
    decoded: Iterator[tuple[str, NDArray[np.uint8] | str]],
    count: int,
    preprocessing: ImagePreprocessing,
) -> tuple[NDArray[np.uint8], dict[str, int], dict[str, str]]:
    pixels = np.empty((count, *preprocessing.size, 3), dtype=np.uint8)
    rows: dict[str, int] = {}
    undecodable: dict[str, str] = {}
    for digest, result in decoded:
        if isinstance(result, str):
            undecodable[digest] = result
        else:
            pixels[len(rows)] = result
            rows[digest] = len(rows)
    return pixels[: len(rows)], rows, undecodable


def _write_store(
    folder: Path,
    decoded: Iterator[tuple[str, NDArray[np.uint8] | str]],
    preprocessing: ImagePreprocessing,
) -> None:
    """Write the pixels as they come and then the manifest that says what they are."""
    digests: list[str] = []
    undecodable: dict[str, str] = {}
    with (folder / _PIXELS).open("wb") as file:
        for digest, result in decoded:
            if isinstance(result, str):
                undecodable[digest] = result
            else:
                file.write(result.tobytes())
                digests.append(digest)
    manifest = {
        "preprocessing": preprocessing.to_dict(),
        "digests": digests,
        "undecodable": undecodable,
    }
    (folder / _MANIFEST).write_text(json.dumps(manifest))


def _read_store(
    folder: Path, preprocessing: ImagePreprocessing
) -> tuple[NDArray[np.uint8], dict[str, int], dict[str, str]] | None:
    """What a store holds, or None if there is none or it is not whole.

    Its folder appears in one rename, so its length is enough to know that it is whole.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_text())
        rows = {digest: row for row, digest in enumerate(manifest["digests"])}
        shape = (len(rows), *preprocessing.size, 3)
        if (folder / _PIXELS).stat().st_size != int(np.prod(shape)):
            return None
        if manifest["preprocessing"] != preprocessing.to_dict():
            return None
        undecodable = manifest["undecodable"]
    except (OSError, ValueError, KeyError):
        return None
    if not rows:
        return np.empty(shape, dtype=np.uint8), rows, undecodable
    pixels = np.memmap(folder / _PIXELS, dtype=np.uint8, mode="r", shape=shape)
    return pixels, rows, undecodable


def _check_part(problems: Sequence[Problem], total: int) -> None:
    for problem in problems[:20]:
        log.warning("document %d (id %s): %s", *asdict(problem).values())
    if len(problems) > 20:
        log.warning("%d more unreadable pictures", len(problems) - 20)
    if len(problems) > MAX_UNREADABLE * total:
        first = "; ".join(f"document {p.position} (id {p.id}): {p.reason}" for p in problems[:3])
        raise BadData(
            f"{len(problems)} of {total} pictures are unreadable, more than a tenth; first: {first}"
        )
