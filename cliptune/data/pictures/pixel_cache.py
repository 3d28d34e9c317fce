"""Decoded pixels on disk: a folder for each set of pictures, written whole by one process.

A folder's name is a key made of all its pictures' SHA-256. It appears in one rename, and whoever
wants the same pictures meanwhile waits for it. The folders that were not used for the longest time
give way once all of them are larger than `CLIPTUNE_CACHE_GB` (default 50).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cliptune.errors import Unavailable
from cliptune.files import make_folder, new_folder, open_file
from cliptune.settings import current

log = logging.getLogger("cliptune")

KEPT_S = 24 * 3600.0
"""What was used so recently is not removed: it may belong to a run that goes on."""
_PIXELS = "pixels.u8"
_MANIFEST = "manifest.json"

Decoded = Iterator[tuple[str, NDArray[np.uint8] | str]]
"""(SHA-256 of a picture, its pixels uint8 [H, W, 3] or the reason why there are none)."""


@dataclass
class StoredPixels:
    """Distinct pictures, decoded."""

    pixels: NDArray[np.uint8]
    """[N, H, W, 3], perhaps mapped from disk."""
    rows: dict[str, int] = field(default_factory=dict)
    """Each picture's SHA-256 to its row."""
    undecodable: dict[str, str] = field(default_factory=dict)
    """The SHA-256 of each picture that can't be decoded to the reason."""


def read_or_write(
    root: Path, key: str, decoded: Decoded, count: int, size: tuple[int, int]
) -> StoredPixels:
    """The pixels under `root / key`, mapped; if they are not there, `decoded` is written first.

    `decoded` is only begun if it is needed; `count` is how many it yields and `size` their
    (height, width). Of several processes that want the same pictures one decodes.

    Raises:
        Unavailable: the folder can't be written, or the disk is full; nothing is left there.
        BadInput: `CLIPTUNE_CACHE_GB` is no number.
    """
    folder = root / key
    if (stored := _read(folder, size)) is not None:
        return stored
    needed = count * size[0] * size[1] * 3
    try:
        make_folder(root)
        with _lock(root / f"{key}.lock"):
            if (stored := _read(folder, size)) is not None:
                return stored
            _make_room(root, needed)
            with new_folder(folder, replace=True) as beside:
                _write(beside, decoded)
            stored = _read(folder, size)
    except OSError as error:
        raise Unavailable(
            f"{needed} bytes of decoded pictures can't be kept in {root}: "
            f"{error.strerror or error} ({_free(root)} bytes are free there; make room, or set "
            "CLIPTUNE_HOME to a folder on another disk)"
        ) from error
    assert stored is not None, "what was just written is whole"  # noqa: S101
    return stored


def collect(decoded: Decoded, count: int, size: tuple[int, int]) -> StoredPixels:
    """The pixels of `decoded` in memory: `count` pictures of `size` (height, width) at most."""
    stored = StoredPixels(np.empty((count, *size, 3), dtype=np.uint8))
    for digest, result in decoded:
        if isinstance(result, str):
            stored.undecodable[digest] = result
        else:
            stored.pixels[len(stored.rows)] = result
            stored.rows[digest] = len(stored.rows)
    stored.pixels = stored.pixels[: len(stored.rows)]
    return stored


def _read(folder: Path, size: tuple[int, int]) -> StoredPixels | None:
    """What the folder holds, or None if there is none or it is not whole.

    It appeared in one rename, so its length is enough to know that it is whole.
    """
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        rows = {digest: row for row, digest in enumerate(manifest["digests"])}
        shape = (len(rows), *size, 3)
        if (folder / _PIXELS).stat().st_size != int(np.prod(shape)):
            return None
        pixels = (
            np.memmap(folder / _PIXELS, dtype=np.uint8, mode="r", shape=shape)
            if rows
            else np.empty(shape, dtype=np.uint8)
        )
        stored = StoredPixels(pixels, rows, manifest["undecodable"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    with contextlib.suppress(OSError):  # a cache of another user's can be read and not touched
        os.utime(folder)
    return stored


def _write(folder: Path, decoded: Decoded) -> None:
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
        file.flush()
        os.fsync(file.fileno())
    (folder / _MANIFEST).write_text(json.dumps({"digests": digests, "undecodable": undecodable}))


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; the system frees it if the process dies."""
    with os.fdopen(open_file(path, os.O_WRONLY | os.O_CREAT), "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting: another process is decoding the same pictures")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _make_room(root: Path, needed: int) -> None:
    """Remove folders, the longest unused first, until `needed` bytes more are within the limit.

    Those that a killed process left half written go too. A folder that another process has mapped
    stays readable to it until it ends.

    Raises:
        OSError: even so the disk has not that many bytes free.
    """
    folders: list[tuple[float, int, Path]] = []
    for folder in root.iterdir():
        # Another process may remove it at this moment.
        with contextlib.suppress(OSError):
            entries = [entry.stat() for entry in (folder, *folder.iterdir())]
            last_used = max(entry.st_mtime for entry in entries)
            folders.append((last_used, sum(entry.st_size for entry in entries), folder))
    used, oldest_kept = needed, time.time() - KEPT_S
    for last_used, size, folder in sorted(folders, reverse=True):
        used += size
        is_half_written = folder.name.startswith(".")
        if last_used < oldest_kept and (is_half_written or used > current().cache_gb * 1e9):
            shutil.rmtree(folder, ignore_errors=True)
    if _free(root) < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _free(root: Path) -> int:
    """Bytes free on the disk of `root`, which may not be there yet."""
    return shutil.disk_usage(next(p for p in (root, *root.parents) if p.is_dir())).free
