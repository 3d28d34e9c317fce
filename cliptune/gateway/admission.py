"""Who may ask what, and how much at once: all that reaches an executor passes here.

A request is looked at twice. At the door, before its body is read: is the key known, may it call
this at all, is there room (`Admission.check`). And when it is known what is asked:

::

    with admission.admit(PRESENTED.get(), "/index", documents=64):
        response = await …   # counts as pending until the block ends

`doors.py` has the doors of gRPC and HTTP, which put the key that came with a call into
`PRESENTED`; `RequestHandler.ask` is where everything is admitted.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from cliptune.errors import Forbidden, Overloaded, RateLimited, Unauthorized
from cliptune.gateway.api_keys import ROLES, Key, KeyFile
from cliptune.gateway.rate_limits import Bucket
from cliptune.settings import Settings

PRESENTED: ContextVar[str | None] = ContextVar("presented API key", default=None)
"""The API key that came with the call being served."""

NEEDS = {
    **dict.fromkeys(("/", "/encode", "/rank", "/search", "/get", "/ids", "/status"), "read"),
    **dict.fromkeys(("/index", "/index_texts", "/update", "/delete"), "write"),
    "/metrics": "monitor",
}
"""What each endpoint of a search Flow needs; all others need `admin`."""
EVERYBODY = Key("everybody", b"", "admin")
"""Who asks where there are no keys."""


class Admission:
    """Keys, their roles and rates, and the bounded queue, of one gateway process.

    Everything is checked anew for each request, so that a key that is taken out of the file ends
    to work in the midst of a stream too.
    """

    def __init__(self, keys: KeyFile | None = None, settings: Settings | None = None) -> None:
        """Take the keys (None: everybody may do everything), and the settings that bound it."""
        self.keys = keys
        self.settings = settings or Settings.read()
        self.training = False
        """Whether this is a train Flow's gateway: there, all calls need `admin`."""
        self.ending = asyncio.Event()
        """Set when the gateway has been told to end."""
        self.pending = self.documents = self.held = self.streams = 0
        self.sockets: set[asyncio.Task[None]] = set()
        """Open WebSockets."""
        self._buckets: dict[tuple[str, str], Bucket] = {}

    @classmethod
    def of(cls, settings: Settings) -> Admission:
        """With the keys of CLIPTUNE_API_KEYS_FILE, if it is set.

        Raises:
            BadInput: the file can't be read.
        """
        path = settings.api_keys_file
        return cls(KeyFile(path) if path else None, settings)

    def identify(self, presented: str | None) -> Key:
        """Whose key it is.

        Raises:
            Unauthorized: none was given, or it is not known.
        """
        if self.keys is None:
            return EVERYBODY
        if not presented:
            raise Unauthorized("no API key: send it as `Authorization: Bearer …`")
        if (key := self.keys.find(presented)) is None:
            raise Unauthorized("this API key is not known")
        return key

    def check(self, presented: str | None, endpoint: str | None = None) -> Key:
        """At the door, before a body is read; nothing is counted yet.

        Args:
            presented: the key that came with the call.
            endpoint: what is asked; None: the body will say.

        Raises:
            Unauthorized, Forbidden: the key is not known, or may not do this.
            RateLimited: its limits are used up.
            Overloaded: there is no room.
        """
        key = self.identify(presented)
        if endpoint is not None:
            self._check_role(key, endpoint)
        documents = 0 if endpoint == "/status" else 1
        self._check_room(documents)
        self._check_rates(key, documents)
        return key

    @contextmanager
    def admit(self, presented: str | None, endpoint: str, documents: int) -> Iterator[Key]:
        """A request with its documents, pending as long as the block lasts.

        Raises:
            Unauthorized, Forbidden, RateLimited, Overloaded: as `check`.
        """
        key = self.identify(presented)
        self._check_role(key, endpoint)
        self._check_room(documents)
        self._check_rates(key, documents)
        for bucket, amount in self._of(key, documents):
            bucket.take(amount)
        self.pending += 1
        self.documents += documents
        try:
            yield key
        finally:
            self.pending -= 1
            self.documents -= documents

    @contextmanager
    def admit_stream(self, presented: str | None, endpoint: str) -> Iterator[Key]:
        """A log or an artifact, for as long as it is read.

        Raises:
            Unauthorized, Forbidden, RateLimited, Overloaded: as `check`.
        """
        if self.streams >= self.settings.max_streams:
            raise Overloaded(f"{self.streams} streams are open, the limit", retry_after=10)
        with self.admit(presented, endpoint, 0) as key:
            pass
        self.streams += 1
        try:
            yield key
        finally:
            self.streams -= 1

    def hold(self, size: int) -> None:
        """Count bytes of a body that are kept (negative: let go).

        Raises:
            Overloaded: there are too many of all requests together.
        """
        if size > 0 and self.held and self.held + size > self.settings.max_held:
            raise Overloaded(f"requests of {self.held} bytes are being read, the limit")
        self.held += size

    def needs(self, endpoint: str) -> str:
        """The permission that an endpoint needs."""
        return "admin" if self.training else NEEDS.get(endpoint, "admin")

    def _check_role(self, key: Key, endpoint: str) -> None:
        if self.needs(endpoint) not in ROLES[key.role]:
            raise Forbidden(
                f"{endpoint[:100]!r} needs a key that may {self.needs(endpoint)!r}; "
                f"{key.name!r} has the role {key.role!r}"
            )

    def _check_room(self, documents: int) -> None:
        if self.pending >= self.settings.max_pending:
            raise Overloaded(f"{self.pending} requests are being worked on, the limit")
        most = self.settings.max_pending_docs
        if documents and self.documents and self.documents + documents > most:
            raise Overloaded(
                f"requests of {self.documents} documents are being worked on, the limit is {most}"
            )

    def _check_rates(self, key: Key, documents: int) -> None:
        for bucket, amount in self._of(key, documents):
            if (wait := bucket.wait(amount)) > 0:
                what = "documents" if bucket is self._buckets.get((key.name, "d")) else "requests"
                raise RateLimited(
                    f"the key {key.name!r} may send {bucket.rate:g} {what} a second; try again "
                    f"in {math.ceil(wait * 10) / 10:g} s",
                    retry_after=wait,
                )

    def _of(self, key: Key, documents: int) -> Iterator[tuple[Bucket, float]]:
        for kind, rate, amount in (("r", key.requests, 1), ("d", key.documents, documents)):
            if rate is None:
                continue
            bucket = self._buckets.setdefault((key.name, kind), Bucket(rate))
            bucket.rate = rate  # it may have changed in the file
            yield bucket, amount
