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

_KEYS: dict[str, str] = {}
"""API keys of pickled clients, by what their pickles hold instead."""


class _Settings(TypedDict):
    address: str
    timeout: float
    ca_file: str | None
    retries: int


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
    ) -> None:
        """Take the server at `address`.

        Args:
            address: `grpc://host:port` or `http://host:port`; with TLS `grpcs://` or `https://`.
            timeout: seconds in which an answer must come.
            api_key: None: CLIPTUNE_API_KEY, or none.
            ca_file: certificates (PEM) to trust with TLS, where the server's is of your own
                making; None: CLIPTUNE_CA_FILE, or those that everybody trusts.
            retries: how often a call that may be repeated is, see above.

        Raises:
            BadInput: the address is of another form, or the certificates can't be read.
        """
        if not 0 <= retries <= 20:
            raise BadInput(f"retries is {retries}: expected 0 to 20")
        self._transport = _transport_to(address, timeout, api_key, ca_file)
        self._retries = Retries(retries, within=timeout)
        self.address, self.timeout, self.retries = address, timeout, retries
        self._api_key, self._ca_file = api_key, ca_file
        self._token = uuid.uuid4().hex

    def __repr__(self) -> str:
        """`Client('grpc://localhost:51000')`."""
        return f"{type(self).__name__}({self.address!r})"

    def __reduce__(
        self,
    ) -> tuple[Callable[..., object], tuple[type[Self], _Settings, str | None, str | None]]:
        """Pickle what it takes to make it again, but for the API key."""
        settings = _Settings(
            address=self.address,
            timeout=self.timeout,
            ca_file=self._ca_file,
            retries=self.retries,
        )
        if self._api_key is None:
            return _restored, (type(self), settings, None, None)
        if multiprocessing.context.get_spawning_popen() is not None:
            # Through a pipe, to our own child.
            return _restored, (type(self), settings, self._api_key, None)
        _KEYS[self._token] = self._api_key
        return _restored, (type(self), settings, None, self._token)


def _restored(
    kind: type[BaseClient], settings: _Settings, key: str | None, token: str | None
) -> BaseClient:
    """An unpickled client; see `Client`."""
    return kind(**settings, api_key=key or _KEYS.get(str(token)))


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
