"""`AsyncClient`: the calls of `Client` on an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar, Unpack, overload

from docarray import DocList

from cliptune.client import calls, inputs, messages, profiling
from cliptune.client.base import BaseClient
from cliptune.client.batching import BatchedCall, D, SendingOptions, arun_batches
from cliptune.client.calls import Matching, Query, Rows, SearchOptions, Updated, Weighted
from cliptune.client.inputs import Content, Filter
from cliptune.client.messages import Call
from cliptune.documents import ClipDoc, RankDoc, SearchResult
from cliptune.feedback.records import Event

R = TypeVar("R")


class AsyncClient(BaseClient):
    """The calls of `Client` as coroutines: the same answers, errors and repetitions.

    ::

        async with AsyncClient("grpc://localhost:51000") as client:
            await client.index(docs)
            results = await asyncio.gather(
                *(client.search(text, limit=20) for text in ("red rain boots", "a blue hat"))
            )
            async for identity in client.ids():
                print(identity)

    No thread waits for an answer: hundreds of calls may be under way at once. A call that is
    cancelled is cancelled at the server too. What takes items takes asynchronous iterables as well;
    others are iterated over beside the loop, where files are read and pictures packed too.
    Callbacks are called on the loop, and awaited if they are coroutine functions.

    One client may be used by several event loops, one after the other or each in a thread of its
    own.
    """

    @classmethod
    def of(cls, client: BaseClient) -> AsyncClient:
        """One that shares the connections of `client`."""
        made = cls.__new__(cls)
        made.__dict__.update(client.__dict__)
        return made

    async def __aenter__(self) -> AsyncClient:
        """The client itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self.close()

    async def close(self) -> None:
        """As `Client.close`."""
        await self._transport.aclose()

    @overload
    async def encode(
        self,
        data: Iterable[ClipDoc] | AsyncIterable[ClipDoc],
        batch_size: int = ...,
        **options: Unpack[SendingOptions],
    ) -> DocList[ClipDoc]: ...
    @overload
    async def encode(
        self,
        data: Iterable[Content] | AsyncIterable[Content],
        batch_size: int = ...,
        **options: Unpack[SendingOptions],
    ) -> Rows: ...
    @overload
    async def encode(
        self,
        data: Iterable[Query] | AsyncIterable[Query],
        batch_size: int = ...,
        **options: Unpack[SendingOptions],
    ) -> Rows | DocList[ClipDoc]: ...
    async def encode(
        self,
        data: Iterable[Query] | AsyncIterable[Query],
        batch_size: int = 64,
        **options: Unpack[SendingOptions],
    ) -> Rows | DocList[ClipDoc] | None:
        """As `Client.encode`."""
        return await self._many(calls.encode(data, batch_size, options))

    async def rank(
        self, docs: Iterable[RankDoc] | AsyncIterable[RankDoc], **options: Unpack[SendingOptions]
    ) -> DocList[RankDoc] | None:
        """As `Client.rank`."""
        return await self._many(calls.rank(docs, options))

    async def index(
        self,
        docs: Iterable[Query] | AsyncIterable[Query],
        batch_size: int = 64,
        **options: Unpack[SendingOptions],
    ) -> int:
        """As `Client.index`."""
        return await self._many(calls.index(docs, batch_size, options))

    async def update(
        self, docs: Iterable[ClipDoc] | AsyncIterable[ClipDoc], batch_size: int = 64
    ) -> Updated:
        """As `Client.update`."""
        inputs.check_several(docs, "update")
        total = Updated(updated=0, missing=[])
        async with aclosing(
            inputs.abatches_of(docs, inputs.to_change, batch_size, self.max_docs)
        ) as batches:
            async for batch in batches:
                total = calls.joined(total, await self._ask(calls.update(batch)))
        return total

    @overload
    async def search(  # type: ignore[overload-overlap]  # a text is an iterable of texts, too
        self,
        query: Query | Weighted | None,
        limit: int = ...,
        **options: Unpack[SearchOptions],
    ) -> SearchResult: ...
    @overload
    async def search(
        self,
        query: Iterable[Query] | AsyncIterable[Query],
        limit: int = ...,
        **options: Unpack[SearchOptions],
    ) -> DocList[SearchResult]: ...
    async def search(
        self,
        query: Query | Weighted | Iterable[Query] | AsyncIterable[Query] | None,
        limit: int = 10,
        **options: Unpack[SearchOptions],
    ) -> SearchResult | DocList[SearchResult]:
        """As `Client.search`."""
        return await self._many(calls.search(query, limit, options))

    async def feedback(
        self, search: SearchResult | str, event: Event, ids: str | Iterable[str]
    ) -> int:
        """As `Client.feedback`."""
        return await self._ask(calls.feedback(search, event, ids))

    async def get(
        self,
        ids: str | Iterable[str],
        include_embedding: bool = False,
        include_image: bool = False,
    ) -> DocList[ClipDoc]:
        """As `Client.get`."""
        return await calls.get(self._ask, ids, include_embedding, include_image, self.max_docs)

    async def delete(
        self, ids: str | Iterable[str] | None = None, filter: Filter | None = None
    ) -> int:
        """As `Client.delete`."""
        return await self._ask(calls.delete(ids, filter))

    async def matching(
        self, ids: str | Iterable[str] | None = None, filter: Filter | None = None
    ) -> Matching:
        """As `Client.matching`."""
        return await self._ask(calls.matching(ids, filter))

    async def ids(self, after: str | None = None, page: int = 10_000) -> AsyncIterator[str]:
        """As `Client.ids`."""
        while listed := await self._ask(calls.page_of_ids(after, page)):
            for one in listed:
                yield one
            if len(listed) < page:
                return
            after = listed[-1]

    async def clear(self) -> int:
        """As `Client.clear`."""
        return await self._ask(calls.clear())

    async def tags(self) -> dict[str, Any]:
        """As `Client.tags`."""
        return await self._ask(messages.tags_known())

    async def status(self) -> dict[str, Any]:
        """As `Client.status`."""
        return await self._ask(messages.status())

    async def profile(self, content: str | bytes = "", show: bool = True) -> dict[str, float]:
        """As `Client.profile`."""
        call = await asyncio.to_thread(profiling.call, content)
        began = time.perf_counter()
        routes = await self._transport.aask(call)
        spent = profiling.parts((time.perf_counter() - began) * 1000, routes)
        if show:
            profiling.show(spent)
        return spent

    async def _many(self, many: BatchedCall[D, R]) -> R:
        self._transport.check_open()
        return await arun_batches(many, self._ask, self.max_docs)

    async def _ask(self, call: Call[R]) -> R:
        if call.repeatable:
            return await self._retries.acall(partial(self._transport.aask, call))
        await self._transport.atouch()
        return await self._transport.aask(call)
