"""What ended a run, in one line for people."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from cliptune.errors import CliptuneError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_OUT_OF_MEMORY = re.compile(
    r"out of memory|not enough memory|(can't|cannot|unable to) allocate|ALLOC_FAILED", re.IGNORECASE
)
_RUST_CODE = re.compile(r"\(os error (\d+)\)")
"""How Rust's libraries, such as safetensors, tell the system's error number."""


def explain(error: BaseException) -> str:
    """One line about `error`: what went wrong and, where it can be known, what to do."""
    words = " ".join(str(error).split())
    if isinstance(error, CliptuneError):
        return words  # it was written for people
    for each in _chain(error):
        code = _system_error(each)
        if code in _DISK_FULL:
            filename = getattr(each, "filename", None)
            where = f" for {filename}" if filename else ""
            return (
                f"the disk is full (no space left{where}): make room, then resume() goes on from "
                "the last checkpoint"
            )
        if code == errno.EFBIG:
            return (
                f"a file is larger than allowed ({words[:200]}): raise the limit (ulimit -f), then "
                "resume() goes on from the last checkpoint"
            )
        if code == errno.ENOMEM or _is_out_of_memory(each):
            return (
                "out of memory: start again with a smaller micro_batch_size or batch_size, or "
                f"resume() once more memory is free ({words[:200] or type(error).__name__})"
            )
    return f"{type(error).__name__}: {words[:500]}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and what led to it: torch hides the system's error behind one of its own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _system_error(error: BaseException) -> int | None:
    """The system's error number that `error` carries."""
    if isinstance(error, OSError):
        return error.errno
    found = _RUST_CODE.search(str(error))
    return int(found[1]) if found else None


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether it is Python's, NumPy's or torch's way to say so; torch's CPU part has no type."""
    if isinstance(error, RuntimeError):
        return _OUT_OF_MEMORY.search(str(error)) is not None
    return isinstance(error, MemoryError)
