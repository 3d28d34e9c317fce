"""`SearchLog`: records searches beside answering them, and never in their way."""

from __future__ import annotations

import errno
import logging
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

from cliptune.errors import BadInput
from cliptune.feedback.folder import LogFolder
from cliptune.feedback.records import Record, to_line

log = logging.getLogger("cliptune")
MAX_QUEUED = 32 * 2**20
"""Bytes of lines that wait to be written."""
KEPT_FREE = 2**30
"""Bytes of the disk that stay free: the index may be on it."""
PAUSE = 0.5
"""Seconds between two writings: a line is on the disk about so long after its search."""
_COMPLAIN_EVERY = 60.0

Outcome = Literal["written", "dropped", "failed"]
"""What became of lines: they are on the disk; there was no room for them in the queue; or they
could not be written."""


class SearchLog:
    """A folder that a thread of its own writes records into.

    `record` only puts a line into a bounded queue. May be called by many threads.
    """

    def __init__(
        self,
        folder: Path,
        days: int,
        count: Callable[[Outcome, int], None],
        *,
        max_queued: int = MAX_QUEUED,
        pause: float = PAUSE,
    ) -> None:
        """Begin to write into `folder`.

        Args:
            folder: made if it isn't there.
            days: for which lines are kept; files of older days are removed.
            count: told what became of how many lines.
            max_queued: bytes that may wait.
            pause: seconds between two writings.

        Raises:
            BadInput: nothing can be written there.
        """
        self.folder = LogFolder(folder)
        self._days, self._count, self._max, self._pause = days, count, max_queued, pause
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._guard = threading.Lock()
        self._ending = threading.Event()
        self._complained = -_COMPLAIN_EVERY
        try:
            self._expired_on = self._expire()
        except OSError as error:
            raise BadInput(
                f"CLIPTUNE_RECORD_SEARCHES: nothing can be written into {folder} "
                f"({error.strerror or error})"
            ) from None
        self._thread = threading.Thread(target=self._work, name="cliptune-searches", daemon=True)
        self._thread.start()

    def record(self, record: Record) -> bool:
        """Have a record written soon; returns False if it was dropped, since too many wait."""
        line = to_line(record)
        with self._guard:
            taken = self._queued + len(line) <= self._max
            if taken:
                self._queue.append(line)
                self._queued += len(line)
        if not taken:
            self._count("dropped", 1)
        return taken

    def close(self) -> None:
        """Write what waits, and end."""
        self._ending.set()
        self._thread.join(timeout=30)

    def _work(self) -> None:
        while not self._ending.wait(self._pause):
            self._write()
        self._write()

    def _write(self) -> None:
        with self._guard:
            lines = list(self._queue)
            self._queue.clear()
        size = sum(map(len, lines))
        try:
            if lines:
                self._check_room(size)
                self.folder.append(b"".join(lines))
                self._count("written", len(lines))
            if self._expired_on != datetime.now(UTC).date():
                self._expired_on = self._expire()
        except Exception as error:
            self._count("failed", len(lines))
            if time.monotonic() - self._complained >= _COMPLAIN_EVERY:
                self._complained = time.monotonic()
                log.error("searches are not recorded in %s: %s", self.folder.path, error)
        finally:
            with self._guard:
                self._queued -= size  # only now: what is being written is in memory, too

    def _check_room(self, size: int) -> None:
        if shutil.disk_usage(self.folder.path).free < KEPT_FREE + size:
            raise OSError(errno.ENOSPC, "less than 1 GiB would stay free on the disk")

    def _expire(self) -> date:
        today = datetime.now(UTC).date()
        if removed := self.folder.expire(self._days, today):
            log.info("recorded searches of more than %d days ago: %s", self._days, removed)
        return today
