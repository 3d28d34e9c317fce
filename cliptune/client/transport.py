"""How a client's calls travel: gRPC messages, or JSON over HTTP."""

from __future__ import annotations

import base64
import os
import socket
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

import grpc
import numpy as np
import orjson
import requests
from docarray import BaseDoc, DocList
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cliptune.documents import ClipDoc, RankDoc
from cliptune.errors import BadInput, CliptuneError, NotReady, TooLarge, Unavailable
from cliptune.protocol import grpc_options, tags, wire_errors
from cliptune.protocol.limits import check_depth
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


def closed(address: str) -> NotReady:
    """What a call on a closed client raises."""
    return NotReady(f"the client of {address} is closed: make a new one")


def late(address: str, timeout: float) -> Unavailable:
    """What a call raises that was not answered in time."""
    return Unavailable(f"{address} did not answer within {timeout:g} s")


def unreachable(address: str, details: str) -> Unavailable:
    """What a call raises that did not reach the server: with the reason, whatever the protocol.

    gRPC and HTTP libraries tell it in words of their own, wrapped several times; one attempt to
    connect tells what the system says.
    """
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((str(parts.hostname), port), timeout=2.0).close()
    except TimeoutError:
        reason = "no answer from there"
    except OSError as error:
        reason = error.strerror or str(error)
    else:
        reason = f"the connection broke ({details[:300]})"
    return Unavailable(f"{address} can't be reached: {reason}")


_transports: weakref.WeakSet[Any] = weakref.WeakSet()


def at_fork(transport: Any) -> None:
    """Have `transport.forked()` called in each process that is forked from this one."""
    _transports.add(transport)


def _after_fork() -> None:
    for transport in list(_transports):
        transport.forked()


os.register_at_fork(after_in_child=_after_fork)


