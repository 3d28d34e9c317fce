"""`AsyncClient` beside `Client`: the same calls and answers, many at once, nothing left behind."""

from __future__ import annotations

import asyncio
import inspect
import json
import pickle
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from docarray import BaseDoc, DocList

import cliptune
from cliptune import errors
from cliptune.client.batching import Sending, SendingOptions
from cliptune.client.calls import SearchOptions
from cliptune.documents import ClipDoc, RankDoc, RankMatch
from cliptune.protocol.endpoints import SEARCH
from cliptune.serving import AsyncClient, Client
from tests.client.test_connections import Echo
from tests.pictures import COLOURS, picture, shop
from tests.server import Server

RED = picture(COLOURS["red"])


def public(kind: type) -> dict[str, Callable[..., object]]:
    methods = dict(inspect.getmembers(kind, inspect.isfunction))
    return {name: method for name, method in methods.items() if not name.startswith("_")}


def test_both_have_the_same_calls_with_the_same_parameters() -> None:
    ours, theirs = public(AsyncClient), public(Client)
    beside = {name for name in theirs if name.startswith("a") and name[1:] in theirs}
    assert beside == {"aencode", "aindex", "arank", "asearch"}
    assert ours.keys() == theirs.keys() - beside
    for name, method in theirs.items():
        twin = ours[name.removeprefix("a") if name in beside else name]
        given = inspect.signature(method).parameters.values()
        twins = inspect.signature(twin).parameters.values()
        assert [(p.name, p.kind, p.default) for p in given] == [
            (p.name, p.kind, p.default) for p in twins
        ], name
        # What is iterated over may be asynchronous there; all else is of the same types.
        for one, other in zip(given, twins, strict=True):
            if "AsyncIterable" not in str(other.annotation):
                assert one.annotation == other.annotation, f"{name}: {one.name}"
    assert inspect.signature(AsyncClient).parameters == inspect.signature(Client).parameters
    assert cliptune.AsyncClient is AsyncClient


def test_options_are_typed_and_have_their_defaults() -> None:
    fields = {name: str(kind) for name, kind in inspect.get_annotations(Sending).items()}
    assert fields.pop("batch_size") == "int"
    typed = inspect.get_annotations(SendingOptions)
    assert fields == {name: kind.__forward_arg__ for name, kind in typed.items()}
    of_search = inspect.get_annotations(SearchOptions).keys() - typed.keys()
    of_query = {"like", "unlike"}  # parts of the query itself
    assert of_search - of_query | {"limit"} == SEARCH.parameters.model_fields.keys()
    assert of_query <= of_search


