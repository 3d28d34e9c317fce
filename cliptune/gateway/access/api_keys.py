"""API keys: a file of names, roles and SHA-256 digests, read again whenever it changes.

::

    # name      digest of the key       role          limits a second
    shop-web    sha256:5e88…            role=search   requests=50 documents=500
    importer    sha256:9f86…            role=write
    ops         sha256:ef2d…            role=admin

The keys themselves are nowhere: `cliptune keys new` makes one and shows it once. They are 256
random bits, so a plain SHA-256 keeps them: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from cliptune.errors import BadInput
from cliptune.gateway.access.changes import Changes
from cliptune.names import API_KEY

log = logging.getLogger("cliptune")

PREFIX = "ct_"
"""So that secret scanners and people can tell what they have found."""
MAX_FILE = 1024 * 1024
ROLES = {
    "search": frozenset({"read"}),
    "write": frozenset({"read", "write"}),
    "monitor": frozenset({"monitor"}),
    "admin": frozenset({"read", "write", "monitor", "admin"}),
}
"""What the holder of a key may do."""
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Key:
    """A key's owner, and what it allows."""

    name: str
    digest: bytes
    role: str = "search"
    requests: float | None = None
    """Requests a second; None: no limit."""
    documents: float | None = None
    """Texts and pictures a second; None: no limit."""

    def line(self) -> str:
        """As it stands in a file."""
        limits = {"requests": self.requests, "documents": self.documents}
        parts = [f"{name}={value:g}" for name, value in limits.items() if value is not None]
        return " ".join([self.name, f"sha256:{self.digest.hex()}", f"role={self.role}", *parts])


def new_key() -> str:
    """A new key: 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(key: str) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def make_key(
    key: str,
    name: str,
    role: str = "search",
    requests: float | None = None,
    documents: float | None = None,
) -> Key:
    """What a file says of `key`.

    Raises:
        BadInput: the name, the role or a limit is none.
    """
    API_KEY.check(name)
    if role not in ROLES:
        raise BadInput(f"role {role!r}: use one of {', '.join(ROLES)}")
    for what, value in (("requests", requests), ("documents", documents)):
        if value is not None and not 0 < value < 1e9:
            raise BadInput(f"{what}={value:g}: use a number a second above 0")
    return Key(name, digest_of(key), role, requests, documents)


def read_keys(text: str, where: str) -> list[Key]:
    """The keys of a file's text.

    Raises:
        BadInput: a line is wrong: its number, and why. Never what it holds, which may be a key.
    """
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            keys.append(_read(words))
        except BadInput as error:
            raise BadInput(f"{where}, line {number}: {error}") from None
    return keys


def _read(words: list[str]) -> Key:
    if len(words) < 2 or not (digest := _DIGEST.fullmatch(words[1])):
        raise BadInput("expected NAME sha256:DIGEST role=… (`cliptune keys new` writes it)")
    options: dict[str, str] = {}
    for word in words[2:]:
        option, equals, value = word.partition("=")
        if option not in ("role", "requests", "documents") or not equals or option in options:
            raise BadInput("expected role=, requests= and documents=, once each")
        options[option] = value
    limits = {}
    for option in ("requests", "documents"):
        if option in options:
            try:
                limits[option] = float(options[option])
            except ValueError:
                raise BadInput(f"{option}= is not a number") from None
    made = make_key("", words[0], options.get("role", "search"), **limits)
    return Key(made.name, bytes.fromhex(digest[1]), made.role, made.requests, made.documents)


class KeyFile:
    """The keys of a file, as it is now.

    It may be replaced or written at any time, by an editor, by `cliptune keys`, or by Kubernetes,
    which changes the symbolic links of a mounted Secret. If what is there then can't be read, the
    keys from before stay valid and the log says why.
    """

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            BadInput: it can't be read, or a line is wrong.
        """
        self.path = path
        self._changes = Changes(path)
        self._complaint = ""
        self._changes.look()
        self._keys = self._read()

    def find(self, presented: str) -> Key | None:
        """The key that was presented; None if there is no such key.

        All keys are compared, each in constant time.
        """
        self._refresh()
        digest = digest_of(presented)
        matching = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                matching = key
        return matching

    def _refresh(self) -> None:
        try:
            if not self._changes.look():
                return
            self._keys = self._read()
        except BadInput as error:
            if str(error) != self._complaint:
                log.error("API keys: %s; those read before stay valid", error)
            self._complaint = str(error)
        else:
            if self._complaint:
                log.warning("API keys: %s is read again", self.path)
            self._complaint = ""

    def _read(self) -> list[Key]:
        try:
            with self.path.open("rb") as file:
                raw = file.read(MAX_FILE + 1)
            text = raw.decode("utf-8")
        except OSError as error:
            raise BadInput(f"{self.path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise BadInput(f"{self.path} is not a text file") from None
        if len(raw) > MAX_FILE:
            raise BadInput(f"{self.path} has more than {MAX_FILE} bytes")
        return read_keys(text, str(self.path))
