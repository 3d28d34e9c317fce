"""Why a service could not start, as data: from the process that failed to whoever started it.

A Flow is several processes, and Jina keeps their errors to itself: it logs an empty line where
`quiet_error` is set. So each part reports its own failure, in the log and, where
`flow_process` watches, as a file.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import TypeVar, cast

from pydantic import BaseModel, ConfigDict

from cliptune.errors import CliptuneError
from cliptune.files import write_text

log = logging.getLogger("cliptune")
Init = TypeVar("Init", bound=Callable[..., None])
_reported_in: int | None = None
"""The process that has reported: what follows from the first failure isn't one of its own."""
_folder: Path | None = None


class Failure(BaseModel):
    """What kept one part of a service from starting."""

    model_config = ConfigDict(frozen=True)

    part: str
    """`text`, `vision`, `indexer`, `trainer`, `gateway`, or `flow`: all of it."""
    type: str
    """The error's class."""
    message: str
    """For people."""


def report_to(folder: Path) -> None:
    """Have failures of this process, and of those that are forked from it, noted in a folder."""
    global _folder
    _folder = folder


def report(part: str, error: BaseException) -> None:
    """Note in the log, and for who started this process, that `part` can't start: once."""
    global _reported_in
    if _reported_in == os.getpid():
        return
    _reported_in = os.getpid()
    failure = Failure(part=part.split("/")[0], type=type(error).__name__, message=reason_of(error))
    # Where it comes from is of use only if it wasn't raised for people to read.
    origin = None if isinstance(error, CliptuneError) else error
    log.error("%s can't start: %s", failure.part, failure.message, exc_info=origin)
    if _folder is not None:
        with suppress(OSError):  # it stands in the log
            write_text(_folder / f"{os.getpid()}.json", failure.model_dump_json())


@contextmanager
def reporting(part: str) -> Iterator[None]:
    """Report what the block raises.

    Raises:
        SystemExit: likewise, where the part is a container of its own.
    """
    try:
        yield
    except Exception as error:
        report(part, error)
        if _is_a_container():
            raise SystemExit(1) from error
        raise


def _is_a_container() -> bool:
    """Whether this is `jina executor`, which ends with status 0 when the executor can't start."""
    command = [Path(sys.argv[0]).name, *sys.argv[1:2]]
    return command == ["jina", "executor"] and multiprocessing.parent_process() is None


def reports_failure(made: Init) -> Init:
    """Around the `__init__` of an executor or a gateway: report what it raises."""

    @wraps(made)
    def reporting_init(self: object, *args: object, **kwargs: object) -> None:
        given = kwargs.get("runtime_args") or {}
        name = given.get("name") if isinstance(given, dict) else getattr(given, "name", None)
        with reporting(str(name or type(self).__name__)):
            made(self, *args, **kwargs)

    return cast(Init, reporting_init)


def failures(folder: Path) -> list[Failure]:
    """What was reported to `folder`, the first one first."""
    reported = []
    with suppress(OSError):
        for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
            reported.append(Failure.model_validate_json(path.read_bytes()))
    return reported


def reason_of(error: BaseException) -> str:
    """One line about `error`, for people."""
    words = " ".join(str(error).split())
    if isinstance(error, CliptuneError):
        return words
    if isinstance(error, MemoryError):
        return f"out of memory {f'({words})' if words else ''}".strip()
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, ImportError) and isinstance(error.__cause__, CliptuneError):
        return str(error.__cause__)
    return f"{type(error).__name__}: {words[:500]}"
