"""The client with many items: any iterable, batches at once, callbacks, async forms, retries."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from docarray import DocList

import cliptune
from cliptune import errors
from cliptune.documents import ClipDoc, RankDoc, RankMatch
from cliptune.inference import get_tower
from cliptune.serving import Client
from tests.pictures import COLOURS, base64_of, picture, shop
from tests.server import Server

TEXTS = [f"text number {i}" for i in range(40)]


@pytest.mark.e2e
def test_items_of_every_kind_in_one_call(client: Client, server: Server, tmp_path) -> None:
    data = picture(COLOURS["red"])
    (tmp_path / "a.PNG").write_bytes(data)
    items = ["red", data, str(tmp_path / "a.PNG"), f"data:image/png;base64,{base64_of(data)}"]
    found = client.encode(item for item in items)
    text = get_tower(server.model, "clip-text").encode(["red"])[0]
    image = get_tower(server.model, "clip-vision").encode([data])[0]
    assert np.abs(found - [text, image, image, image]).max() < 1e-5
    docs = client.encode(iter([ClipDoc(id="x", text="red"), ClipDoc(image=data)]))
    assert isinstance(docs, DocList)
    assert docs[0].id == "x"
    assert np.abs(docs[1].embedding - image).max() < 1e-5
    assert client.encode([]).shape == (0, 0)


@pytest.mark.e2e
def test_batches_at_once_keep_their_order(client: Client, server: Server) -> None:
    expected = get_tower(server.model, "clip-text").encode(TEXTS)
    read: list[int] = []

    def endless() -> Iterator[str]:
        for number, text in enumerate(TEXTS * 1000):
            read.append(number)
            yield text

    found = client.encode(TEXTS, batch_size=3, prefetch=5, show_progress=True)
    assert np.abs(found - expected).max() < 1e-5
    # a generator is read no further ahead than what is on its way
    done: list[int] = []

    class EnoughError(Exception):
        pass

    def on_done(docs: DocList[ClipDoc]) -> None:
        done.append(len(docs))
        if len(done) == 4:
            raise EnoughError

    with pytest.raises(EnoughError):
        client.encode(endless(), batch_size=5, prefetch=3, on_done=on_done)
    assert done == [5, 5, 5, 5]
    assert len(read) <= 5 * (4 + 3 + 1)


@pytest.mark.e2e
def test_callbacks(client: Client) -> None:
    items = ["a", "b", b"junk", "c", "d"]
    seen: list = []
    found = client.encode(
        items,
        batch_size=2,
        on_error=lambda error, docs: seen.append((type(error), len(docs))),
        on_always=lambda docs: seen.append(len(docs)),
    )
    assert seen == [2, (errors.BadImage, 1), 2, 1]
    assert np.isnan(found).all(axis=1).tolist() == [False, False, True, False, False]
    kept: list = []
    assert client.encode(items[:2], on_done=lambda docs: kept.extend(docs)) is None
    assert [doc.text for doc in kept] == ["a", "b"]
    assert all(doc.embedding.shape == (32,) for doc in kept)
    with pytest.raises(errors.BadImage):
        client.encode(items, batch_size=2)


@pytest.mark.e2e
def test_several_queries(client: Client) -> None:
    client.index(shop())
    queries = [picture(c) for c in COLOURS.values()]
    found = client.search(iter(queries), limit=2, batch_size=2)
    assert [r.matches[0].id for r in found] == [f"shop/{name}" for name in COLOURS]
    assert all(len(r.matches) == 2 for r in found)
    filtered = client.search(queries, filter="price > 50", batch_size=4)
    assert [m.id for r in filtered for m in r.matches] == ["shop/pink"] * 6


@pytest.mark.e2e
def test_async_forms(client: Client, server: Server) -> None:
    async def texts() -> AsyncIterator[str]:
        for text in TEXTS[:7]:
            await asyncio.sleep(0)
            yield text

    async def main() -> None:
        assert await client.aindex(shop()) == 6
        one, many, rows, ranked = await asyncio.gather(
            client.asearch(picture(COLOURS["blue"]), limit=1),
            client.asearch(["a", "b"], limit=3),
            client.aencode(texts(), batch_size=2),
            client.arank([RankDoc(text="a", matches=[RankMatch(text="b"), RankMatch(text="a")])]),
        )
        assert one.matches[0].id == "shop/blue"
        assert [len(r.matches) for r in many] == [3, 3]
        expected = get_tower(server.model, "clip-text").encode(TEXTS[:7])
        assert np.abs(rows - expected).max() < 1e-5
        assert [m.text for m in ranked[0].matches] == ["a", "b"]
        with pytest.raises(errors.BadImage):
            await client.aencode([b"junk"])

    asyncio.run(main())


@pytest.mark.e2e
def test_one_client_in_many_threads(client: Client, server: Server) -> None:
    expected = get_tower(server.model, "clip-text").encode(TEXTS)

    def ask(number: int) -> float:
        return float(np.abs(client.encode(TEXTS[number:], batch_size=7) - expected[number:]).max())

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(ask, range(24))) < 1e-5


@pytest.mark.e2e
def test_profile(client: Client, capsys: pytest.CaptureFixture) -> None:
    for content in ("", "a text", picture(COLOURS["red"])):
        found = client.profile(content)
        assert found["Roundtrip"] >= found["Server"] >= found["CLIP model"] > 0
        parts = found["Client-server network"] + found["Server"]
        assert parts == pytest.approx(found["Roundtrip"], abs=0.01)
    assert "CLIP model" in capsys.readouterr().out
    client.profile("quiet", show=False)
    assert capsys.readouterr().out == ""


def test_it_is_offered_at_the_top() -> None:
    assert cliptune.Client is Client


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.encode("one"), "put the one item"),
        (lambda c: c.encode([3]), "item 0 is a int"),
        (lambda c: c.encode(["a"], batch_size=0), "batch_size is 0"),
        (lambda c: c.encode(["a"], prefetch=0), "prefetch is 0"),
        (lambda c: c.index(3), "takes a list"),
        (lambda c: c.encode([np.zeros((2, 2, 3))]), "item 0: pixels of type float64"),
        (lambda c: c.encode(["gone.png"]), "gone.png"),
    ],
)
def test_wrong_arguments(call, message: str) -> None:
    with pytest.raises(errors.BadInput, match=message):
        call(Client("http://127.0.0.1:9"))


@pytest.fixture
def refusing() -> Iterator[tuple[str, list[str]]]:
    """A server that is overloaded twice, then answers; what it was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            asked.append(self.path)
            overloaded = len(asked) <= 2
            told = {"error": {"type": "Overloaded", "message": "later"}}
            body = json.dumps(told if overloaded else {"data": [], "deleted": 0}).encode()
            self.send_response(429 if overloaded else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()


def test_calls_are_repeated_where_that_is_safe(refusing: tuple[str, list[str]]) -> None:
    address, asked = refusing
    assert list(Client(address).get(["a"])) == []
    assert asked == ["/get"] * 3


def test_calls_that_are_not_safe_are_not_repeated(refusing: tuple[str, list[str]]) -> None:
    address, asked = refusing
    for call in (lambda c: c.delete(ids="a"), lambda c: c.clear()):
        with pytest.raises(errors.Overloaded):
            call(Client(address))
    assert asked == ["/delete", "/clear"]


def test_no_retries_on_request(refusing: tuple[str, list[str]]) -> None:
    address, asked = refusing
    with pytest.raises(errors.Overloaded):
        Client(address, retries=0).get(["a"])
    assert asked == ["/get"]
