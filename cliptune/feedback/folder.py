"""A folder of recorded searches: a file a day, each line of it a record.

::

    searches-2026-11-29-000.jsonl
    searches-2026-11-29-001.jsonl   # where a day has more than `MAX_FILE`
    .lock                           # held by who appends or deletes

Several servers may write into one folder: they take turns by the lock. Lines are only ever
appended; a deletion writes a file anew beside it and renames it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from cliptune.errors import BadData, NotFound
from cliptune.feedback.records import Record, from_line
from cliptune.files import locked, make_folder, open_file, write_bytes

MAX_FILE = 64 * 2**20
"""Bytes after which a day's next file is begun."""
_FILE = re.compile(r"searches-(\d{4}-\d{2}-\d{2})-(\d{3,})\.jsonl")


@dataclass
class Deleted:
    """What a deletion came to."""

    lines: int = 0
    damaged: int = 0
    """Lines that could not be read: they went, too."""


@dataclass
class LogFolder:
    """The files of one folder."""

    path: Path
    damaged: int = field(default=0, init=False)
    """Lines that the last reading of `records` has left out."""

    def append(self, lines: bytes, today: date | None = None) -> None:
        """Write whole lines behind those of the day, and flush them to the disk.

        Raises:
            OSError: they can't be written.
        """
        with self._locked():
            path = self._to_append_to(today or datetime.now(UTC).date())
            handle = open_file(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, private=True)
            with os.fdopen(handle, "r+b", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                # What a crash, or a full disk, has cut off stays a line of its own.
                if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                    lines = b"\n" + lines
                left = memoryview(lines)
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())

    def files(self) -> list[Path]:
        """The files, the oldest first.

        Raises:
            NotFound: there is no such folder.
        """
        if not self.path.is_dir():
            raise NotFound(f"no folder of recorded searches at {self.path}")
        return sorted((one for one in self.path.iterdir() if _FILE.fullmatch(one.name)), key=_order)

    def records(self) -> Iterator[Record]:
        """All records as they were written; damaged lines are left out and counted: `damaged`.

        Raises:
            NotFound: there is no such folder.
            BadData: a newer version has written a line.
        """
        self.damaged = 0
        for path in self.files():
            for record, _ in _lines_of(path):
                if record is None:
                    self.damaged += 1
                else:
                    yield record

    def expire(self, days: int, today: date | None = None) -> list[str]:
        """Remove the files whose day is more than `days` days ago; returns their names."""
        oldest = (today or datetime.now(UTC).date()) - timedelta(days=days)
        with self._locked():
            old = [path for path in self.files() if _day(path) < oldest]
            for path in old:
                path.unlink(missing_ok=True)
        return [path.name for path in old]

    def delete(self, chosen: Callable[[Record], bool]) -> Deleted:
        """Remove the records that are `chosen`, and lines that can't be read.

        A server that writes into the folder waits meanwhile; it writes a second's lines at once.

        Raises:
            NotFound: there is no such folder.
            BadData: a newer version has written a line.
        """
        deleted = Deleted()
        self.files()  # a folder that isn't there is not made
        with self._locked():
            for path in self.files():
                kept, before = [], deleted.lines + deleted.damaged
                for record, line in _lines_of(path):
                    if record is None:
                        deleted.damaged += 1
                    elif chosen(record):
                        deleted.lines += 1
                    else:
                        kept.append(line)
                if deleted.lines + deleted.damaged == before:
                    continue
                if kept:
                    write_bytes(path, b"".join(kept), private=True)
                else:
                    path.unlink()
        return deleted

    def _locked(self) -> AbstractContextManager[None]:
        return locked(make_folder(self.path, private=True) / ".lock", private=True)

    def _to_append_to(self, today: date) -> Path:
        numbers = [_order(path)[1] for path in self.files() if _day(path) == today]
        last = max(numbers, default=0)
        path = self.path / _name(today, last)
        full = path.exists() and path.stat().st_size >= MAX_FILE
        return self.path / _name(today, last + 1) if full else path


def _name(day: date, number: int) -> str:
    return f"searches-{day.isoformat()}-{number:03}.jsonl"


def _order(path: Path) -> tuple[str, int]:
    matched = _FILE.fullmatch(path.name)
    assert matched is not None  # noqa: S101
    return matched[1], int(matched[2])


def _day(path: Path) -> date:
    return date.fromisoformat(_order(path)[0])


def _lines_of(path: Path) -> Iterator[tuple[Record | None, bytes]]:
    """Each line's record, None of a damaged one, and the line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                record = from_line(line) if line.endswith(b"\n") else None
            except BadData as error:
                raise BadData(f"{path}, line {number}: {error}") from None
            yield record, line
