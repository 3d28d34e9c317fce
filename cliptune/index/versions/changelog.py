"""Which documents a generation that is not current no longer has as they are.

A line a write, in JSON: a list of ids, or `"*"` where it may have been any. A write is noted before
it is made, so that none is missed; what was noted and then not made does no harm. The first line
is an empty list: a changelog without it has been lost, and then anything may have been written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cliptune.errors import BadInput, Unavailable
from cliptune.files import make_folder, open_file
from cliptune.index.checks import check_id
from cliptune.index.durable import sync_path

_FIRST = b"[]\n"


@dataclass(frozen=True)
class Changes:
    """What was written between two places of a changelog."""

    ids: list[str]
    """Each once, in the order of their first write."""
    everything: bool
    """Whether there may be others."""
    end: int
    """Where the next changes begin."""


@dataclass(frozen=True)
class Changelog:
    """The file at `path`; places in it are counted in bytes."""

    path: Path

    def append(self, ids: Iterable[str] | None, synced: int = 0) -> None:
        """Note a write to the documents `ids`, or None: to any; on the disk when it returns.

        `synced` is up to where it was read. A changelog that ends before, or that is not there,
        has been lost: it begins again beyond, with a write to any.

        Raises:
            Unavailable: it can't be written, so the write must not be made either.
        """
        line = json.dumps("*" if ids is None else list(ids)) + "\n"
        with self._written(os.O_RDWR | os.O_APPEND) as handle:
            size = os.fstat(handle).st_size
            if size < max(synced, len(_FIRST)):
                size = max(synced, len(_FIRST))
                os.ftruncate(handle, size)
                line = f'"*"\n{line}'
            # The end of a line that a full disk or a power cut left without one.
            torn = size and os.pread(handle, 1, size - 1) != b"\n"
            data = (b"\n" if torn else b"") + line.encode()
            while data:
                data = data[os.write(handle, data) :]

    @property
    def size(self) -> int:
        """Where it ends now."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def has_changes(self) -> bool:
        """Whether it is there, and anything was noted."""
        return self.size > len(_FIRST)

    def read(self, start: int, end: int) -> Changes:
        """The changes from `start` to `end`, both ends of lines."""
        if start > end or self.size < len(_FIRST):
            return Changes([], True, end)
        with self.path.open("rb") as file:
            file.seek(start)
            lines = file.read(end - start).split(b"\n")
        ids: dict[str, None] = {}
        everything = False
        for line in filter(None, lines):
            try:
                written = json.loads(line)
            except ValueError:  # torn: it was noted for a write that was refused, or not begun
                written = "*"
            if isinstance(written, list):
                ids.update(dict.fromkeys(one for one in written if _is_id(one)))
            else:
                everything = True
        return Changes(list(ids), everything, end)

    def restart(self) -> None:
        """Begin it anew, empty and durably; to be called while writes are held.

        Raises:
            Unavailable: it can't be written.
        """
        try:
            make_folder(self.path.parent, private=True)
            with self._written(os.O_WRONLY | os.O_TRUNC) as handle:
                os.write(handle, _FIRST)
            sync_path(self.path.parent)
        except OSError as error:
            raise Unavailable(f"{self.path}: can't be written ({error.strerror})") from error

    @contextmanager
    def _written(self, flags: int) -> Iterator[int]:
        """The file, open, and brought to disk at the end; raises `Unavailable`."""
        try:
            handle = open_file(self.path, flags | os.O_CREAT, private=True)
            try:
                yield handle
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise Unavailable(f"{self.path}: can't be written ({error.strerror})") from error


def _is_id(one: object) -> bool:
    try:
        check_id(one)
    except BadInput:  # of a write that the index refused
        return False
    return True
