"""Files that may be replaced while a gateway runs: keys, a certificate."""

from __future__ import annotations

import os
import time
from pathlib import Path

from cliptune.errors import BadInput

_SETTLED = 2.0
"""Seconds after which a file's time of change tells that it has not changed since."""


class Changes:
    """Whether files are others than at the last look.

    An editor may write them, `cliptune keys` replaces one, and Kubernetes changes the symbolic
    links of a mounted Secret: what the paths lead to is looked at.
    """

    def __init__(self, *paths: Path) -> None:
        """Take the files; the first look finds them changed."""
        self.paths = paths
        self._seen: list[tuple[int, ...]] = []

    def look(self) -> bool:
        """Whether they may have changed, and are to be read.

        Raises:
            BadInput: one of them isn't there, or can't be reached.
        """
        state = [_state(path) for path in self.paths]
        if state == self._seen:
            return False
        # A file that was changed just now may change again within the clock's resolution.
        settled = time.time() - max(one[-1] for one in state) / 1e9 > _SETTLED
        self._seen = state if settled else []
        return True


def _state(path: Path) -> tuple[int, ...]:
    try:
        stat = os.stat(path)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