def as_plain(value: Any) -> Any:
    """Comparable, to the last bit of embeddings and scores."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, BaseDoc):
        fields = {name: as_plain(getattr(value, name)) for name in type(value).model_fields}
        if type(value) is not ClipDoc:
            fields.pop("id")  # of queries it is made up
            fields.pop("search_id", None)  # of each search another one
        return fields
    return [as_plain(one) for one in value] if isinstance(value, DocList | list) else value


CALLS: dict[str, Callable[[Any], Any]] = {
    "index": lambda c: c.index(shop(), batch_size=4),
    "encode": lambda c: c.encode(["a red thing", RED]),
    "encode documents": lambda c: c.encode([ClipDoc(id="a", text="a"), ClipDoc(id="b", image=RED)]),
    "encode nothing": lambda c: c.encode([]),
    "search": lambda c: c.search(RED, limit=3, filter="price < 50", include_total=True),
    "several": lambda c: c.search(["a", RED], limit=2, batch_size=1, exact=True),
    "groups": lambda c: c.search(
        ["a", RED],
        group_by="colour",
        sort_by="price desc",
        candidates=5,
        include_total=True,
        facets={"colour": {"limit": 2}, "price": {"ranges": [10, 20]}},
    ),
    "formula": lambda c: c.search(RED, formula="score + 0.1 * log(1 + price)", facets=["prize"]),
    "diversity": lambda c: c.search(RED, diversity=0.5, filter="price < 50"),
    "two orders": lambda c: c.search(RED, diversity=0.5, sort_by="price"),
    "bad formula": lambda c: c.search(RED, formula="score +"),
    "bad facets": lambda c: c.search(RED, facets={"price": {"ranges": [3, 2]}}),
    "tags": lambda c: c.tags(),
    "rank": lambda c: c.rank([RankDoc(text="a", matches=[RankMatch(id="m", image=RED)])]),
    "get": lambda c: c.get(["shop/red", "none", "shop/blue"], include_embedding=True),
    "update": lambda c: c.update([ClipDoc(id="shop/red", text="new"), ClipDoc(id="none")]),
    "matching": lambda c: c.matching(filter="price >= 50 and shape == 3"),
    "delete": lambda c: c.delete(["shop/pink"]),
    "status": lambda c: c.status(),
    "bad filter": lambda c: c.search("x", filter="price <"),
    "bad picture": lambda c: c.encode(["a", b"junk"]),
    "one item": lambda c: c.encode("a"),
    "bad limit": lambda c: c.search("x", limit=0),
    "bad batch": lambda c: c.index(shop(), batch_size=0),
    "clear": lambda c: c.clear(),
}


@pytest.mark.e2e
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_the_same_answers_and_errors(server: Server, scheme: str) -> None:
    address = getattr(server, scheme)

    def outcome(call: Callable[[], Any]) -> Any:
        try:
            return as_plain(call())
        except errors.CliptuneError as error:
            return told(error)

    def told(error: errors.CliptuneError) -> Any:  # ids of what is no document are made up
        return type(error), re.sub("id '[0-9a-f]{32}'", "id", str(error)), error.position

    def steady(status: Any) -> Any:  # counters go up
        if isinstance(status, dict) and "model" in status:
            return {"documents": status["documents"], "keys": sorted(status)}
        return status

    with Client(address, timeout=60) as client:
        client.clear()
        expected = {name: steady(outcome(lambda c=call: c(client))) for name, call in CALLS.items()}

    async def main() -> None:
        async with AsyncClient(address, timeout=60) as client:
            for name, call in CALLS.items():
                try:
                    found = as_plain(await call(client))
                except errors.CliptuneError as error:
                    found = told(error)
                assert steady(found) == expected[name], name
            await client.index(shop())
            assert [one async for one in client.ids(page=4)] == sorted(d.id for d in shop())
            assert (await client.profile("a", show=False))["CLIP model"] > 0
        with pytest.raises(errors.NotReady, match="is closed: make a new one"):
            await client.status()

    asyncio.run(main())


@pytest.mark.e2e
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_what_is_asynchronous_is_read_and_told_on_the_loop(server: Server, scheme: str) -> None:
    items = ["a", "b", b"junk", "c", "d"]
    seen: list[object] = []

    async def given() -> AsyncIterator[str | bytes]:
        for item in items:
            await asyncio.sleep(0)
            yield item

    async def on_error(error: errors.CliptuneError, docs: DocList[ClipDoc]) -> None:
        await asyncio.sleep(0)
        seen.append((error.position, len(docs)))

    def on_always(docs: DocList[ClipDoc]) -> None:
        asyncio.get_running_loop()
        seen.append(len(docs))

    async def main() -> None:
        async with AsyncClient(getattr(server, scheme), timeout=60) as client:
            rows = await client.encode(
                given(), batch_size=2, on_error=on_error, on_always=on_always, show_progress=True
            )
            assert np.isnan(rows).all(axis=1).tolist() == [False, False, True, False, False]
            assert seen == [2, (2, 1), 2, 1]
            with pytest.raises(errors.BadImage, match="document 2 ") as caught:
                await client.encode(given(), batch_size=1)
            assert caught.value.position == 2

    asyncio.run(main())


class Holding:
    """A server that holds all requests, over gRPC and HTTP, until it is told to answer them."""

    def __init__(self) -> None:
        self.arrived = self.gone = 0
        self.addresses: dict[str, str] = {}
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()
        self.thread = threading.Thread(target=lambda: self.loop.run_until_complete(self.run(ready)))
        self.thread.start()
        assert ready.wait(10)

    async def run(self, ready: threading.Event) -> None:
        self.released, self.ended = asyncio.Event(), asyncio.Event()
        handler = grpc.unary_unary_rpc_method_handler(self.grpc)
        methods = {"process_single_data": handler}
        service = grpc.method_handlers_generic_handler("jina.JinaSingleDataRequestRPC", methods)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((service,))
        self.addresses["grpc"] = f"grpc://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        http = await asyncio.start_server(self.http, "127.0.0.1", 0)
        self.addresses["http"] = f"http://127.0.0.1:{http.sockets[0].getsockname()[1]}"
        ready.set()
        await self.ended.wait()
        http.close()
        await server.stop(None)

    async def grpc(self, request: bytes, context: object) -> bytes:
        self.arrived += 1
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            self.gone += 1
            raise
        return b""

    async def http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
        self.arrived += 1
        broken = asyncio.ensure_future(reader.read(1))
        released = asyncio.ensure_future(self.released.wait())
        await asyncio.wait({broken, released}, return_when=asyncio.FIRST_COMPLETED)
        if broken.done():
            self.gone += 1
        else:
            body = json.dumps({"data": []}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()
        broken.cancel()
        released.cancel()
        writer.close()

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.ended.set)
        self.thread.join(10)
        self.loop.close()


@pytest.fixture
def holding() -> Iterator[Holding]:
    server = Holding()
    yield server
    server.end()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_many_calls_wait_at_once_without_threads(holding: Holding, scheme: str) -> None:
    before = set(threading.enumerate())  # such as pools of models that other tests have loaded

    async def main() -> None:
        async with AsyncClient(holding.addresses[scheme], timeout=30) as client:
            tasks = [asyncio.create_task(client.get(["a"])) for _ in range(90)]
            await until(lambda: holding.arrived == 90)
            begun = set(threading.enumerate()) - before
            waiting = [thread for thread in begun if thread.name.startswith("cliptune")]
            assert not waiting
            holding.loop.call_soon_threadsafe(holding.released.set)
            assert [list(docs) for docs in await asyncio.gather(*tasks)] == [[]] * 90

    asyncio.run(main())


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_cancelled_it_leaves_nothing_behind(holding: Holding, scheme: str) -> None:
    async def main() -> None:
        async with AsyncClient(holding.addresses[scheme], timeout=30) as client:
            one = asyncio.create_task(client.encode((f"t{n}" for n in range(999)), 1, prefetch=5))
            await until(lambda: holding.arrived == 5)
            one.cancel()
            with pytest.raises(asyncio.CancelledError):
                await one
            await until(lambda: holding.gone == 5)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await client.get(["a"])
            await until(lambda: holding.gone == holding.arrived)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_no_answer_in_time(scheme: str) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
            async with AsyncClient(address, timeout=0.5, retries=0) as client:
                with pytest.raises(errors.Unavailable) as caught:
                    await client.status()
                assert str(caught.value) == f"{address} did not answer within 0.5 s"

    asyncio.run(main())


def test_a_server_that_comes_back_is_found_by_the_same_call() -> None:
    server = Echo()

    async def main() -> None:
        async with AsyncClient(f"grpc://127.0.0.1:{server.port}", timeout=60, retries=9) as client:
            docs = await client.get(["a"])
            server.stop()
            asked = asyncio.create_task(client.get(["a", "b"]))
            await asyncio.sleep(0.5)
            assert not asked.done()
            await asyncio.to_thread(server.start)
            assert [doc.id for doc in [*docs, *await asked]] == ["a", "a", "b"]

    server.start()
    try:
        asyncio.run(main())
    finally:
        server.stop()


@pytest.mark.e2e
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_several_loops_share_a_client_and_it_is_pickled(server: Server, scheme: str) -> None:
    client = AsyncClient(getattr(server, scheme), timeout=60)
    expected = asyncio.run(client.encode(["a"])).tolist()
    rows: list[list[list[float]]] = []

    def ask() -> None:
        rows.extend(asyncio.run(client.encode(["a"])).tolist() for _ in range(3))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows == [expected] * 12
    again = pickle.loads(pickle.dumps(client))
    assert type(again) is AsyncClient
    assert asyncio.run(again.encode(["a"])).tolist() == expected
