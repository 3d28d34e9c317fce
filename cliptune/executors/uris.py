"""Which URIs an operator allows to be read: prefixes, and what lies below them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from cliptune.errors import BadImage, BadInput

ALLOW_URIS = "CLIPTUNE_ALLOW_URIS"
_PORTS = {"http": 80, "https": 443}
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")


@dataclass(frozen=True)
class Prefix:
    """A place below which pictures may be read: a folder of a web server, or of this machine."""

    scheme: str
    host: str
    port: int
    path: str
    """Ends with `/`."""

    def covers(self, uri: SplitResult) -> bool:
        """Whether `uri`, without its query, lies below."""
        place = (uri.scheme, uri.hostname or "", port_of(uri))
        same = place == (self.scheme, self.host, self.port)
        return same and _plain(uri.path).startswith(self.path)


def read_prefixes(given: Iterable[str]) -> list[Prefix]:
    """The prefixes of `CLIPTUNE_ALLOW_URIS`.

    Raises:
        BadInput: one is none.
    """
    prefixes = []
    for prefix in given:
        try:
            uri = split(prefix)
        except BadImage as error:
            raise BadInput(f"{ALLOW_URIS}: {error}") from None
        path = uri.path if uri.path.endswith("/") else f"{uri.path}/"
        if uri.scheme == "file" and uri.hostname:
            raise BadInput(f"{ALLOW_URIS}: {prefix!r}: write file:///folder/")
        if uri.query or uri.fragment or path != _plain(path):
            raise BadInput(f"{ALLOW_URIS}: {prefix!r} is no plain prefix")
        prefixes.append(Prefix(uri.scheme, uri.hostname or "", port_of(uri), path))
    return prefixes


def split(uri: str) -> SplitResult:
    """The parts of an http, https or file URI.

    Raises:
        BadImage: it is none, or holds what parsers disagree about.
    """
    shown = uri[:200]
    try:
        parts = urlsplit(f"file://{uri}" if uri.startswith("/") else uri)
        port_of(parts)
    except ValueError as error:
        raise BadImage(f"uri {shown!r}: {error}") from None
    if parts.scheme not in ("http", "https", "file"):
        raise BadImage(f"uri {shown!r}: only http, https and file are read")
    if (
        _FORBIDDEN.search(uri)
        or "@" in parts.netloc
        or (parts.scheme != "file" and not parts.netloc)
    ):
        raise BadImage(f"uri {shown!r} is not a plain URI")
    return parts


def port_of(uri: SplitResult) -> int:
    """The port that is meant; 0 for a file."""
    return uri.port or _PORTS.get(uri.scheme, 0)


def _plain(path: str) -> str:
    """The path as a web server or file system takes it: decoded, without `.` and `..`."""
    decoded = unquote(path)
    plain = posixpath.normpath(decoded) if decoded else "/"
    return f"{plain.rstrip('/')}/" if decoded.endswith("/") or plain == "/" else plain
