"""Who may write when: writers side by side, none during a switch; and one swap at a time.

All of it is locks on files, among threads and processes alike. The kernel releases them when their
holder ends, however it ends: there is nothing to tidy up after a kill.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cliptune.errors import AlreadyExists, Unavailable
from cliptune.files import make_folder
from cliptune.index.durable import LockBusy, file_lock

WRITE_TIMEOUT = 60.0
"""Seconds that a write waits while writes are held, before it is refused."""
HOLD_TIMEOUT = 300.0
"""Seconds that writes under way may take before a switch gives up."""
_GATE, _WRITERS, _SWAP = ".gate.lock", ".writers.lock", ".swap.lock"


class SwapUnderWay(AlreadyExists):
    """Another process is swapping this index's model."""


@contextmanager
def writing(state_folder: Path, timeout: float = WRITE_TIMEOUT) -> Iterator[None]:
    """Hold the right to write to the current generation, and keep it the current one.

    Raises:
        Unavailable: writes were held for longer than `timeout`.
    """
    _make(state_folder)
    try:
        # Through the gate first: writers that come one after the other would never let a switch
        # have the lock that all of them share.
        with file_lock(state_folder / _GATE, timeout, shared=True):
            lock = file_lock(state_folder / _WRITERS, timeout, shared=True)
            lock.__enter__()
    except LockBusy:
        raise Unavailable("writes wait for a switch to another model: try again") from None
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


@contextmanager
def writes_held(state_folder: Path, timeout: float = HOLD_TIMEOUT) -> Iterator[None]:
    """Wait for the writes under way to end, and hold those that come.

    Raises:
        Unavailable: a write took longer than `timeout`.
    """
    _make(state_folder)
    try:
        with (
            file_lock(state_folder / _GATE, timeout),
            file_lock(state_folder / _WRITERS, timeout),
        ):
            yield
    except LockBusy:
        raise Unavailable(
            f"{state_folder}: writes to the index did not end within {timeout:g} s: try again"
        ) from None


@contextmanager
def swapping(state_folder: Path) -> Iterator[None]:
    """Be the one that swaps.

    Raises:
        SwapUnderWay: another process is.
    """
    _make(state_folder)
    lock = file_lock(state_folder / _SWAP, 1)  # `is_swapping` has it for a moment
    try:
        lock.__enter__()
    except LockBusy:
        raise SwapUnderWay(f"{state_folder}: another swap of this index is at work") from None
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def is_swapping(state_folder: Path) -> bool:
    """Whether some process is swapping."""
    if not (state_folder / _SWAP).exists():
        return False
    try:
        with file_lock(state_folder / _SWAP, 0, shared=True):
            return False
    except LockBusy:
        return True


def _make(state_folder: Path) -> None:
    try:
        make_folder(state_folder, private=True)
    except OSError as error:
        raise Unavailable(f"{state_folder}: can't be made ({error.strerror})") from error
