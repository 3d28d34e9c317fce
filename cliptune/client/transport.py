"""Connections: gRPC's channel and HTTP's pools, each for threads and for event loops."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

import grpc
import httpx
import orjson
from docarray import BaseDoc, DocList
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cliptune.client.messages import Call, document_of, documents, one_document
from cliptune.errors import BadInput, CliptuneError, NotReady, TooLarge, Unavailable
from cliptune.protocol import grpc_options, wire_errors
from cliptune.protocol.jina_messages_pb2 import DocumentRequest, DocumentsRequest
from cliptune.settings import current

D = TypeVar("D", bound=BaseDoc)
R = TypeVar("R")


def _bearer(api_key: str | None, header: str) -> dict[str, str]:
    key = (api_key or current().api_key or "").strip()
    if not key:
        return {}
    if not key.isascii() or not key.isprintable():
        raise BadInput("the API key holds characters that no key has")
    return {header: f"Bearer {key}"}


def _read_ca(ca_file: str | None) -> bytes | None:
    path = ca_file or current().ca_file
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"ca_file {path}: {error.strerror}") from None


def _split_address(address: str) -> SplitResult:
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
        endpoint: str,
        docs: Sequence[BaseDoc],
        parameters: Mapping[str, object] | None,
        kind: type[D],
    ) -> DocList[D]:
        """Send `docs` to `endpoint`; returns its documents as `kind`."""
        return self.ask(documents(endpoint, docs, kind, parameters))

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


def transport_to(
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


class GrpcTransport(Transport):
    """Jina's messages over one channel, which threads and event loops share.

    An event loop awaits the channel's futures. `grpc.aio` would be a second channel, bound to one
    loop: with several loops in a process it logs `BlockingIOError`, and a process that is forked
    while it is in use waits for ever in its first call.
    """

    def __init__(
        self, address: str, timeout: float, api_key: str | None = None, ca_file: str | None = None
    ) -> None:
        """Take `grpc://host:port` (or `grpcs://`); connects with the first call.

        Args:
            address: where the server is.
            timeout: seconds.
            api_key: None: CLIPTUNE_API_KEY, or none.
            ca_file: the certificates (PEM) that a `grpcs://` server's may be signed by; None:
                CLIPTUNE_CA_FILE, or those that everybody trusts.

        Raises:
            BadInput: the address is of another form, or the certificates can't be read.
        """
        parts = _split_address(address)
        if parts.port is None:
            raise BadInput(f"address {address!r}: expected grpc://host:port")
        super().__init__(address, timeout)
        self._target = parts.netloc
        self._tls = parts.scheme == "grpcs"
        self._ca = _read_ca(ca_file) if self._tls else None
        self._metadata = list(_bearer(api_key, "authorization").items())
        self._connection: _Connection | None = None

    def close(self) -> None:
        """Close the channel."""
        with self._guard:
            self._closed = True
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.channel.close()

    async def aclose(self) -> None:
        """As `close`, which doesn't wait for anything."""
        self.close()

    def forked(self) -> None:
        """Forget the parent's channel."""
        super().forked()
        self._connection = None

    def touch(self) -> None:
        """See `Transport.touch`.

        HTTP's connections are looked at before they are used; a gRPC channel learns from the next
        call alone that its server was started anew since the last one.
        """
        for _ in range(2):
            try:
                self._call(lambda to: to.health(health_pb2.HealthCheckRequest(), timeout=5.0))
            except Unavailable:
                continue
            except CliptuneError:  # a proxy that doesn't know of it
                pass
            return

    async def atouch(self) -> None:
        """As `touch`: beside the loop, since it comes before the rarest calls only."""
        await asyncio.to_thread(self.touch)

    def ask(self, call: Call[R]) -> R:
        """See `Transport.ask`."""
        message = call.message()
        return call.read(
            self._call(lambda to: to.ask(message, timeout=self.timeout, metadata=self._metadata))
        )

    async def aask(self, call: Call[R]) -> R:
        """See `Transport.aask`."""
        self.check_open()
        message = await asyncio.to_thread(call.message)
        connection = self._connected()
        try:
            answer = await _finished(
                connection.ask.future(message, timeout=self.timeout, metadata=self._metadata)
            )
        except grpc.RpcError as error:
            raise await asyncio.to_thread(self._error, error, connection) from None
        except ValueError:
            raise self._is_closed() from None
        return await asyncio.to_thread(call.read, answer)

    def stream(self, endpoint: str, doc: BaseDoc, kind: type[D]) -> Iterator[D]:
        """Send one document; yields the documents that come back, as `kind`."""
        message = one_document(endpoint, doc)
        connection = self._connected()
        try:
            for answer in connection.stream(message, metadata=self._metadata):
                if (failure := wire_errors.from_status(answer.header.status)) is not None:
                    raise failure
                yield document_of(kind, answer)
        except grpc.RpcError as error:
            raise self._error(error, connection) from None

    def _call(self, call: Callable[[_Connection], R]) -> R:
        connection = self._connected()
        try:
            return call(connection)
        except grpc.RpcError as error:
            raise self._error(error, connection) from None
        except ValueError:  # gRPC's word for a channel that was closed meanwhile
            raise self._is_closed() from None

    def _connected(self) -> _Connection:
        with self._guard:
            self.check_open()
            if self._connection is None:
                self._connection = _Connection.to(self._target, self._tls, self._ca)
            return self._connection

    def _drop(self, connection: _Connection) -> None:
        """Have the next call make a new channel.

        A channel that has failed pauses before it connects again, longer each time, and between
        calls it does nothing at all: a server that is back would be missed for ten seconds. Other
        threads' calls on it go on; it is closed when the last of them lets go of it.
        """
        with self._guard:
            if self._connection is connection:
                self._connection = None

    def _error(self, error: grpc.RpcError, connection: _Connection) -> CliptuneError:
        details = error.details() or ""
        if (told := wire_errors.told_in(details)) is not None:
            return told
        code = error.code()
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            return TooLarge(f"{self.address}: {details}")
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return self._late()
        if self._closed:
            return self._is_closed()
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            self._drop(connection)
            return self._unreachable(details)
        return Unavailable(f"{self.address}: {code.name}: {details[:500]}")


