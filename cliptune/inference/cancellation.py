"""Work that nobody waits for any more: it is dropped wherever it has not begun."""

from __future__ import annotations

import threading
from contextvars import ContextVar

from cliptune.errors import CliptuneError

ABANDONED: ContextVar[threading.Event | None] = ContextVar("abandoned", default=None)
"""Set once whoever asked for the current work has gone; None: it is always wanted."""


class Abandoned(CliptuneError):
    """Whoever asked has gone; nobody is told."""

    http_status = 499


def is_abandoned(event: threading.Event | None) -> bool:
    """Whether an event of `ABANDONED` says so."""
    return event is not None and event.is_set()


def check_wanted() -> None:
    """Go on only if somebody still waits.

    Raises:
        Abandoned: nobody does.
    """
    if is_abandoned(ABANDONED.get()):
        raise Abandoned("whoever asked has gone")
