"""Over gRPC: Jina's messages on one channel, which threads and event loops share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import grpc
from docarray import BaseDoc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cliptune.client.messages import Call, document_of, one_document
from cliptune.client.transport import Transport, bearer, read_ca, split_address
from cliptune.errors import BadInput, CliptuneError, TooLarge, Unavailable
from cliptune.protocol import grpc_options, wire_errors
from cliptune.protocol.endpoints import Endpoint
from cliptune.protocol.jina_messages_pb2 import DocumentRequest, DocumentsRequest

D = TypeVar("D", bound=BaseDoc)
R = TypeVar("R")


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
            api_key: None: none is sent.
            ca_file: the certificates (PEM) that a `grpcs://` server's may be signed by; None: those
                that everybody trusts.

        Raises:
            BadInput: the address is of another form, or the certificates can't be read.
        """
        parts = split_address(address)
        if parts.port is None:
            raise BadInput(f"address {address!r}: expected grpc://host:port")
        super().__init__(address, timeout)
        self._target = parts.netloc
        self._tls = parts.scheme == "grpcs"
        self._ca = read_ca(ca_file) if self._tls else None
        self._metadata = list(bearer(api_key, "authorization").items())
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

    def stream(self, endpoint: Endpoint[D], doc: BaseDoc) -> Iterator[D]:
        """Send one document; yields the documents that come back."""
        message = one_document(endpoint, doc)
        connection = self._connected()
        try:
            for answer in connection.stream(message, metadata=self._metadata):
                if (failure := wire_errors.from_status(answer.header.status)) is not None:
                    raise failure
                yield document_of(endpoint, answer)
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
        if (own := wire_errors.error_in(details)) is not None:
            return own
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
