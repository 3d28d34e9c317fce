"""Every error that cliptune raises on purpose.

Each class carries the HTTP status that a service answers with, so that the
serving side maps errors in one place and the library never imports a server.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CliptuneError(Exception):
    """Base of all deliberate errors: the message is fit to be shown to a user."""

    http_status = 500
    position: int | None = None
    """Which of the items that were given is at fault, from 0; None: it isn't known, or no one."""
    param: str | None = None
    """Which field of a request's body is at fault; None: likewise."""


class BadInput(CliptuneError, ValueError):
    """An argument, option or document is wrong; the message repeats the bad value."""

    http_status = 422


class BadImage(BadInput):
    """A picture can't be decoded safely."""


class BadData(BadInput):
    """A data set as a whole can't be used: empty, mostly unreadable, a column is missing."""


class BadArtifact(BadInput):
    """A model artifact is incomplete, was changed after it was written, or is unsafe to open."""


class BadFilter(BadInput):
    """A filter expression has an error; the message gives its position."""


class Unauthorized(CliptuneError):
    """A call without an API key, or with one that the server doesn't know."""

    http_status = 401


class Forbidden(CliptuneError):
    """The key given may not do this, or a web page of another site asks."""

    http_status = 403


class NotFound(CliptuneError, LookupError):
    """Something asked for by name is not there."""

    http_status = 404


class AlreadyExists(CliptuneError):
    """A name is in use."""

    http_status = 409


class NotReady(CliptuneError):
    """The call makes no sense in the present state, such as metrics of an unfinished run."""

    http_status = 409


class ModelMismatch(CliptuneError):
    """Embeddings or queries of one model meet an index of another."""

    http_status = 409


class RunFailed(CliptuneError):
    """A run ended as FAILED; the message holds its reason."""

    http_status = 409


class Overloaded(CliptuneError):
    """More is asked than can be answered in time: try again later, and less at once."""

    http_status = 429

    def __init__(self, message: str = "", retry_after: float = 1.0) -> None:
        """Take the message, and after how many seconds it makes sense to ask again."""
        super().__init__(message)
        self.retry_after = retry_after


class RateLimited(Overloaded):
    """A key asks for more than its limits allow; `retry_after` says when there is more."""


class Unavailable(CliptuneError):
    """Something outside this process can't be reached: a model hub, a server, a store."""

    http_status = 503


class DamagedIndex(CliptuneError):
    """What says which tables are the index is gone or unusable; nothing was changed.

    The message says how the tables are found again.
    """

    http_status = 503


class ModelSwitched(Unavailable):
    """The model was switched while a write was on its way: sent again, it is made."""


MAX_SHOWN = 100
"""Characters of a bad value that errors repeat."""


class InternalError(CliptuneError):
    """Something unexpected: the server's log has it under the id in the message."""


class BadJson(BadInput):
    """The body is not JSON."""

    http_status = 400


class Timeout(CliptuneError):
    """A body that did not arrive in time."""

    http_status = 408


class UnsupportedCoding(BadInput):
    """A body in a form that isn't read: compressed in another way, or of another media type."""

    http_status = 415


class TooLarge(BadInput):
    """A request exceeds a limit; the message names the limit."""

    http_status = 413


def shown(value: object) -> str:
    """A bad value as errors repeat it: quoted, and cut where it is long."""
    cut = value[: MAX_SHOWN + 1] if isinstance(value, str | bytes) else value
    text = repr(cut)
    return text if len(text) <= MAX_SHOWN + 2 else f"{text[:MAX_SHOWN]}…"


def near_matches(name: str, known: Iterable[str]) -> str:
    """Words for an error about an unknown `name`: the nearest `known` ones, or all if few."""
    known = list(known)
    # Whatever their case: `PRICE` is near to `price`.
    by_folded: dict[str, list[str]] = {}
    for one in known:
        by_folded.setdefault(one.casefold(), []).append(one)
    # Cut: the comparison takes the square of its length.
    asked = name[:MAX_SHOWN].casefold()
    close = difflib.get_close_matches(asked, by_folded, n=5, cutoff=0.4)
    if close:
        near = [repr(one) for folded in close for one in by_folded[folded]]
        return f"did you mean {', '.join(near[:5])}?"
    shown = ", ".join(map(repr, known[:20]))
    return f"known: {shown}{', …' if len(known) > 20 else ''}" if known else "none are known yet"
