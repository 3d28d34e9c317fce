"""`Client`: a search Flow over gRPC or HTTP, with the same calls and the same errors."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing.context
import os
import threading
import uuid
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any, TypeVar, overload

import numpy as np
from docarray import DocList
from numpy.typing import NDArray

from cliptune.client import inputs as items
from cliptune.client import profiling
from cliptune.client.batching import (
    Answered,
    Sending,
    from_async,
    progress,
    repeated,
    rows_of,
    run_batches,
)
from cliptune.client.transport import GrpcTransport, HttpTransport, to_item
from cliptune.documents import ClipDoc, RankDoc, SearchResult
from cliptune.errors import BadInput
from cliptune.gateway.dispatch import status_of
from cliptune.protocol.status import Report, by_source
from cliptune.settings import current

log = logging.getLogger("cliptune")
T = TypeVar("T")
_ASYNC_CALLS = 32
"""Asynchronous calls of one client that are under way at once."""
_KEYS: dict[str, str] = {}
"""API keys of pickled clients, by what their pickles hold instead."""


@dataclass(frozen=True)
class Matching:
    """What a deletion would do."""

    documents: int
    """How many documents it would delete."""
    warnings: list[str]
    """What of the filter can never hold."""


def _chosen(ids: str | Iterable[str] | None, filter: str | dict[str, Any] | None) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    if ids is not None:
        parameters["ids"] = items.id_list(ids)
    if filter is not None:
        parameters["filter"] = items.plain(filter)
    return parameters


class Client:
    """A search Flow somewhere.

    ::

        client = Client("grpc://localhost:51000")
        client.index(docs, show_progress=True)   # ClipDocs with a picture, title and tags
        result = client.search("red rain boots", limit=20, filter="price < 30")
        for match in result.matches:
            print(match.score, match.id, match.text, match.tags)
        client.encode(["red rain boots", "photos/boots.jpg"])   # float32 [2, D]
        await client.asearch("red rain boots")   # aencode, aindex, asearch, arank

    What takes many items takes any iterable, generators too, and sends them in batches, several at
    once. See `client_items.to_doc` for what an item may be, and `client_batches.Sending` for the
    options that all of these calls take: `batch_size`, `prefetch`, `show_progress`, `parameters`,
    `on_done`, `on_error`, `on_always`.

    All calls raise the class of `cliptune.errors` that the server raised, and `Unavailable` if it
    can't be reached or does not answer within `timeout` seconds. Calls that may be repeated safely
    are, up to `retries` times, if the server can't be reached or is overloaded: all but `delete`
    and `clear`. May be used by many threads, and as a context manager; a call after `close` raises
    `NotReady`.

    May be used by other processes: forked ones, and those that it is pickled for, make connections
    of their own. An `api_key` is never in a pickle: what is unpickled has it in this process, in
    those forked from it, and in those that multiprocessing starts with the client among their
    arguments; anywhere else it takes that process' CLIPTUNE_API_KEY.
    """

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
        scheme = address.split("://")[0]
        if scheme in ("grpc", "grpcs"):
            self._transport: GrpcTransport | HttpTransport = GrpcTransport(
                address, timeout, api_key, ca_file
            )
        elif scheme in ("http", "https"):
            self._transport = HttpTransport(address, timeout, api_key, ca_file)
        else:
            raise BadInput(f"address {address!r}: expected grpc://host:port or http://host:port")
        self.address, self.timeout, self.retries = address, timeout, retries
        self._api_key, self._ca_file = api_key, ca_file
        self._token = uuid.uuid4().hex
        self._guard = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._threads_of = 0

    def __repr__(self) -> str:
        """`Client('grpc://localhost:51000')`."""
        return f"Client({self.address!r})"

    def __reduce__(self) -> Any:
        """Pickle what it takes to make it again, but for the API key."""
        settings = {
            "address": self.address,
            "timeout": self.timeout,
            "ca_file": self._ca_file,
            "retries": self.retries,
        }
        if self._api_key is None:
            return _restored, (settings, None, None)
        if multiprocessing.context.get_spawning_popen() is not None:
            return _restored, (settings, self._api_key, None)  # through a pipe, to our own child
        _KEYS[self._token] = self._api_key
        return _restored, (settings, None, self._token)

    def __enter__(self) -> Client:
        """The client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection; calls that come after it raise `NotReady`."""
        if self._threads is not None:
            self._threads.shutdown(wait=False)
        self._transport.close()

    @overload
    def encode(
        self, data: DocList[ClipDoc], batch_size: int = ..., **options: Any
    ) -> DocList[ClipDoc]: ...
    @overload
    def encode(self, data: Iterable[Any], batch_size: int = ..., **options: Any) -> Any: ...
    def encode(self, data: Iterable[Any], batch_size: int = 64, **options: Any) -> Any:
        """Embed texts and pictures.

        Documents come back as the same objects, in their order, with `embedding` and `model_digest`
        set: by their text if they have one, else by their picture. Anything else gives an array
        float32 [N, D] in the order of the items. With `on_done`, nothing is returned.

        Args:
            data: texts, pictures' paths, `data:` URIs, bytes, PIL images, arrays of pixels; or
                documents.
            batch_size: items of a request, at most.
            options: see `client_batches.Sending`. With `on_error`, the rows of what failed are
                NaN, and documents that failed have no embedding.

        Raises:
            BadInput, BadImage: an item can't be embedded; `position` is its place.
        """
        sending = Sending(batch_size, **options)
        kept: list[ClipDoc] = []
        rows, total = False, len(data) if isinstance(data, Sized) else None
        if not isinstance(data, DocList):
            iterator = items.checked(data, "encode")
            first = list(islice(iterator, 1))
            rows = not (first and isinstance(first[0], ClipDoc))
            data = chain(first, iterator)
        for answered in self._batches("/encode", data, items.to_encode, ClipDoc, sending, total):
            for item in answered.items:
                if one := answered.found.get(item.position):
                    item.doc.embedding, item.doc.model_digest = one.embedding, one.model_digest
            if sending.on_done is None:
                kept.extend(item.doc for item in answered.items)
        if sending.on_done is not None:
            return None
        if isinstance(data, DocList):
            return data
        return rows_of(kept) if rows else DocList[ClipDoc](kept)

    def rank(self, docs: Iterable[RankDoc], **options: Any) -> DocList[RankDoc] | None:
        """Compare each document with its own matches: texts with pictures, or the reverse.

        ::

            asked = RankDoc(image=photo, matches=[RankMatch(text=t) for t in ("boots", "a hat")])
            for match in client.rank([asked])[0].matches:   # best first
                print(match.clip_score, match.clip_score_cosine, match.text)

        Returns new documents in the order of the given ones; with `on_done` nothing. Those that
        `on_error` was told of are left out.
        """
        sending = Sending(**options)
        ranked = DocList[RankDoc]()
        for answered in self._batches("/rank", docs, items.to_rank, RankDoc, sending):
            if sending.on_done is None:
                ranked.extend(_in_order(answered))
        return ranked if sending.on_done is None else None

    def index(self, docs: Iterable[Any], batch_size: int = 64, **options: Any) -> int:
        """Embed and store pictures with their titles and tags; the same id replaces.

        Pictures given by a local path are read here. Batches are sent one after the other unless
        `prefetch` says otherwise; if one is refused, those before it are stored. With `on_error`
        the good documents of each batch are stored.

        Returns: how many documents were stored.

        Raises:
            BadInput, BadImage: a document has no picture, or one that can't be decoded.
            ModelMismatch: the index holds embeddings of another model.
        """
        sending = Sending(batch_size, **{"prefetch": 1, **options})
        stored = self._batches("/index", docs, items.to_store, ClipDoc, sending)
        return sum(len(answered.found) for answered in stored)

    def update(self, docs: Iterable[ClipDoc], batch_size: int = 64) -> dict[str, Any]:
        """Change stored documents: what a document has replaces what is stored under its id.

        A picture replaces the picture, a text the title; tags are merged, and None removes one.

        Returns: `updated`, how many were there, and `missing`, the ids that weren't.
        """
        total: dict[str, Any] = {"updated": 0, "missing": []}
        given = items.checked(docs, "update")
        changes = items.to_items(given, items.to_change, keep_errors=False)
        for batch in items.batches(changes, batch_size):
            sent = DocList[ClipDoc]([item.sent for item in batch])
            report = self._again(partial(self._report, "/update", None, sent))
            total["updated"] += int(report["updated"])
            total["missing"] += report["missing"]
        return total

    @overload
    def search(self, query: str | bytes | ClipDoc | NDArray, **options: Any) -> SearchResult: ...
    @overload
    def search(self, query: Iterable[Any], **options: Any) -> DocList[SearchResult]: ...
    def search(
        self,
        query: Any,
        limit: int = 10,
        offset: int = 0,
        filter: str | dict[str, Any] | None = None,
        score_threshold: float | None = None,
        exact: bool = False,
        model: str | None = None,
        include_total: bool = False,
        **options: Any,
    ) -> Any:
        """The pictures nearest to a text, or to a picture; of several queries, for each one.

        Args:
            query: a text, a picture (encoded bytes, a `pathlib.Path`, a PIL image, pixels), or a
                document; or an iterable of those, where texts may also be pictures' paths and
                `data:` URIs.
            limit: at most so many matches.
            offset: how many of the best to leave out, for paging.
            filter: over tags: `price < 30 and brand == 'Nordvik'`.
            score_threshold: only matches of at least this cosine similarity.
            exact: compare with every document, without the ANN index.
            model: of a `cliptune swap`: `current` (as without), `previous` or `next`.
            include_total: say in `total` of each result how many documents the filter leaves.
            options: for several queries, see `client_batches.Sending`.

        Raises:
            NotFound: there is no such model.
            BadFilter: the filter is wrong; the message gives the position.
            ModelMismatch: the index holds embeddings of another model.
        """
        parameters: dict[str, Any] = {"limit": limit, "offset": offset}
        if exact:
            parameters["exact"] = True
        if include_total:
            parameters["include_total"] = True
        if model is not None:
            parameters["model"] = model
        if filter is not None:
            parameters["filter"] = filter
        if score_threshold is not None:
            parameters["score_threshold"] = score_threshold
        one = items.is_single(query) or isinstance(query, np.ndarray)
        if isinstance(query, str):  # alone it is what somebody has typed
            query = ClipDoc(text=str(query))
        elif not one and not isinstance(query, Iterable):
            raise BadInput(f"query is a {type(query).__name__}: a text, a picture or a ClipDoc")
        sending = Sending(
            **{**options, "parameters": parameters | (options.get("parameters") or {})}
        )
        results = DocList[SearchResult]()
        queries = [query] if one else query
        for answered in self._batches("/search", queries, items.to_encode, SearchResult, sending):
            results.extend(_in_order(answered))
        return results[0] if one else results

    def get(self, ids: str | Iterable[str], include_embedding: bool = False) -> DocList[ClipDoc]:
        """The stored documents with these ids, without their pictures, in the order asked for.

        Ids that aren't there are left out. `image_digest` tells the pictures apart.
        """
        found = DocList[ClipDoc]()
        wanted = iter(items.id_list(ids))
        parameters = {"include_embedding": bool(include_embedding)}
        most = current().max_docs
        while part := DocList[ClipDoc](ClipDoc(id=one) for one in islice(wanted, most)):
            post = partial(self._transport.post, "/get", part, parameters, ClipDoc)
            found.extend(self._again(post))
        return found

    def delete(
        self,
        ids: str | Iterable[str] | None = None,
        filter: str | dict[str, Any] | None = None,
    ) -> int:
        """Delete documents by ids, or those that a filter holds for; returns how many.

        What of the filter can never hold is a warning in the log; `matching` tells it before.

        Raises:
            BadInput: neither is given.
            BadFilter: the filter is wrong.
        """
        report = self._once("/delete", _chosen(ids, filter))
        for sentence in report.get("warnings", ()):
            log.warning("%s: %s", filter, sentence)
        return int(report["deleted"])

    def matching(
        self,
        ids: str | Iterable[str] | None = None,
        filter: str | dict[str, Any] | None = None,
    ) -> Matching:
        """How many documents `delete` would delete, and what there is to say of the filter.

        Raises:
            BadInput, BadFilter: as `delete`.
        """
        asked = _chosen(ids, filter) | {"dry_run": True}
        report = self._again(partial(self._report, "/delete", asked))
        return Matching(int(report["matched"]), list(report.get("warnings", ())))

    def ids(self, after: str | None = None, page: int = 10_000) -> Iterator[str]:
        """The ids of all stored documents in ascending order, fetched page by page.

        Args:
            after: leave out the ids up to this one.
            page: ids in a request, at most 10,000.
        """
        while True:
            asked: dict[str, Any] = {"limit": page} | ({} if after is None else {"after": after})
            found = self._again(partial(self._ids, asked))
            yield from found
            if len(found) < page:
                return
            after = found[-1]

    def _ids(self, parameters: dict[str, Any]) -> list[str]:
        if isinstance(self._transport, HttpTransport):
            return list(self._transport.json("/ids", parameters)["ids"])
        found = self._transport.post("/ids", DocList[ClipDoc](), parameters, ClipDoc)
        return [str(doc.id) for doc in found]

    def clear(self) -> int:
        """Delete everything in the index; returns how many documents there were."""
        return int(self._once("/clear")["deleted"])

    def status(self) -> dict[str, Any]:
        """`version`, `model` (digest, output_dim), `index` (rows, state, …), `documents`."""
        if isinstance(self._transport, HttpTransport):
            return self._again(partial(self._transport.json, "/status", {}))
        post = partial(self._transport.post, "/status", DocList[ClipDoc](), None, Report)
        return status_of(by_source(self._again(post)))

    def profile(self, content: str | bytes = "", show: bool = True) -> dict[str, float]:
        """Where the time of one call goes, in milliseconds; printed as a tree if `show`.

        Without content nothing is embedded: it measures the network and the way to the executors.
        """
        doc = items.to_encode(items.to_doc(content, 0)) if content else None
        found = profiling.measure(self._transport, doc)
        if show:
            profiling.show(found)
        return found

    async def aencode(self, data: Iterable[Any] | AsyncIterable[Any], **options: Any) -> Any:
        """As `encode`; callbacks run in another thread."""
        return await self._beside(self.encode, data, options)

    async def arank(
        self, docs: Iterable[RankDoc] | AsyncIterable[RankDoc], **options: Any
    ) -> DocList[RankDoc] | None:
        """As `rank`."""
        return await self._beside(self.rank, docs, options)

    async def aindex(self, docs: Iterable[Any] | AsyncIterable[Any], **options: Any) -> int:
        """As `index`."""
        return await self._beside(self.index, docs, options)

    async def asearch(self, query: Any, **options: Any) -> Any:
        """As `search`."""
        return await self._beside(self.search, query, options)

    async def _beside(self, call: Callable[..., T], data: Any, options: dict[str, Any]) -> T:
        loop = asyncio.get_running_loop()
        given = from_async(data, loop) if isinstance(data, AsyncIterable) else data
        return await loop.run_in_executor(self._pool(), partial(call, given, **options))

    def _pool(self) -> ThreadPoolExecutor:
        """The threads of asynchronous calls, made when the first one comes."""
        self._transport.check_open()
        with self._guard:
            # A forked process has none of its parent's threads.
            if self._threads is None or self._threads_of != os.getpid():
                self._threads = ThreadPoolExecutor(
                    _ASYNC_CALLS, thread_name_prefix="cliptune-async"
                )
                self._threads_of = os.getpid()
            return self._threads

    def _batches(
        self,
        endpoint: str,
        data: Any,
        prepare: Any,
        kind: type[Any],
        sending: Sending,
        total: int | None = None,
    ) -> Iterator[Answered]:
        self._transport.check_open()
        given = items.checked(data, endpoint.strip("/"))
        total = len(data) if isinstance(data, Sized) else total
        shown = progress(given, total, endpoint, sending.show_progress)
        parameters = items.plain(sending.parameters)

        def send(batch: list[Any]) -> Any:
            of_kind: Any = DocList[type(batch[0])]  # type: ignore[misc]
            sent = of_kind(batch)
            post = partial(self._transport.post, endpoint, sent, parameters, kind)
            return self._again(post)

        ready = items.to_items(shown, prepare, keep_errors=sending.on_error is not None)
        for answered in run_batches(items.batches(ready, sending.batch_size), send, sending):
            yield answered
            if sending.on_done is not None and answered.found:
                sending.on_done(DocList[kind](_in_order(answered)))  # type: ignore[valid-type]

    def _again(self, call: Callable[[], T]) -> T:
        return repeated(call, self.retries, self.timeout)

    def _once(self, endpoint: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        """As `_report`, of a call that isn't repeated: its connection is looked at first."""
        self._transport.touch()
        return self._report(endpoint, parameters)

    def _report(
        self,
        endpoint: str,
        parameters: dict[str, Any] | None = None,
        docs: DocList[ClipDoc] | None = None,
    ) -> dict[str, Any]:
        if isinstance(self._transport, HttpTransport):
            body = {"data": [to_item(doc) for doc in docs]} if docs is not None else parameters
            return self._transport.json(endpoint, body or {})
        sent = DocList[ClipDoc]() if docs is None else docs
        return self._transport.post(endpoint, sent, parameters, Report)[0].values


def _in_order(answered: Answered) -> list[Any]:
    """The answers of a batch, in the order of its items."""
    return [answered.found[i.position] for i in answered.items if i.position in answered.found]


def _restored(settings: dict[str, Any], key: str | None, token: str | None) -> Client:
    """An unpickled client; see `Client`."""
    return Client(**settings, api_key=key or _KEYS.get(str(token)))
