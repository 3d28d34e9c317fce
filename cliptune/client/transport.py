"""How calls travel: what gRPC and HTTP have in common, for threads and for event loops."""

from __future__ import annotations

import os
import socket
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

from docarray import BaseDoc, DocList

from cliptune.client.messages import Call, documents
from cliptune.errors import BadInput, NotReady, Unavailable
from cliptune.protocol.endpoints import Endpoint

D = TypeVar("D", bound=BaseDoc)
R = TypeVar("R")


def bearer(api_key: str | None, header: str) -> dict[str, str]:
    """The header that carries the key, if there is one."""
    key = (api_key or "").strip()
    if not key:
        return {}
    if not key.isascii() or not key.isprintable():
        raise BadInput("the API key holds characters that no key has")
    return {header: f"Bearer {key}"}


def read_ca(ca_file: str | None) -> bytes | None:
    """The certificates to trust; None: those that everybody trusts."""
    if not ca_file:
        return None
    try:
        return Path(ca_file).read_bytes()
    except OSError as error:
        raise BadInput(f"ca_file {ca_file}: {error.strerror}") from None


def split_address(address: str) -> SplitResult:
    """The parts of a server's address.

    Raises:
        BadInput: there is no host in it, or the port is none.
    """
    try:
        parts = urlsplit(address)
        there = bool(parts.hostname) and parts.port != 0
    except ValueError:
        there = False
    if not there:
        raise BadInput(f"address {address!r}: expected {address.split('://')[0]}://host:port")
    return parts


_transports: weakref.WeakSet[Transport] = weakref.WeakSet()


class Transport(ABC):
    """How calls travel to one server, and come back."""

    def __init__(self, address: str, timeout: float) -> None:
        """Take the server at `address`; connects with the first call.

        Args:
            address: where the server is.
            timeout: seconds in which an answer must come.
        """
        self.address, self.timeout = address, timeout
        self._guard = threading.Lock()
        self._closed = False
        _transports.add(self)

    @abstractmethod
    def ask(self, call: Call[R]) -> R:
        """Make a call; returns what it is answered.

        Raises:
            NotReady: it was closed.
            Unavailable: the server can't be reached, or did not answer in time.
            CliptuneError: what the server says went wrong.
        """

    @abstractmethod
    async def aask(self, call: Call[R]) -> R:
        """As `ask`, on an event loop; cancelled, the call is cancelled at the server too.

        What takes time without waiting (packing pictures, reading embeddings) is done beside the
        loop.
        """

    @abstractmethod
    def touch(self) -> None:
        """Make sure that the connection lives: before a call that must not be made twice."""

    @abstractmethod
    async def atouch(self) -> None:
        """As `touch`, on an event loop."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections; calls that come after it raise `NotReady`."""

    @abstractmethod
    async def aclose(self) -> None:
        """As `close`; that loop's connections are closed when it returns."""

    @abstractmethod
    def forked(self) -> None:
        """Forget the parent's connections: a forked process can't use them, and makes its own."""
        self._guard = threading.Lock()

    def check_open(self) -> None:
        """Raise `NotReady` if it was closed."""
        if self._closed:
            raise self._is_closed()

    def post(
        self,
        endpoint: Endpoint[D],
        docs: Sequence[BaseDoc],
        parameters: Mapping[str, object] | None = None,
    ) -> DocList[D]:
        """Send `docs` to `endpoint`; returns the documents of its answer."""
        return self.ask(documents(endpoint, docs, parameters))

    def _is_closed(self) -> NotReady:
        return NotReady(f"the client of {self.address} is closed: make a new one")

    def _late(self) -> Unavailable:
        return Unavailable(f"{self.address} did not answer within {self.timeout:g} s")

    def _unreachable(self, details: str) -> Unavailable:
        """What a call raises that did not reach the server: why, whatever the protocol.

        gRPC and HTTP libraries tell it in words of their own, wrapped several times; one attempt to
        connect tells what the system says.
        """
        parts = urlsplit(self.address)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((str(parts.hostname), port), timeout=2.0).close()
        except TimeoutError:
            reason = "no answer from there"
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            reason = f"the connection broke ({details[:300]})"
        return Unavailable(f"{self.address} can't be reached: {reason}")


def _after_fork() -> None:
    for transport in list(_transports):
        transport.forked()


os.register_at_fork(after_in_child=_after_fork)
