"""`Client`: a search Flow over gRPC or HTTP, with the same calls and the same errors."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar, Unpack, overload

from docarray import DocList

from cliptune.client import calls, inputs, messages, profiling
from cliptune.client.async_client import AsyncClient
from cliptune.client.base import BaseClient
from cliptune.client.batching import BatchedCall, D, SendingOptions, run_at_once, run_batches
from cliptune.client.calls import Matching, Query, Rows, SearchOptions, Updated, Weighted
from cliptune.client.inputs import Content, Filter
from cliptune.client.messages import Call
from cliptune.documents import ClipDoc, RankDoc, SearchResult
from cliptune.feedback.records import Event

R = TypeVar("R")


class Client(BaseClient):
    """A search Flow somewhere.

    ::

        client = Client("grpc://localhost:51000")
        client.index(docs, show_progress=True)   # ClipDocs with a picture, title and tags
        result = client.search("red rain boots", limit=20, filter="price < 30")
        for match in result.matches:
            print(match.score, match.id, match.text, match.tags)
        client.encode(["red rain boots", "photos/boots.jpg"])   # float32 [2, D]
        await client.asearch("red rain boots")   # aencode, aindex, asearch, arank

    `AsyncClient` has all of these calls as coroutines.

    What takes many items takes any iterable, generators too, and sends them in batches, several at
    once. See `inputs.to_doc` for what an item may be, and `SendingOptions` for the options that all
    of these calls take: `prefetch`, `show_progress`, `parameters`, `on_done`, `on_error`,
    `on_always`.

    All calls raise the class of `cliptune.errors` that the server raised, and `Unavailable` if it
    can't be reached or does not answer within `timeout` seconds. Calls that may be repeated safely
    are, up to `retries` times, if the server can't be reached or is overloaded: all but `delete`
    and `clear`. May be used by many threads, and as a context manager; a call after `close` raises
    `NotReady`.

    May be used by other processes: forked ones, and those that it is pickled for, make connections
    of their own. An `api_key` is never in a pickle: what is unpickled has it in this process, in
    those forked from it, and in those that multiprocessing starts with the client among their
    arguments; anywhere else it takes that process' CLIPTUNE_API_KEY. All else that a client does is
    by its arguments alone: `Client.from_environment()` reads the environment.
    """

    def __enter__(self) -> Client:
        """The client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection; calls that come after it raise `NotReady`."""
        self._transport.close()

    @overload
    def encode(
        self,
        data: DocList[ClipDoc] | Iterable[ClipDoc],
        batch_size: int = ...,
        **options: Unpack[SendingOptions],
    ) -> DocList[ClipDoc]: ...
    @overload
    def encode(
        self,
        data: Iterable[Content],
        batch_size: int = ...,
        **options: Unpack[SendingOptions],
    ) -> Rows: ...
    @overload
    def encode(
        self,
        data: Iterable[Query],
        batch_size: int = ...,
        **options: Unpack[SendingOptions],
    ) -> Rows | DocList[ClipDoc]: ...
    def encode(
        self,
        data: Iterable[Query],
        batch_size: int = 64,
        **options: Unpack[SendingOptions],
    ) -> Rows | DocList[ClipDoc] | None:
        """Embed texts and pictures.

        Documents come back as the same objects, in their order, with `embedding` and `model_digest`
        set: by their text if they have one, else by their picture. Anything else gives an array
        float32 [N, D] in the order of the items; with `parameters={"output_dtype": "int8"}` int8
        [N, D], with `ubinary` uint8 [N, D / 8] (see `quantize_embeddings`). With `on_done`, nothing
        is returned.

        Args:
            data: texts, pictures' paths, `data:` URIs, bytes, PIL images, arrays of pixels; or
                documents.
            batch_size: items of a request, at most.
            options: see `SendingOptions`. With `on_error`, the rows of what failed are NaN, and
                documents that failed have no embedding.

        Raises:
            BadInput, BadImage: an item can't be embedded; `position` is its place.
        """
        return self._many(calls.encode(data, batch_size, options))

    def rank(
        self, docs: Iterable[RankDoc], **options: Unpack[SendingOptions]
    ) -> DocList[RankDoc] | None:
        """Compare each document with its own matches: texts with pictures, or the reverse.

        ::

            asked = RankDoc(image=photo, matches=[RankMatch(text=t) for t in ("boots", "a hat")])
            for match in client.rank([asked])[0].matches:   # best first
                print(match.clip_score, match.clip_score_cosine, match.text)

        Returns new documents in the order of the given ones; with `on_done` nothing. Those that
        `on_error` was told of are left out.
        """
        return self._many(calls.rank(docs, options))

    def index(
        self, docs: Iterable[Query], batch_size: int = 64, **options: Unpack[SendingOptions]
    ) -> int:
        """Embed and store pictures with their titles and tags; the same id replaces.

        Pictures given by a local path are read here. Batches are sent one after the other unless
        `prefetch` says otherwise; if one is refused, those before it are stored. With `on_error`
        the good documents of each batch are stored.

        Returns: how many documents were stored.

        Raises:
            BadInput, BadImage: a document has no picture, or one that can't be decoded.
            ModelMismatch: the index holds embeddings of another model.
        """
        return self._many(calls.index(docs, batch_size, options))

    def update(self, docs: Iterable[ClipDoc], batch_size: int = 64) -> Updated:
        """Change stored documents: what a document has replaces what is stored under its id.

        A picture replaces the picture, a text the title; tags are merged, and None removes one.

        Returns: `updated`, how many were there, and `missing`, the ids that weren't.
        """
        inputs.check_several(docs, "update")
        total = Updated(updated=0, missing=[])
        for batch in inputs.batches_of(docs, inputs.to_change, batch_size, self.max_docs):
            total = calls.joined(total, self._ask(calls.update(batch)))
        return total

    @overload
    def search(  # type: ignore[overload-overlap]  # a text is an iterable of texts, too
        self,
        query: Query | Weighted | None,
        limit: int = ...,
        **options: Unpack[SearchOptions],
    ) -> SearchResult: ...
    @overload
    def search(
        self,
        query: Iterable[Query],
        limit: int = ...,
        **options: Unpack[SearchOptions],
    ) -> DocList[SearchResult]: ...
    def search(
        self,
        query: Query | Weighted | Iterable[Query] | None,
        limit: int = 10,
        **options: Unpack[SearchOptions],
    ) -> SearchResult | DocList[SearchResult]:
        """The pictures nearest to a text, or to a picture; of several queries, for each one.

        Several texts and pictures are sought together by a mapping with their weights, or by a
        `QueryDoc`; stored documents by `like` and `unlike`::

            client.search({"red t-shirt": 1, Path("mine.jpg"): 1, "buttons": -0.4})
            client.search("in green", like="1234")
            client.search(None, like=["1234", "77"], unlike="99")

        Args:
            query: a text, a picture (encoded bytes, a `pathlib.Path`, a PIL image, pixels), or a
                document; or an iterable of those, where texts may also be pictures' paths and
                `data:` URIs. Or a mapping of such texts and pictures to weights from -100 to 100;
                or None, with `like`.
            limit: at most so many matches.
            options: `filter`, `offset`, `score_threshold`, `min_relevance`, `exact`, `model`,
                `include_total`, `record`, `like` and `unlike`; `hybrid`, `alpha` and `fusion` to
                search by words too; `group_by`, `sort_by`, `formula`, `diversity` and `candidates`
                for what is made of the nearest; `facets` to count tags' values; and for several
                queries those of sending: see `SearchOptions`.

        Raises:
            NotFound: there is no such model.
            BadInput: parts mean nothing together, or an id isn't in the index.
            BadFilter: the filter is wrong; the message gives the position.
            ModelMismatch: the index holds embeddings of another model.
            NotReady: `min_relevance`, and the model served is not calibrated.
        """
        return self._many(calls.search(query, limit, options))

    def feedback(self, search: SearchResult | str, event: Event, ids: str | Iterable[str]) -> int:
        """Tell a server that records searches what somebody chose of an answer.

        ::

            result = client.search("red rain boots")
            client.feedback(result, "click", result.matches[2].id)

        Args:
            search: the answer, or its `search_id`.
            event: `click`, `cart` or `purchase`.
            ids: the documents, at most 100.

        Returns: of how many documents it was recorded.

        Raises:
            BadInput: the search was not recorded, or there is no such event.
            NotReady: the server records nothing.
            Overloaded: too much waits to be recorded.
        """
        return self._ask(calls.feedback(search, event, ids))

    def get(
        self,
        ids: str | Iterable[str],
        include_embedding: bool = False,
        include_image: bool = False,
    ) -> DocList[ClipDoc]:
        """The stored documents with these ids, in the order asked for.

        Ids that aren't there are left out. `image_digest` tells the pictures apart; the pictures
        themselves come with `include_image`.
        """
        return run_at_once(
            calls.get(self._asked, ids, include_embedding, include_image, self.max_docs)
        )

    def delete(self, ids: str | Iterable[str] | None = None, filter: Filter | None = None) -> int:
        """Delete documents by ids, or those that a filter holds for; returns how many.

        What of the filter can never hold is a warning in the log; `matching` tells it before.

        Raises:
            BadInput: neither is given.
            BadFilter: the filter is wrong.
        """
        return self._ask(calls.delete(ids, filter))

    def matching(
        self, ids: str | Iterable[str] | None = None, filter: Filter | None = None
    ) -> Matching:
        """How many documents `delete` would delete, and what there is to say of the filter.

        Raises:
            BadInput, BadFilter: as `delete`.
        """
        return self._ask(calls.matching(ids, filter))

    def ids(self, after: str | None = None, page: int = 10_000) -> Iterator[str]:
        """The ids of all stored documents in ascending order, fetched page by page.

        Args:
            after: leave out the ids up to this one.
            page: ids in a request, at most 10,000.
        """
        while listed := self._ask(calls.page_of_ids(after, page)):
            yield from listed
            if len(listed) < page:
                return
            after = listed[-1]

    def clear(self) -> int:
        """Delete everything in the index; returns how many documents there were."""
        return self._ask(calls.clear())

    def tags(self) -> dict[str, Any]:
        """Which tags the stored documents have.

        `tags` lists them, those that most documents have first: `name`, `types` (number, text,
        boolean), `documents` and `coverage` (how many have it, and their share), `distinct`
        values, `examples` with their counts, and of numbers `min` and `max`. `looked_at` says of
        how many of the `documents` this is told.
        """
        return self._ask(messages.tags_known())

    def status(self) -> dict[str, Any]:
        """`version`, `model` (digest, output_dim), `index` (rows, state, …), `documents`."""
        return self._ask(messages.status())

    def profile(self, content: str | bytes = "", show: bool = True) -> dict[str, float]:
        """Where the time of one call goes, in milliseconds; printed as a tree if `show`.

        Without content nothing is embedded: it measures the network and the way to the executors.
        """
        call, began = profiling.call(content), time.perf_counter()
        routes = self._transport.ask(call)
        spent = profiling.parts((time.perf_counter() - began) * 1000, routes)
        if show:
            profiling.show(spent)
        return spent

    async def aencode(
        self,
        data: Iterable[Query] | AsyncIterable[Query],
        batch_size: int = 64,
        **options: Unpack[SendingOptions],
    ) -> Rows | DocList[ClipDoc] | None:
        """As `encode`, on an event loop: `AsyncClient.encode`."""
        return await AsyncClient.of(self).encode(data, batch_size, **options)

    async def arank(
        self,
        docs: Iterable[RankDoc] | AsyncIterable[RankDoc],
        **options: Unpack[SendingOptions],
    ) -> DocList[RankDoc] | None:
        """As `rank`."""
        return await AsyncClient.of(self).rank(docs, **options)

    async def aindex(
        self,
        docs: Iterable[Query] | AsyncIterable[Query],
        batch_size: int = 64,
        **options: Unpack[SendingOptions],
    ) -> int:
        """As `index`."""
        return await AsyncClient.of(self).index(docs, batch_size, **options)

    async def asearch(
        self,
        query: Query | Weighted | Iterable[Query] | AsyncIterable[Query] | None,
        limit: int = 10,
        **options: Unpack[SearchOptions],
    ) -> SearchResult | DocList[SearchResult]:
        """As `search`."""
        return await AsyncClient.of(self).search(query, limit, **options)

    def _many(self, many: BatchedCall[D, R]) -> R:
        self._transport.check_open()
        return run_batches(many, self._asked, self.max_docs)

    def _ask(self, call: Call[R]) -> R:
        if call.repeatable:
            return self._retries.call(partial(self._transport.ask, call))
        self._transport.touch()
        return self._transport.ask(call)

    async def _asked(self, call: Call[R]) -> R:
        """As `_ask`, for what is written as coroutines."""
        return self._ask(call)
