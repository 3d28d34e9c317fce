"""What `Client` and `AsyncClient` have in common: where they ask, and how they are pickled."""

from __future__ import annotations

import multiprocessing.context
import uuid
from collections.abc import Callable
from typing import Self, TypedDict

from cliptune.client.grpc_transport import GrpcTransport
from cliptune.client.http_transport import HttpTransport
from cliptune.client.retries import Retries
from cliptune.client.transport import Transport
from cliptune.errors import BadInput
from cliptune.settings import MAX_DOCS, MOST, Settings

_KEYS: dict[str, str] = {}
"""API keys of pickled clients, by what their pickles hold instead."""


class _Given(TypedDict):
    address: str
    timeout: float
    ca_file: str | None
    retries: int
    max_docs: int


class BaseClient:
    """A search Flow somewhere."""

    _transport: Transport

    def __init__(
        self,
        address: str,
        timeout: float = 300.0,
        api_key: str | None = None,
        ca_file: str | None = None,
        *,
        retries: int = 2,
        max_docs: int = MAX_DOCS,
    ) -> None:
        """Take the server at `address`. Nothing is read from the environment.

        Args:
            address: `grpc://host:port` or `http://host:port`; with TLS `grpcs://` or `https://`.
            timeout: seconds in which an answer must come.
            api_key: None: none is sent.
            ca_file: certificates (PEM) to trust with TLS, where the server's is of your own
                making; None: those that everybody trusts.
            retries: how often a call that may be repeated is, see above.
            max_docs: documents that the server takes in one request (CLIPTUNE_MAX_DOCS there).

        Raises:
            BadInput: the address is of another form, the certificates can't be read, or a number
                is out of range.
        """
        for name, value, least, most in (
            ("retries", retries, 0, 20),
            ("max_docs", max_docs, 1, MOST),
        ):
            if not least <= value <= most:
                raise BadInput(f"{name} is {value}: expected {least} to {most}")
        self._transport = _transport_to(address, timeout, api_key, ca_file)
        self._retries = Retries(retries, within=timeout)
        self.address, self.timeout = address, timeout
        self.retries, self.max_docs = retries, max_docs
        self._api_key, self._ca_file = api_key, ca_file
        self._token = uuid.uuid4().hex

    @classmethod
    def from_environment(
        cls,
        address: str | None = None,
        timeout: float = 300.0,
        api_key: str | None = None,
        ca_file: str | None = None,
        *,
        retries: int = 2,
    ) -> Self:
        """As the environment says, where an argument doesn't.

        Read are CLIPTUNE_SEARCH_SERVER (the address), CLIPTUNE_API_KEY, CLIPTUNE_CA_FILE and
        CLIPTUNE_MAX_DOCS. The command line makes its clients so.

        Raises:
            BadInput: as the class, and if a variable can't be right.
        """
        settings = Settings.read(search_server=address, api_key=api_key, ca_file=ca_file)
        return cls(
            settings.search_server,
            timeout,
            settings.api_key,
            settings.ca_file,
            retries=retries,
            max_docs=settings.max_docs,
        )

    def __repr__(self) -> str:
        """`Client('grpc://localhost:51000')`."""
        return f"{type(self).__name__}({self.address!r})"

    def __reduce__(
        self,
    ) -> tuple[Callable[..., object], tuple[type[Self], _Given, str | None, str | None]]:
        """Pickle what it takes to make it again, but for the API key."""
        given = _Given(
            address=self.address,
            timeout=self.timeout,
            ca_file=self._ca_file,
            retries=self.retries,
            max_docs=self.max_docs,
        )
        if self._api_key is None:
            return _restored, (type(self), given, None, None)
        if multiprocessing.context.get_spawning_popen() is not None:
            # Through a pipe, to our own child.
            return _restored, (type(self), given, self._api_key, None)
        _KEYS[self._token] = self._api_key
        return _restored, (type(self), given, None, self._token)


def _restored(
    kind: type[BaseClient], given: _Given, key: str | None, token: str | None
) -> BaseClient:
    """An unpickled client; see `Client`."""
    if token is not None and (key := _KEYS.get(token)) is None:
        key = Settings.read().api_key
    return kind(**given, api_key=key)


def _transport_to(
    address: str, timeout: float, api_key: str | None = None, ca_file: str | None = None
) -> Transport:
    """The transport of an address.

    Raises:
        BadInput: the address is of another form, or the certificates can't be read.
    """
    scheme = address.split("://")[0]
    if scheme in ("grpc", "grpcs"):
        return GrpcTransport(address, timeout, api_key, ca_file)
    if scheme in ("http", "https"):
        return HttpTransport(address, timeout, api_key, ca_file)
    raise BadInput(f"address {address!r}: expected grpc://host:port or http://host:port")
