"""A Milvus server: where an index is in it, and calls that are tried again while it is away."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, TypeVar, cast, get_args
from urllib.parse import parse_qsl, urlsplit

from tenacity import Retrying, retry_if_exception_type, stop_before_delay

from cliptune.errors import BadInput, Unavailable
from cliptune.extras import need
from cliptune.index.checks import check_integers
from cliptune.index.retries import PAUSES
from cliptune.settings import current

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

DEFAULT_PORT = 19530
Consistency = Literal["strong", "session"]

# Milvus' own rule, less what we append to a collection's name.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")


@dataclass(frozen=True)
class MilvusAddress:
    """`http://host:19530/collection` or `…/database/collection`, taken apart."""

    server: str
    """`http://host:port` or `https://host:port`."""
    database: str
    """Empty: the server's default database."""
    collection: str
    query: tuple[tuple[str, str], ...] = ()
    """Options that the address itself names (`?consistency=session`)."""

    @classmethod
    def parse(cls, uri: str) -> Self:
        """The parts of `uri`; what can't be an index in Milvus raises `BadInput`."""
        example = "http://localhost:19530/shop"
        try:
            parts = urlsplit(uri)
            host, port = parts.hostname, parts.port or DEFAULT_PORT
        except ValueError as error:
            raise BadInput(f"{uri!r:.200}: not an address ({error}); such as {example}") from error
        if parts.username is not None or parts.password is not None:
            # Addresses stand in logs, in /status and in the list of processes.
            raise BadInput(
                f"a name and password don't belong into the address of the index at {host}: "
                "give them as NAME:PASSWORD in CLIPTUNE_MILVUS_TOKEN"
            )
        if not host or parts.fragment:
            raise BadInput(f"{uri!r:.200}: expected a host and a collection, such as {example}")
        names = [name for name in parts.path.split("/") if name]
        if not 1 <= len(names) <= 2:
            raise BadInput(
                f"{uri!r:.200}: expected the name of a collection (or of a database and a "
                f"collection) after the host, such as {example}"
            )
        for name in names:
            if not _NAME.fullmatch(name):
                raise BadInput(
                    f"{uri!r:.200}: {name!r:.80} is no name in Milvus: up to 200 letters, digits "
                    "and underscores, no digit first"
                )
        shown = f"[{host}]" if ":" in host else host
        return cls(
            server=f"{parts.scheme.lower()}://{shown}:{port}",
            database=names[0] if len(names) == 2 else "",
            collection=names[-1],
            query=tuple(parse_qsl(parts.query, keep_blank_values=True)),
        )

    def __str__(self) -> str:
        """The address without options."""
        return "/".join(filter(None, (self.server, self.database, self.collection)))


@dataclass(frozen=True)
class MilvusOptions:
    """How an index in Milvus is kept and searched."""

    token: str | None = field(default=None, repr=False)
    """An API key, or `name:password`; None: CLIPTUNE_MILVUS_TOKEN, or none."""
    consistency: Consistency = "strong"
    """`strong`: a call sees every write that was acknowledged before it, whoever wrote; a read
    waits for the server's next tick of time, up to 200 ms by default. `session`: a call sees this
    object's own writes, and those of others about a second later; reads don't wait. The right
    choice for one Indexer that does all the writing."""
    store_images: bool = True
    """Keep the pictures' bytes, in `pictures`: Milvus holds what it searches in memory, which is
    no place for them."""
    pictures: Path = field(default_factory=lambda: current().pictures_dir)
    """The folder for pictures, one file each, named by its content's SHA-256; default:
    CLIPTUNE_PICTURES, or `pictures` in CLIPTUNE_HOME. Processes on several machines need a folder
    that they share."""
    timeout: float = 30.0
    """Seconds that a call tries again while the server is away or busy; then `Unavailable`."""
    hnsw_m: int = 16
    """Neighbours of each point in the graph."""
    hnsw_ef_construction: int = 200
    """Candidates while the graph is built."""
    ef: int = 100
    """Candidates of a search in the graph, at least twice the matches asked for."""
    shards: int = 1
    """Parallel streams of writes; one takes some thousand documents a second. Only a new index
    asks."""

    def __post_init__(self) -> None:
        """Refuse values that can't work."""
        if self.consistency not in get_args(Consistency):
            raise BadInput(
                f"consistency: expected {' or '.join(get_args(Consistency))}, "
                f"got {self.consistency!r}"
            )
        if not isinstance(self.store_images, bool):
            raise BadInput(f"store_images: expected true or false, got {self.store_images!r}")
        candidates = dict.fromkeys(("ef", "hnsw_ef_construction"), (1, 32_768))
        check_integers(self, {"hnsw_m": (2, 2048), "shards": (1, 16), **candidates})
        if not isinstance(self.timeout, int | float) or not 0 < self.timeout < 86_400:
            raise BadInput(f"timeout: expected seconds, got {self.timeout!r}")
        object.__setattr__(self, "pictures", Path(self.pictures).expanduser().absolute())

    @property
    def secret(self) -> str:
        """The token to send; empty: none."""
        return self.token if self.token is not None else current().milvus_token or ""


