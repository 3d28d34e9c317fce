"""Who may ask what, how much at once and how fast: all that reaches an executor passes here.

A request is looked at twice. Before its body is read: is the key known, may it call
this at all, is there room (`Admission.check`). And when it is known what is asked:

::

    with admission.admit(PRESENTED.get(), INDEX.path, documents=64):
        response = await …   # counts as pending until the block ends

`auth.py` puts the key that came with a call over gRPC or HTTP into `PRESENTED`;
`RequestHandler.ask` is where everything is admitted.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from docarray import BaseDoc

from cliptune.errors import Forbidden, Overloaded, RateLimited, Unauthorized
from cliptune.gateway.access.api_keys import ROLES, Key, KeyFile
from cliptune.protocol.endpoints import PROMETHEUS, SEARCH_FLOW, Endpoint, Permission
from cliptune.settings import Settings

PRESENTED: ContextVar[str | None] = ContextVar("presented API key", default=None)
"""The API key that came with the call being served."""

_BESIDE: dict[str, Permission] = {PROMETHEUS: "monitor"}
"""What paths that are no endpoints need; others need `admin`."""
EVERYBODY = Key("everybody", b"", "admin")
"""Who asks where there are no keys."""


BURST = 5.0
"""Seconds' worth of tokens that a bucket holds: what may be asked at once after a pause."""


@dataclass
class TokenBucket:
    """Tokens flow in at a rate, up to `BURST` seconds' worth; requests take them out.

    The libraries for this count whole requests in windows. Here a request counts as many tokens as
    it has documents, may have more than a second's worth, and is told exactly when to come again.

    A request that takes more than a full bucket is let through when it is full, and leaves a debt
    that those after it wait for: so no size is refused for ever.
    """

    rate: float
    """Tokens a second."""
    tokens: float = field(init=False)
    since: float = field(init=False)

    def __post_init__(self) -> None:
        """Begin full."""
        self.tokens = self.size
        self.since = time.monotonic()

    @property
    def size(self) -> float:
        """What it holds when full."""
        return max(1.0, self.rate * BURST)

    def wait(self, amount: float, now: float | None = None) -> float:
        """Seconds until `amount` may be taken; 0: now."""
        now = time.monotonic() if now is None else now
        self.tokens = min(self.size, self.tokens + (now - self.since) * self.rate)
        self.since = now
        wait = (min(amount, self.size) - self.tokens) / self.rate
        return wait if wait > 1e-6 else 0.0

    def take(self, amount: float) -> None:
        """Take `amount` tokens, which `wait` has allowed."""
        self.tokens -= amount


class Admission:
    """Keys, their roles and rates, and the bounded queue, of one gateway process.

    Everything is checked anew for each request, so that a key that is taken out of the file ends
    to work in the midst of a stream too.
    """

    def __init__(
        self,
        settings: Settings,
        keys: KeyFile | None = None,
        endpoints: Mapping[str, Endpoint[BaseDoc]] = SEARCH_FLOW,
    ) -> None:
        """Take what bounds it, and who and what is admitted.

        Args:
            settings: the gateway's.
            keys: None: everybody may do everything.
            endpoints: those of its Flow.
        """
        self.settings, self.keys, self.endpoints = settings, keys, endpoints
        self.ending = asyncio.Event()
        """Set when the gateway has been told to end."""
        self.pending = self.documents = self.held = self.streams = 0
        self.sockets: set[asyncio.Task[None]] = set()
        """Open WebSockets."""
        self._buckets: dict[tuple[str, str], TokenBucket] = {}

    @classmethod
    def of(cls, settings: Settings, endpoints: Mapping[str, Endpoint[BaseDoc]]) -> Admission:
        """With the keys of CLIPTUNE_API_KEYS_FILE, if it is set.

        Raises:
            BadInput: the file can't be read.
        """
        path = settings.api_keys_file
        return cls(settings, KeyFile(path) if path else None, endpoints)

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
        """Before a body is read; nothing is counted yet.

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
        asked = self.endpoints.get(endpoint or "")
        documents = 0 if asked and asked.takes is None else 1
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

    def needs(self, path: str) -> Permission:
        """The permission that an endpoint needs, or another path of HTTP."""
        endpoint = self.endpoints.get(path)
        return endpoint.needs if endpoint else _BESIDE.get(path, "admin")

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

    def _of(self, key: Key, documents: int) -> Iterator[tuple[TokenBucket, float]]:
        for kind, rate, amount in (("r", key.requests, 1), ("d", key.documents, documents)):
            if rate is None:
                continue
            bucket = self._buckets.setdefault((key.name, kind), TokenBucket(rate))
            bucket.rate = rate  # it may have changed in the file
            yield bucket, amount