class GrpcTransport:
    """Jina's own messages over one channel."""

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
        parts = split_address(address)
        if parts.port is None:
            raise BadInput(f"address {address!r}: expected grpc://host:port")
        self.address, self.timeout = address, timeout
        self._target = parts.netloc
        self._tls = parts.scheme == "grpcs"
        self._ca = _read_ca(ca_file) if self._tls else None
        self._metadata = list(_bearer(api_key, "authorization").items())
        self._guard = threading.Lock()
        self._connection: _Connection | None = None
        self._closed = False
        at_fork(self)

    def close(self) -> None:
        """Close the channel."""
        with self._guard:
            self._closed = True
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.channel.close()

    def check_open(self) -> None:
        """Raise `NotReady` if it was closed."""
        if self._closed:
            raise closed(self.address)

    def forked(self) -> None:
        """Forget the parent's channel: a forked process can't use it, and makes its own."""
        self._guard = threading.Lock()
        self._connection = None

    def touch(self) -> None:
        """Make sure that the connection lives: before a call that must not be made twice.

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

    def post(
        self,
        endpoint: str,
        docs: DocList,
        parameters: dict[str, Any] | None,
        kind: type[D],
        routes: list[Any] | None = None,
    ) -> DocList[D]:
        """Send `docs` to `endpoint`; returns its documents as `kind`.

        Jina's routes, which say when each part began and ended, are appended to `routes`.
        """
        from cliptune.protocol.jina_compat import DataRequest

        if docs:
            docs = DocList[docs.doc_type]([doc.model_copy() for doc in docs])  # type: ignore[name-defined]
            tags.pack(docs)
        request = DataRequest()
        request.header.exec_endpoint = endpoint
        request.document_array_cls = DocList[docs.doc_type or ClipDoc]  # type: ignore[misc]
        request.data.docs = docs
        if parameters:
            check_depth(parameters, "parameters")
            try:
                request.parameters = parameters
            except (TypeError, ValueError) as error:
                raise BadInput(f"parameters {parameters!r:.200}: {error}") from None
        response = self._call(
            lambda to: to.single(request, timeout=self.timeout, metadata=self._metadata)
        )
        if (failure := wire_errors.from_status(response.header.status)) is not None:
            raise failure
        if routes is not None:
            routes.extend(response.routes)
        response.document_array_cls = DocList[kind]  # type: ignore[valid-type]
        found = response.docs
        tags.unpack(found)
        return found

    def stream(self, endpoint: str, doc: BaseDoc, kind: type[D]) -> Any:
        """Send one document; yields the documents that come back, as `kind`."""
        from cliptune.protocol.jina_compat import SingleDocumentRequest

        request = SingleDocumentRequest()
        request.header.exec_endpoint = endpoint
        request.document_cls = type(doc)
        request.data.doc = doc
        connection = self._connected()
        try:
            for response in connection.stream(request, metadata=self._metadata):
                response.document_cls = kind
                yield response.data.doc
        except grpc.RpcError as error:
            raise self._error(error, connection) from None

    def _call(self, call: Callable[[_Connection], R]) -> R:
        connection = self._connected()
        try:
            return call(connection)
        except grpc.RpcError as error:
            raise self._error(error, connection) from None
        except ValueError:  # gRPC's word for a channel that was closed meanwhile
            raise closed(self.address) from None

    def _connected(self) -> _Connection:
        with self._guard:
            if self._closed:
                raise closed(self.address)
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
        if details.startswith(wire_errors.PREFIX):
            return wire_errors.from_text(details)
        code = error.code()
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            return TooLarge(f"{self.address}: {details}")
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return late(self.address, self.timeout)
        if self._closed:
            return closed(self.address)
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            self._drop(connection)
            return unreachable(self.address, details)
        return Unavailable(f"{self.address}: {code.name}: {details[:500]}")


@dataclass(frozen=True)
class _Connection:
    """A channel and the calls that are made on it."""

    channel: grpc.Channel
    single: Any
    stream: Any
    health: Any

    @classmethod
    def to(cls, target: str, tls: bool, ca: bytes | None) -> _Connection:
        from cliptune.protocol.jina_compat import jina_pb2_grpc

        if tls:
            credentials = grpc.ssl_channel_credentials(ca)
            channel = grpc.secure_channel(target, credentials, grpc_options.CLIENT)
        else:
            channel = grpc.insecure_channel(target, grpc_options.CLIENT)
        return cls(
            channel,
            jina_pb2_grpc.JinaSingleDataRequestRPCStub(channel).process_single_data,
            jina_pb2_grpc.JinaSingleDocumentRequestRPCStub(channel).stream_doc,
            health_pb2_grpc.HealthStub(channel).Check,
        )


class HttpTransport:
    """JSON bodies."""

    def __init__(
        self, address: str, timeout: float, api_key: str | None = None, ca_file: str | None = None
    ) -> None:
        """Take `http://host:port` (or `https://`); connects with the first call.

        The rest as `GrpcTransport`.
        """
        split_address(address)
        self.address, self.timeout = address.rstrip("/"), timeout
        self._key = _bearer(api_key, "Authorization")
        self._session: requests.Session | None = None
        self._guard = threading.Lock()
        self._closed = False
        # Given with each request: a session's own would give way to REQUESTS_CA_BUNDLE.
        self.verify: str | None = None
        if address.startswith("https://") and _read_ca(ca_file) is not None:
            self.verify = ca_file or current().ca_file
        at_fork(self)

    def close(self) -> None:
        """Close the connections."""
        with self._guard:
            self._closed = True
            session, self._session = self._session, None
        if session is not None:
            session.close()

    def check_open(self) -> None:
        """Raise `NotReady` if it was closed."""
        if self._closed:
            raise closed(self.address)

    def forked(self) -> None:
        """Forget the parent's connections: a forked process must not write into them."""
        self._guard = threading.Lock()
        self._session = None

    def touch(self) -> None:
        """See `GrpcTransport.touch`: nothing is to be done."""

    def _connected(self) -> requests.Session:
        with self._guard:
            if self._closed:
                raise closed(self.address)
            if self._session is None:
                self._session = requests.Session()
                # As `auth`: else `requests` would take a password from ~/.netrc instead.
                key = self._key
                self._session.auth = lambda request: (request.headers.update(key), request)[1]
            return self._session

    def json(self, endpoint: str, body: dict[str, Any]) -> Any:
        """Post a body; returns the answer's."""
        try:
            raw = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        except TypeError as error:
            raise BadInput(f"not fit for JSON: {error}") from None
        headers = {"Content-Type": "application/json"}
        try:
            response = self._connected().post(
                self.address + endpoint,
                data=raw,
                headers=headers,
                timeout=self.timeout,
                verify=self.verify,
            )
        except requests.Timeout:
            raise late(self.address, self.timeout) from None
        except requests.RequestException as error:
            raise unreachable(self.address, str(error)) from None
        try:
            found = orjson.loads(response.content)
        except ValueError:
            raise Unavailable(
                f"{self.address}{endpoint} answered {response.status_code} without JSON"
            ) from None
        if response.status_code >= 400:
            raise wire_errors.from_dict(found.get("error") if isinstance(found, dict) else None)
        return found

    def post(
        self, endpoint: str, docs: DocList, parameters: dict[str, Any] | None, kind: type[D]
    ) -> DocList[D]:
        """Send `docs` to `endpoint`; returns its documents as `kind`."""
        tags.check(docs)
        body: dict[str, Any] = {"data": [to_item(doc) for doc in docs]}
        if parameters:
            check_depth(parameters, "parameters")
            body["parameters"] = parameters
        if endpoint in ("/encode", "/rank", "/get"):
            body["encoding_format"] = "base64"
        found = self.json(endpoint, body)
        if endpoint == "/search":  # said once of all queries
            found["data"] = [
                item | {"warnings": found.get("warnings", [])} for item in found["data"]
            ]
        return DocList[kind]([_doc(kind, item) for item in found["data"]])  # type: ignore[valid-type]


def to_item(doc: ClipDoc) -> dict[str, Any]:
    """A document as a body has it."""
    fields: dict[str, Any] = {"id": str(doc.id)}
    for name in ("text", "uri", "label"):
        if (value := getattr(doc, name)) is not None:
            fields[name] = value
    if doc.tags:
        fields["tags"] = doc.tags
    if doc.image is not None:
        fields["image"] = base64.b64encode(doc.image).decode()
    if isinstance(doc, RankDoc):
        fields["matches"] = [to_item(match) for match in doc.matches]
    return fields


def _doc(kind: type[D], item: dict[str, Any]) -> D:
    if "embedding" in item:
        vector = np.frombuffer(base64.b64decode(item["embedding"]), "<f4").astype(np.float32)
        item = {**item, "embedding": vector}
    return kind(**item)
