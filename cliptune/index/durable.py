"""Bringing files to disk, and one writer at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from cliptune.errors import Unavailable
from cliptune.files import open_file
from cliptune.index.retries import wait_until

_FLUSHES_AT_ONCE = 8
_CLOCK_SLACK = 100_000_000
"""Nanoseconds that a file's time may lag the clock (file systems count in ticks)."""


class LockBusy(Unavailable):
    """Another process or thread holds the lock."""


def sync_path(path: Path) -> None:
    """Flush a file's content, or a folder's entries (new names, renames), to disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # tidied away by a concurrent `optimize`
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_written(root: Path, began: int) -> None:
    """Flush what was written below `root` since `began` (`time.time_ns()`), folders included."""
    written, folders = [], [root]
    for folder in folders:  # grows as it is walked
        with suppress(FileNotFoundError):  # tidied away by a concurrent `optimize`
            for entry in os.scandir(folder):
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                elif entry.stat().st_mtime_ns >= began - _CLOCK_SLACK:
                    written.append(Path(entry.path))
    # The disk's journal takes several at once for little more than the price of one.
    with ThreadPoolExecutor(_FLUSHES_AT_ONCE) as pool:
        list(pool.map(sync_path, written))
        list(pool.map(sync_path, folders))


@contextmanager
def file_lock(path: Path, timeout: float, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock on the file at `path`, among threads and processes alike.

    It is exclusive, or with `shared` held by as many as ask for it so. The kernel releases it when
    the process ends, however it ends. Raises `Unavailable` after `timeout` seconds (`LockBusy`; 0
    tries once), and if the file can't be made.
    """
    try:
        handle = open_file(path, os.O_RDWR | os.O_CREAT, private=True)
    except OSError as error:
        raise Unavailable(f"{path}: can't be opened for writing ({error.strerror})") from error
    try:
        kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB

        def try_lock() -> bool:
            try:
                fcntl.flock(handle, kind)
            except BlockingIOError:
                return False
            return True

        if not wait_until(try_lock, timeout, every=0.005):
            raise LockBusy(
                f"{path.parent}: another process or thread has been writing for "
                f"{timeout:g} s; try again"
            )
        yield
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Whether a `file_lock` on the file at `path` is held, also where nothing can be written."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):  # another user's: only its owner can hold it
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