def options_of(address: MilvusAddress, given: Mapping[str, object]) -> MilvusOptions:
    """The options that `address` and `given` name; both naming one raises `BadInput`."""
    readers = {
        "consistency": str,
        "timeout": float,
        "ef": int,
        "hnsw_m": int,
        "hnsw_ef_construction": int,
        "shards": int,
    }
    known = [*readers, "store_images", "pictures", "token"]
    for name in given:
        if name not in known:
            raise BadInput(f"{name}: no option of an index in Milvus; there are {', '.join(known)}")
    values = dict(given)
    for name, text in address.query:
        if name not in readers:
            raise BadInput(
                f"{name}: no option in an index's address; there are {', '.join(readers)}"
            )
        if name in values:
            raise BadInput(f"{name}: given twice")
        try:
            values[name] = readers[name](text)
        except ValueError as error:
            raise BadInput(f"{name}: expected a number, got {text!r:.80}") from error
    return MilvusOptions(**values)  # type: ignore[arg-type]


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
        need("milvus", "an index in Milvus")
        # It logs every failure with its trace, those too that are tried again.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        self.address = address
        self.options = options
        self._process = os.getpid()
        self._guard = threading.Lock()
        self._client: MilvusClient | None = None
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

        away = (MilvusException, grpc.RpcError)
        timeout, began = self.options.timeout, time.monotonic()

        def attempt() -> Result:
            left = max(0.1, began + timeout - time.monotonic())
            try:
                return run(self._connected(left), left)
            except away as error:
                self._check_open()
                self._raise_final(action, error)
                if loads and getattr(error, "code", None) == _NOT_LOADED:
                    self._load(loads, left)
                raise

        retrying = Retrying(
            retry=retry_if_exception_type(away),
            wait=PAUSES,
            stop=stop_before_delay(timeout),
            reraise=True,
        )
        try:
            return retrying(attempt)
        except away as error:
            raise Unavailable(
                f"{self.address}: {action} failed: the Milvus server hasn't answered for "
                f"{timeout:g} s ({_reason(error)})"
            ) from error

    def client(self, action: str, *, loads: str | None = None) -> MilvusClient:
        """The client, whose methods are tried again: each is a `call`, and has the timeout."""
        return cast("MilvusClient", _Calls(self, action, loads))

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

        with suppress(MilvusException, grpc.RpcError):  # the call itself will say so
            self._connected(timeout).load_collection(collection, timeout=timeout)

    def _raise_final(self, action: str, error: Exception) -> None:
        code, reason = getattr(error, "code", None), _reason(error)
        if "maxoutputsize" in reason.lower():
            raise ResultTooLarge(reason) from error
        if code in _REFUSED_CODES or any(word in f"{error}".upper() for word in _REFUSED):
            raise Unavailable(
                f"{self.address}: the Milvus server refuses the token, or forbids it this; "
                "set CLIPTUNE_MILVUS_TOKEN"
            ) from error
        if code == _NO_DATABASE:
            raise BadInput(
                f"{self.address}: the Milvus server has no database {self.address.database!r}"
            ) from error
        if code == _COLLECTION_NOT_FOUND:
            raise CollectionGone(reason) from error
        if code in _FINAL or any(word in reason.lower() for word in _FINAL_WORDS):
            raise Unavailable(f"{self.address}: {action} failed ({reason})") from error


class _Calls:
    """A `MilvusClient` by `MilvusServer.call`."""

    def __init__(self, server: MilvusServer, action: str, loads: str | None) -> None:
        self._server, self._action, self._loads = server, action, loads

    def __getattr__(self, method: str) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            def run(client: MilvusClient, timeout: float) -> object:
                return getattr(client, method)(*args, timeout=timeout, **options)

            return self._server.call(self._action, run, loads=self._loads)

        return call


def _reason(error: Exception) -> str:
    text = getattr(error, "message", None) or getattr(error, "details", lambda: None)() or error
    return str(text).split("\n", 1)[0][:300]
