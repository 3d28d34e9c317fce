"""`Client`: a search Flow over gRPC or HTTP, with the same calls and the same errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, TypeVar, overload

import numpy as np
from docarray import DocList
from numpy.typing import NDArray

from cliptune.data.images import image_bytes
from cliptune.documents import ClipDoc, SearchResult
from cliptune.errors import BadInput
from cliptune.serving.calls import status_of
from cliptune.serving.reports import Report
from cliptune.serving.requests import MAX_DOCS, has_text
from cliptune.serving.transport import GrpcTransport, HttpTransport

MAX_BATCH_BYTES = 16 * 1024 * 1024
"""Bytes of pictures in one request: batches are cut shorter where pictures are large."""
T = TypeVar("T")


class Client:
    """A search Flow somewhere.

    ::

        client = Client("grpc://localhost:51000")
        client.index(docs, show_progress=True)   # ClipDocs with a picture, title and tags
        result = client.search("red rain boots", limit=20, filter="price < 30")
        for match in result.matches:
            print(match.score, match.id, match.text, match.tags)
        client.encode(["red rain boots"])        # float32 [1, D]

    All calls raise the class of `cliptune.errors` that the server raised, and `Unavailable`
    if it can't be reached or does not answer within `timeout` seconds. May be used by many
    threads, and as a context manager.
    """

    def __init__(
        self,
        address: str,
        timeout: float = 300.0,
        api_key: str | None = None,
        ca_file: str | None = None,
    ) -> None:
        """Take the server at `address`.

        Args:
            address: `grpc://host:port` or `http://host:port`; with TLS `grpcs://` or `https://`.
            timeout: seconds in which an answer must come.
            api_key: None: CLIPTUNE_API_KEY, or none.
            ca_file: certificates (PEM) to trust with TLS, where the server's is of your own
                making; None: CLIPTUNE_CA_FILE, or those that everybody trusts.

        Raises:
            BadInput: the address is of another form, or the certificates can't be read.
        """
        scheme = address.split("://")[0]
        if scheme in ("grpc", "grpcs"):
            self._transport: GrpcTransport | HttpTransport = GrpcTransport(
                address, timeout, api_key, ca_file
            )
        elif scheme in ("http", "https"):
            self._transport = HttpTransport(address, timeout, api_key, ca_file)
        else:
            raise BadInput(f"address {address!r}: expected grpc://host:port or http://host:port")
        self.address = address

    def __repr__(self) -> str:
        """`Client('grpc://localhost:51000')`."""
        return f"Client({self.address!r})"

    def __enter__(self) -> Client:
        """The client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    @overload
    def encode(self, data: Sequence[str], batch_size: int = ...) -> NDArray[np.float32]: ...
    @overload
    def encode(self, data: DocList[ClipDoc], batch_size: int = ...) -> DocList[ClipDoc]: ...
    def encode(
        self, data: Sequence[str] | DocList[ClipDoc], batch_size: int = 64
    ) -> NDArray[np.float32] | DocList[ClipDoc]:
        """Embed texts and pictures.

        A list of texts gives an array float32 [N, D]; documents come back as the same objects,
        in their order, with `embedding` and `model_digest` set: by their text if they have one,
        else by their picture.

        Raises:
            BadInput, BadImage: a document can't be embedded; the message has its id.
        """
        if isinstance(data, str | bytes):
            raise BadInput("encode takes a list: put the one text into [ ]")
        if not isinstance(data, DocList):
            items = list(data)
            for position, text in enumerate(items):
                if not isinstance(text, str):
                    raise BadInput(f"item {position} is a {type(text).__name__}, expected a str")
            docs = DocList[ClipDoc]([ClipDoc(text=text) for text in items])
            self.encode(docs, batch_size)
            vectors = [np.asarray(doc.embedding, np.float32) for doc in docs]
            return np.stack(vectors) if vectors else np.empty((0, 0), np.float32)
        for batch in _batches(data, batch_size):
            sent = DocList[ClipDoc]([_to_encode(doc) for doc in batch])
            for doc, found in zip(
                batch, self._transport.post("/encode", sent, None, ClipDoc), strict=True
            ):
                doc.embedding, doc.model_digest = found.embedding, found.model_digest
        return data

    def index(
        self, docs: Iterable[ClipDoc], batch_size: int = 64, show_progress: bool = False
    ) -> int:
        """Embed and store pictures with their titles and tags; the same id replaces.

        Pictures given by a local path are read here. Batches are sent one after the other; if one
        is refused, those before it are stored.

        Returns: how many documents were stored.

        Raises:
            BadInput, BadImage: a document has no picture, or one that can't be decoded.
            ModelMismatch: the index holds embeddings of another model.
        """
        count = 0
        total = len(docs) if isinstance(docs, Sized) else None
        for batch in _batches(_progress(docs, total, show_progress), batch_size, _to_index):
            sent = DocList[ClipDoc](batch)
            count += len(self._transport.post("/index", sent, None, ClipDoc))
        return count

    def search(
        self,
        query: str | bytes | ClipDoc,
        limit: int = 10,
        offset: int = 0,
        filter: str | dict[str, Any] | None = None,
        score_threshold: float | None = None,
        exact: bool = False,
    ) -> SearchResult:
        """The pictures nearest to a text, or to a picture (bytes).

        Args:
            query: a text, an encoded picture, or a document with one of them.
            limit: at most so many matches.
            offset: how many of the best to leave out, for paging.
            filter: over tags: `price < 30 and brand == 'Nordvik'`.
            score_threshold: only matches of at least this cosine similarity.
            exact: compare with every document, without the ANN index.

        Raises:
            BadFilter: the filter is wrong; the message gives the position.
            ModelMismatch: the index holds embeddings of another model.
        """
        if isinstance(query, str):
            query = ClipDoc(text=query)
        elif isinstance(query, bytes):
            query = ClipDoc(image=query)
        elif not isinstance(query, ClipDoc):
            raise BadInput(f"query is a {type(query).__name__}: a text, bytes or a ClipDoc")
        parameters: dict[str, Any] = {"limit": limit, "offset": offset}
        if exact:
            parameters["exact"] = True
        if filter is not None:
            parameters["filter"] = filter
        if score_threshold is not None:
            parameters["score_threshold"] = score_threshold
        docs = DocList[ClipDoc]([_to_encode(query)])
        return self._transport.post("/search", docs, parameters, SearchResult)[0]

    def get(self, ids: Iterable[str], include_embedding: bool = False) -> DocList[ClipDoc]:
        """The stored documents with these ids, without their pictures, in the order asked for.

        Ids that aren't there are left out. `image_digest` tells the pictures apart.
        """
        found = DocList[ClipDoc]()
        for batch in _batches((ClipDoc(id=one) for one in ids), MAX_DOCS):
            parameters = {"include_embedding": include_embedding}
            found.extend(self._transport.post("/get", DocList[ClipDoc](batch), parameters, ClipDoc))
        return found

    def delete(
        self,
        ids: str | Iterable[str] | None = None,
        filter: str | dict[str, Any] | None = None,
    ) -> int:
        """Delete documents by ids, or those that a filter holds for; returns how many.

        Raises:
            BadInput: neither is given.
            BadFilter: the filter is wrong.
        """
        parameters: dict[str, Any] = {}
        if ids is not None:
            parameters["ids"] = [ids] if isinstance(ids, str) else [str(i) for i in ids]
        if filter is not None:
            parameters["filter"] = filter
        return int(self._report("/delete", parameters)["deleted"])

    def clear(self) -> int:
        """Delete everything in the index; returns how many documents there were."""
        return int(self._report("/clear")["deleted"])

    def status(self) -> dict[str, Any]:
        """`version`, `model` (digest, output_dim), `index` (rows, state, …), `documents`."""
        if isinstance(self._transport, HttpTransport):
            return self._transport.json("/status", {})
        reports = self._transport.post("/status", DocList[ClipDoc](), None, Report)
        return status_of({report.source: report.values for report in reports})

    def _report(self, endpoint: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        if isinstance(self._transport, HttpTransport):
            return self._transport.json(endpoint, parameters or {})
        return self._transport.post(endpoint, DocList[ClipDoc](), parameters, Report)[0].values


def _to_encode(doc: ClipDoc) -> ClipDoc:
    """What the server needs of a document to embed it."""
    if has_text(doc):
        return ClipDoc(id=doc.id, text=doc.text)
    has_image = doc.image is not None or doc.uri
    return ClipDoc(id=doc.id, image=image_bytes(doc, allow_files=True) if has_image else None)


def _to_index(doc: ClipDoc) -> ClipDoc:
    has_image = doc.image is not None or doc.uri
    shown = doc.uri if doc.uri and not doc.uri.startswith("data:") else None
    return ClipDoc(
        id=doc.id,
        text=doc.text,
        image=image_bytes(doc, allow_files=True) if has_image else None,
        uri=shown,
        label=doc.label,
        tags=doc.tags,
    )


def _batches(
    docs: Iterable[ClipDoc], batch_size: int, prepare: Any = None
) -> Iterator[list[ClipDoc]]:
    if not 1 <= batch_size <= MAX_DOCS:
        raise BadInput(f"batch_size is {batch_size}: expected 1 to {MAX_DOCS}")
    batch: list[ClipDoc] = []
    size = 0
    for doc in docs:
        ready = prepare(doc) if prepare else doc
        weight = len(ready.image or b"")
        if batch and (len(batch) >= batch_size or size + weight > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(ready)
        size += weight
    if batch:
        yield batch


def _progress(docs: Iterable[T], total: int | None, show: bool) -> Iterator[T]:
    if not show:
        yield from docs
        return
    from rich.progress import track

    yield from track(docs, "indexing", total=total)
