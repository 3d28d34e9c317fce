"""Where a server keeps things: told to its operator, and to nobody else.

A path of the server's machine is of no use to a client elsewhere, and tells it what it need not
know. So answers leave paths out, unless they go to a key of the role `admin`. Whoever can read
CLIPTUNE_HOME is the operator too: there, executors note their places under names that `/status`
gives, for commands such as `cliptune swap`.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from cliptune.files import make_folder, write_text
from cliptune.protocol.endpoints import PICTURES

OPERATOR_PARAMETER = "_operator"
"""The parameter by which executors know that a request is the operator's."""
BASE_PARAMETER = "_pictures_at"
"""The parameter that says what pictures' URLs begin with."""
OPERATOR: ContextVar[bool] = ContextVar("operator", default=False)
"""Whether the request that is being worked on is the operator's."""
BASE: ContextVar[str] = ContextVar("pictures at", default="")
PREFIX: ContextVar[str] = ContextVar("path prefix", default="")
"""The path below which the current request's client sees this service: empty, or `/shop`."""
_NAME = re.compile(r"[0-9a-f]{32}")
_NOTES = "places"
_KEPT = 90 * 24 * 3600.0
"""Seconds for which a note stays that its process has not taken away."""


def image_url(identity: str, has_picture: bool, uri: str | None) -> str | None:
    """Where a client finds an indexed document's picture: here, or where its link leads."""
    if has_picture:
        return f"{BASE.get()}{PICTURES}{quote(identity, safe='')}"
    return shown_link(uri)


def shown_uri(uri: str | None) -> str | None:
    """What the current request's client is told of a document's URI: links; the operator all."""
    return uri if OPERATOR.get() else shown_link(uri)


def shown_link(uri: str | None) -> str | None:
    """A link of the web, without the name and password that it may hold; None: it is none."""
    try:
        parts = urlsplit(uri or "")
    except ValueError:
        return None
    if parts.scheme.lower() not in ("http", "https") or not parts.netloc:
        return None
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def base_name(place: str) -> str:
    """The last part of a path; a model's name as it is."""
    return Path(place).name if os.path.isabs(place) else place


def without_paths(text: str, paths: Iterable[str | Path]) -> str:
    """A message for clients: `paths`, and what lies below them, are cut to their last part."""
    for path in sorted({str(path).rstrip("/") for path in paths}, key=len, reverse=True):
        if len(path) > 1 and os.path.isabs(path):
            text = text.replace(path, f"…/{Path(path).name}")
    return text


def note(home: Path, values: dict[str, str]) -> str:
    """Note places in CLIPTUNE_HOME, readable by this user alone; returns the note's name."""
    folder = make_folder(home / _NOTES, private=True)
    for old in folder.glob("*.json"):
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > _KEPT:
                old.unlink()
    name = secrets.token_hex(16)
    write_text(folder / f"{name}.json", json.dumps(values), private=True)
    return name


def forget(home: Path, name: str) -> None:
    """Take a note away."""
    (home / _NOTES / f"{name}.json").unlink(missing_ok=True)


def with_note(home: Path, values: dict[str, Any]) -> dict[str, Any]:
    """A part of a server's status, with the places that were noted on this machine.

    There are none where it is another machine, or another user's.
    """
    name = values.get("place")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return values
    try:
        return {**values, **json.loads((home / _NOTES / f"{name}.json").read_text())}
    except (OSError, ValueError):
        return values
