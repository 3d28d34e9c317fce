"""Calls to a Milvus server: tried again while it is away, and bounded."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from cliptune.errors import BadInput, Unavailable
from cliptune.index.milvus.options import TOKEN, MilvusAddress, MilvusOptions

if TYPE_CHECKING:
    from pymilvus import MilvusClient

Result = TypeVar("Result")
Call = Callable[["MilvusClient", float], Result]

# Milvus' error codes (pkg/util/merr): what is wrong with the call itself isn't tried again.
_COLLECTION_NOT_FOUND, _NOT_LOADED, _NO_DATABASE = 100, 101, 800
_FINAL = {9, 10, 102, 1100, 1101, 1102, 1600, 1601, 1602}
_FINAL_WORDS = ("cannot parse expression", "maxoutputsize", "exceeds limit", "larger than max")
_REFUSED = ("UNAUTHENTICATED", "PERMISSION_DENIED")
_REFUSED_CODES = {1400, 1401}
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


class CollectionGone(Exception):
    """The collection isn't there, or not any more."""


class ResultTooLarge(Exception):
    """The answer is beyond the server's limit: ask for less at once."""


class MilvusServer:
    """One server, through one client that is made when it is first needed.

    So an index can be opened while the server is still away, and answers once it is there.
    """

    def __init__(self, address: MilvusAddress, options: MilvusOptions) -> None:
        """Note where it is; nothing is sent yet. Raises `Unavailable` without pymilvus."""
        try:
            import pymilvus  # noqa: F401
        except ImportError as error:
            raise Unavailable(
                "indexes in Milvus need pymilvus: pip install 'cliptune[milvus]'"
            ) from error
        # It logs every failure with its trace, those too that are tried again.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        self.address = address
        self.options = options
        self._process = os.getpid()
        self._guard = threading.Lock()
        self._client: Any = None
        self._closed = False

    def call(self, action: str, run: Call[Result], *, loads: str | None = None) -> Result:
        """`run` with the client and the seconds left; again while the server is away or busy.

        Args:
            action: for errors, such as 'searching'.
            run: must not mind being repeated.
            loads: the collection to load if the server says that it isn't.

        Raises:
            Unavailable: the server didn't answer, or refused, within `MilvusOptions.timeout`.
            CollectionGone, ResultTooLarge: for the caller to handle.
        """
        import grpc
        from pymilvus.exceptions import MilvusException

        deadline, pause = time.monotonic() + self.options.timeout, _FIRST_PAUSE
        while True:
            left = max(0.1, deadline - time.monotonic())
            try:
                return run(self._connected(left), left)
            except (MilvusException, grpc.RpcError) as error:
                self._check_open()
                self._raise_final(action, error)
                if time.monotonic() + pause > deadline:
                    raise Unavailable(
                        f"{self.address}: {action} failed: the Milvus server hasn't answered for "
                        f"{self.options.timeout:g} s ({_reason(error)})"
                    ) from error
                if loads and getattr(error, "code", None) == _NOT_LOADED:
                    self._load(loads, left)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def close(self) -> None:
        """Let go of the connection; any later call raises `BadInput`."""
        with self._guard:
            client, self._client, self._closed = self._client, None, True
        if client is not None:
            client.close()

    def check(self) -> None:
        """Raise `BadInput` if it was closed, or carried through a fork."""
        self._check_open()
        if os.getpid() != self._process:
            raise BadInput(
                f"{self.address}: the index was opened before this process was forked; "
                "open it in the process that uses it"
            )

    def _check_open(self) -> None:
        if self._closed:
            raise BadInput(f"{self.address}: the index is closed")

    def _connected(self, timeout: float) -> MilvusClient:
        from pymilvus import MilvusClient

        self.check()
        with self._guard:
            if self._client is None:
                self._client = MilvusClient(
                    self.address.server,
                    token=self.options.secret,
                    db_name=self.address.database,
                    timeout=min(timeout, 10.0),
                    dedicated=True,
                    # gRPC's own pauses grow to two minutes.
                    grpc_options={
                        "grpc.initial_reconnect_backoff_ms": 100,
                        "grpc.max_reconnect_backoff_ms": 1000,
                    },
                )
            return self._client

    def _load(self, collection: str, timeout: float) -> None:
        import grpc
        from pymilvus.exceptions import MilvusException

        try:
            self._connected(timeout).load_collection(collection, timeout=timeout)
        except (MilvusException, grpc.RpcError):
            return  # the call itself will say so

    def _raise_final(self, action: str, error: Exception) -> None:
        code, reason = getattr(error, "code", None), _reason(error)
        if "maxoutputsize" in reason.lower():
            raise ResultTooLarge(reason) from error
        if code in _REFUSED_CODES or any(word in f"{error}".upper() for word in _REFUSED):
            raise Unavailable(
                f"{self.address}: the Milvus server refuses the token, or forbids it this; "
                f"set {TOKEN}"
            ) from error
        if code == _NO_DATABASE:
            raise BadInput(
                f"{self.address}: the Milvus server has no database {self.address.database!r}"
            ) from error
        if code == _COLLECTION_NOT_FOUND:
            raise CollectionGone(reason) from error
        if code in _FINAL or any(word in reason.lower() for word in _FINAL_WORDS):
            raise Unavailable(f"{self.address}: {action} failed ({reason})") from error


def _reason(error: Exception) -> str:
    text = getattr(error, "message", None) or getattr(error, "details", lambda: None)() or error
    return str(text).split("\n", 1)[0][:300]