@dataclass(frozen=True)
class _Connection:
    """A channel and the calls that are made on it."""

    channel: grpc.Channel
    ask: grpc.UnaryUnaryMultiCallable
    stream: grpc.UnaryStreamMultiCallable
    health: grpc.UnaryUnaryMultiCallable

    @classmethod
    def to(cls, target: str, tls: bool, ca: bytes | None) -> _Connection:
        if tls:
            credentials = grpc.ssl_channel_credentials(ca)
            channel = grpc.secure_channel(target, credentials, grpc_options.CLIENT)
        else:
            channel = grpc.insecure_channel(target, grpc_options.CLIENT)
        return cls(
            channel,
            channel.unary_unary(
                "/jina.JinaSingleDataRequestRPC/process_single_data",
                DocumentsRequest.SerializeToString,
                DocumentsRequest.FromString,
            ),
            channel.unary_stream(
                "/jina.JinaSingleDocumentRequestRPC/stream_doc",
                DocumentRequest.SerializeToString,
                DocumentRequest.FromString,
            ),
            health_pb2_grpc.HealthStub(channel).Check,
        )


async def _finished(call: grpc.Future) -> DocumentsRequest:
    """The answer of a call under way; cancelled, it cancels the call."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def tell(_: grpc.Future) -> None:
        with suppress(RuntimeError):  # a cancelled call may end after its loop
            loop.call_soon_threadsafe(done.set)

    call.add_done_callback(tell)
    try:
        await done.wait()
    except asyncio.CancelledError:
        call.cancel()
        raise
    answer: DocumentsRequest = call.result()
    return answer


class HttpTransport(Transport):
    """JSON bodies, over a pool of connections for threads and one for each event loop."""

    def __init__(
        self, address: str, timeout: float, api_key: str | None = None, ca_file: str | None = None
    ) -> None:
        """Take `http://host:port` (or `https://`); connects with the first call.

        The rest as `GrpcTransport`.
        """
        _split_address(address)
        super().__init__(address.rstrip("/"), timeout)
        self._headers = {
            "Content-Type": "application/json",
            **_bearer(api_key, "Authorization"),
        }
        ca = _read_ca(ca_file) if address.startswith("https://") else None
        self._tls = None if ca is None else _trusting(ca)
        self._pool: httpx.Client | None = None
        self._loops: dict[
            asyncio.AbstractEventLoop, tuple[httpx.AsyncClient, AsyncGenerator[None, None]]
        ] = {}

    def __del__(self) -> None:
        """Close the threads' connections of a client that nobody has closed."""
        if (pool := getattr(self, "_pool", None)) is not None:
            pool.close()

    def close(self) -> None:
        """Close the connections; those of other loops as soon as these come to it."""
        with self._guard:
            self._closed = True
            pool, self._pool = self._pool, None
            loops, self._loops = self._loops, {}
        if pool is not None:
            pool.close()
        for loop, (_, closing) in loops.items():
            if loop.is_running():
                asyncio.run_coroutine_threadsafe(closing.aclose(), loop)

    async def aclose(self) -> None:
        """As `close`."""
        with self._guard:
            _, own = self._loops.pop(asyncio.get_running_loop(), (None, None))
        self.close()
        if own is not None:
            await own.aclose()

    def forked(self) -> None:
        """Forget the parent's connections. Its loops don't run here, and keep theirs."""
        super().forked()
        self._pool = None

    def touch(self) -> None:
        """Nothing is to be done, see `GrpcTransport.touch`."""

    async def atouch(self) -> None:
        """Nothing is to be done."""

    def ask(self, call: Call[R]) -> R:
        """See `Transport.ask`."""
        url, raw = self._written(call)
        try:
            response = self._connected().post(url, content=raw)
        except (httpx.HTTPError, httpx.InvalidURL, RuntimeError) as error:
            raise self._error(error) from None
        return self._read(call, response)

    async def aask(self, call: Call[R]) -> R:
        """See `Transport.aask`."""
        self.check_open()
        url, raw = await asyncio.to_thread(self._written, call)
        pool = await self._of_loop()
        try:
            response = await pool.post(url, content=raw)
        except (httpx.HTTPError, httpx.InvalidURL, RuntimeError) as error:
            raise await asyncio.to_thread(self._error, error) from None
        return await asyncio.to_thread(self._read, call, response)

    def _written(self, call: Call[object]) -> tuple[str, bytes]:
        endpoint, body = call.json()
        try:
            return self.address + endpoint, orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        except TypeError as error:
            raise BadInput(f"not fit for JSON: {error}") from None

    def _read(self, call: Call[R], response: httpx.Response) -> R:
        try:
            body: object = orjson.loads(response.content)
        except ValueError:
            body = None
        if response.status_code >= 400 and body is not None:
            raise wire_errors.from_json(body.get("error") if isinstance(body, dict) else None)
        if not isinstance(body, dict):
            raise Unavailable(
                f"{response.request.url} answered {response.status_code} without JSON"
            )
        return call.read_json(body)

    def _error(self, error: Exception) -> CliptuneError:
        if self._closed:
            return self._is_closed()
        if isinstance(error, httpx.TimeoutException):
            return self._late()
        if isinstance(error, RuntimeError):
            raise error
        return self._unreachable(str(error))

    def _connected(self) -> httpx.Client:
        with self._guard:
            self.check_open()
            if self._pool is None:
                self._pool = httpx.Client(
                    headers=self._headers,
                    timeout=self.timeout,
                    verify=self._trusted(),
                    follow_redirects=True,
                )
            return self._pool

    async def _of_loop(self) -> httpx.AsyncClient:
        """The pool of the running loop."""
        loop = asyncio.get_running_loop()
        with self._guard:
            self.check_open()
            if loop in self._loops:
                return self._loops[loop][0]
            pool = httpx.AsyncClient(
                headers=self._headers,
                timeout=self.timeout,
                verify=self._trusted(),
                follow_redirects=True,
            )
            closing = _closing(pool)
            of_others = {one: held for one, held in self._loops.items() if not one.is_closed()}
            self._loops = {**of_others, loop: (pool, closing)}
        await anext(closing)
        return pool

    def _trusted(self) -> ssl.SSLContext:
        """What a server's certificate must be signed by; made once, since reading it takes time."""
        if self._tls is None:
            self._tls = httpx.create_ssl_context()
        return self._tls


def _trusting(ca: bytes) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=ca.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise BadInput(f"ca_file holds no certificates (PEM): {error}") from None


async def _closing(pool: httpx.AsyncClient) -> AsyncGenerator[None, None]:
    """Begun on a loop, it closes `pool` when that loop ends: `asyncio.run` ends all generators.

    So no connection outlives its loop where nobody closes the client in it.
    """
    try:
        yield
    finally:
        await pool.aclose()
