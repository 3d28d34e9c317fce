"""How a client's calls travel: gRPC messages, or JSON over HTTP."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import cliptune.serving  # noqa: F401  (first: it keeps Jina from calling home)
import grpc
import numpy as np
import orjson
import requests
from docarray import BaseDoc, DocList

from cliptune.documents import ClipDoc, RankDoc
from cliptune.errors import BadInput, CliptuneError, Unavailable
from cliptune.serving import jina_counters, tags, wire
from cliptune.serving.requests import check_depth

D = TypeVar("D", bound=BaseDoc)
OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC waits up to two minutes before it tries again, and meanwhile answers from memory that
    # there is no server: one that was started anew must not be missed for so long.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
]


API_KEY = "CLIPTUNE_API_KEY"
CA_FILE = "CLIPTUNE_CA_FILE"


def _bearer(api_key: str | None, header: str) -> dict[str, str]:
    key = (api_key or os.environ.get(API_KEY) or "").strip()
    if not key:
        return {}
    if not key.isascii() or not key.isprintable():
        raise BadInput("the API key holds characters that no key has")
    return {header: f"Bearer {key}"}


def _read_ca(ca_file: str | None) -> bytes | None:
    path = ca_file or os.environ.get(CA_FILE)
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"ca_file {path}: {error.strerror}") from None


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
        from jina.proto import jina_pb2_grpc

        jina_counters.keep_out_of_environment()
        parts = urlsplit(address)
        if not parts.hostname or not parts.port:
            raise BadInput(f"address {address!r}: expected grpc://host:port")
        self.address, self.timeout = address, timeout
        if parts.scheme == "grpcs":
            credentials = grpc.ssl_channel_credentials(_read_ca(ca_file))
            self.channel = grpc.secure_channel(parts.netloc, credentials, OPTIONS)
        else:
            self.channel = grpc.insecure_channel(parts.netloc, OPTIONS)
        self._metadata = _bearer(api_key, "authorization")
        self._single = jina_pb2_grpc.JinaSingleDataRequestRPCStub(self.channel)
        self._stream = jina_pb2_grpc.JinaSingleDocumentRequestRPCStub(self.channel)

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()

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
        from jina.types.request.data import DataRequest

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
        try:
            response = self._single.process_single_data(
                request, timeout=self.timeout, metadata=list(self._metadata.items())
            )
        except grpc.RpcError as error:
            raise self._error(error) from None
        if (failure := wire.from_status(response.header.status)) is not None:
            raise failure
        if routes is not None:
            routes.extend(response.routes)
        response.document_array_cls = DocList[kind]  # type: ignore[valid-type]
        found = response.docs
        tags.unpack(found)
        return found

    def stream(self, endpoint: str, doc: BaseDoc, kind: type[D]) -> Any:
        """Send one document; yields the documents that come back, as `kind`."""
        from jina.types.request.data import SingleDocumentRequest

        request = SingleDocumentRequest()
        request.header.exec_endpoint = endpoint
        request.document_cls = type(doc)
        request.data.doc = doc
        try:
            metadata = list(self._metadata.items())
            for response in self._stream.stream_doc(request, metadata=metadata):
                response.document_cls = kind
                yield response.data.doc
        except grpc.RpcError as error:
            raise self._error(error) from None

    def _error(self, error: grpc.RpcError) -> CliptuneError:
        details = error.details() or ""
        if details.startswith(wire.PREFIX):
            return wire.from_text(details)
        code = error.code()
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            return wire.TooLarge(f"{self.address}: {details}")
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return Unavailable(f"{self.address} did not answer within {self.timeout:g} s")
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            return Unavailable(f"{self.address} can't be reached: {details}")
        return Unavailable(f"{self.address}: {code.name}: {details[:500]}")


class HttpTransport:
    """JSON bodies."""

    def __init__(
        self, address: str, timeout: float, api_key: str | None = None, ca_file: str | None = None
    ) -> None:
        """Take `http://host:port` (or `https://`); connects with the first call.

        The rest as `GrpcTransport`.
        """
        self.address, self.timeout = address.rstrip("/"), timeout
        self.session = requests.Session()
        key = _bearer(api_key, "Authorization")
        self.session.auth = lambda request: (request.headers.update(key), request)[1]
        # Given with each request: a session's own would give way to REQUESTS_CA_BUNDLE.
        self.verify: str | None = None
        if address.startswith("https://") and _read_ca(ca_file) is not None:
            self.verify = ca_file or os.environ[CA_FILE]

    def close(self) -> None:
        """Close the connections."""
        self.session.close()

    def json(self, endpoint: str, body: dict[str, Any]) -> Any:
        """Post a body; returns the answer's."""
        try:
            raw = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        except TypeError as error:
            raise BadInput(f"not fit for JSON: {error}") from None
        headers = {"Content-Type": "application/json"}
        try:
            response = self.session.post(
                self.address + endpoint,
                data=raw,
                headers=headers,
                timeout=self.timeout,
                verify=self.verify,
            )
        except requests.Timeout:
            raise Unavailable(f"{self.address} did not answer within {self.timeout:g} s") from None
        except requests.RequestException as error:
            raise Unavailable(f"{self.address} can't be reached: {error}") from None
        try:
            found = orjson.loads(response.content)
        except ValueError:
            raise Unavailable(
                f"{self.address}{endpoint} answered {response.status_code} without JSON"
            ) from None
        if response.status_code >= 400:
            raise wire.from_dict(found.get("error") if isinstance(found, dict) else None)
        return found

    def post(
        self, endpoint: str, docs: DocList, parameters: dict[str, Any] | None, kind: type[D]
    ) -> DocList[D]:
        """Send `docs` to `endpoint`; returns its documents as `kind`."""
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
