"""Who may write when: writers side by side, none during a switch; and one swap at a time.

All of it is locks on files, among threads and processes alike. The kernel releases them when their
holder ends, however it ends: there is nothing to tidy up after a kill.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cliptune.errors import AlreadyExists, Unavailable
from cliptune.files import make_folder
from cliptune.index.durable import LockBusy, file_lock, is_locked

WRITE_TIMEOUT = 60.0
"""Seconds that a write waits while writes are held, before it is refused."""
HOLD_TIMEOUT = 300.0
"""Seconds that writes under way may take before a switch gives up."""
_TURNSTILE, _WRITERS, _SWAP = ".gate.lock", ".writers.lock", ".swap.lock"


class SwapUnderWay(AlreadyExists):
    """Another process is swapping this index's model."""


@contextmanager
def writing(generations_folder: Path, timeout: float = WRITE_TIMEOUT) -> Iterator[None]:
    """Hold the right to write to the current generation, and keep it the current one.

    Raises:
        Unavailable: writes were held for longer than `timeout`.
    """
    refused = Unavailable("writes wait for a switch to another model: try again")
    # Through the turnstile first: writers that come one after the other would never let a switch
    # have the lock that all of them share.
    with ExitStack() as held:
        with _locked(generations_folder / _TURNSTILE, timeout, refused, shared=True):
            writers = _locked(generations_folder / _WRITERS, timeout, refused, shared=True)
            held.enter_context(writers)
        yield


@contextmanager
def writes_held(generations_folder: Path, timeout: float = HOLD_TIMEOUT) -> Iterator[None]:
    """Wait for the writes under way to end, and hold those that come.

    Raises:
        Unavailable: a write took longer than `timeout`.
    """
    refused = Unavailable(
        f"{generations_folder}: writes to the index did not end within {timeout:g} s: try again"
    )
    with (
        _locked(generations_folder / _TURNSTILE, timeout, refused),
        _locked(generations_folder / _WRITERS, timeout, refused),
    ):
        yield


@contextmanager
def swapping(generations_folder: Path) -> Iterator[None]:
    """Be the one that swaps.

    Raises:
        SwapUnderWay: another process is.
    """
    refused = SwapUnderWay(f"{generations_folder}: another swap of this index is at work")
    with _locked(generations_folder / _SWAP, 1, refused):  # `is_swapping` has it for a moment
        yield


def is_swapping(generations_folder: Path) -> bool:
    """Whether some process is swapping."""
    return is_locked(generations_folder / _SWAP)


@contextmanager
def _locked(
    path: Path, timeout: float, refused: Exception, *, shared: bool = False
) -> Iterator[None]:
    """Hold the lock, in a folder that is made; `refused` is raised while others hold it."""
    try:
        make_folder(path.parent, private=True)
    except OSError as error:
        raise Unavailable(f"{path.parent}: can't be made ({error.strerror})") from error
    with ExitStack() as held:
        try:
            held.enter_context(file_lock(path, timeout, shared=shared))
        except LockBusy:
            raise refused from None
        yield
