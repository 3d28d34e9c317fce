"""How far a swap is: a small file beside the manifest, for the service's status."""

from __future__ import annotations

import json
import logging
import os
import time
from typing import TypedDict

from pydantic import JsonValue

from cliptune.errors import CliptuneError
from cliptune.files import write_text
from cliptune.index.versions import locks
from cliptune.index.versions.manifest import PROGRESS, Generations

log = logging.getLogger("cliptune")
_EVERY = 0.5
"""Seconds between two writings."""


class SwapProgress(TypedDict):
    """How far a swap is."""

    phase: str
    """What it does, or why it stopped."""
    done: int
    total: int
    """0: unknown."""


class ProgressFile:
    """Written by the process that swaps; it stays behind where that was killed, or failed."""

    def __init__(self, generations: Generations) -> None:
        """Read what a swap has left that did not end well."""
        self._path = generations.folder / PROGRESS
        self._told = 0.0
        self.going_to: str | None = None
        """The model that an undo goes to."""
        left = _read(generations).get("going_to")
        self.left_going_to = left if isinstance(left, str) else None
        """The same, of one that did not end well."""

    @property
    def has_told(self) -> bool:
        """Whether this process has noted anything."""
        return self._told > 0

    def tell(self, what: str, done: int, total: int, error: BaseException | None = None) -> None:
        """Note what is done, how much of it, and of how much (0: unknown)."""
        now = time.monotonic()
        if error is None and total and now - self._told < _EVERY:
            return
        self._told = now
        progress: dict[str, JsonValue] = {
            "phase": what,
            "done": done,
            "total": total,
            "pid": os.getpid(),
        }
        if error is not None:
            progress["error"] = _words(error)
        if self.going_to:
            progress["going_to"] = self.going_to
        try:
            write_text(self._path, json.dumps(progress), private=True)
        except OSError as failure:  # a full disk: it shows elsewhere
            log.warning("the progress can't be noted: %s", failure)

    def end(self) -> None:
        """All is done."""
        self._path.unlink(missing_ok=True)


def read_progress(generations: Generations) -> SwapProgress | None:
    """How far the swap is that is at work, or how far one was that was cut short; None: neither."""
    match _read(generations):
        case {"phase": str(phase), "done": int(done), "total": int(total), **others}:
            if not locks.is_swapping(generations.folder):
                phase = f"stopped: {others.get('error') or f'while {phase}'}"
            return {"phase": phase, "done": done, "total": total}
    return None


def _read(generations: Generations) -> dict[str, JsonValue]:
    """What the file says; nothing where there is none, or it can't be read."""
    try:
        content = json.loads((generations.folder / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _words(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return str(error) if isinstance(error, CliptuneError) else type(error).__name__
