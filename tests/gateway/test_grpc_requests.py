"""gRPC requests before they are passed on, streams in order, and threads with a bounded queue."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress

import numpy as np
import pytest
from docarray import DocList
from jina.types.request.data import DataRequest

from cliptune.documents import ClipDoc, RankDoc, RankMatch
from cliptune.errors import BadInput, Overloaded, TooLarge
from cliptune.executors.base import BoundedThreads
from cliptune.gateway.grpc_requests import ALL_BUT_VISION, check_request, choose_executors
from cliptune.gateway.streams import map_ordered
from cliptune.protocol.endpoints import SEARCH_FLOW
from cliptune.protocol.limits import Limits
from cliptune.settings import Settings

LIMITS = Limits(Settings.read())


def made(*docs: ClipDoc) -> DataRequest:
    request = DataRequest()
    request.header.exec_endpoint = "/encode"
    request.document_array_cls = DocList[ClipDoc]
    request.data.docs = DocList[ClipDoc](docs)
    return request


def sent(request: DataRequest) -> DataRequest:
    """As it arrives."""
    return DataRequest(request.proto_with_data.SerializePartialToString())


def test_what_is_good_passes_and_what_clients_have_no_say_in_is_taken_out() -> None:
    doc = ClipDoc(text="a", embedding=np.ones(3, np.float32), tags={"a": {"b": [1]}})
    request = made(doc, ClipDoc(image=b"x"))
    request.proto_with_data.routes.add().executor = "forged"
    request.header.status.code = 1
    arrived = sent(request)
    assert check_request(arrived, LIMITS) == 2
    assert not arrived.routes
    assert arrived.header.status.code == 0
    arrived.document_array_cls = DocList[ClipDoc]
    np.testing.assert_array_equal(arrived.docs[0].embedding, [1, 1, 1])
    assert check_request(sent(made()), LIMITS) == 0


@pytest.mark.parametrize(
    "raw", [b"", b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x0f", b"\x22\x03\x0a\x05"]
)
def test_bytes_that_are_no_message(raw: bytes) -> None:
    for looked_at in (False, True):
        request = DataRequest(raw)
        if looked_at:
            with suppress(Exception):
                _ = request.header
        with pytest.raises(BadInput, match="can't be read"):
            check_request(request, LIMITS)


def test_only_what_is_nothing_but_texts_passes_the_vision_executor_by() -> None:
    text = ClipDoc(text="a hat")
    others = [ClipDoc(text=" "), ClipDoc(image=b"x"), ClipDoc(text="a", uri="b")]
    others.append(ClipDoc(text="a", image=b""))
    for endpoint, docs, expected in (
        ("/search", [text, text], ALL_BUT_VISION),
        ("/index", [text], ""),
        ("/encode", [], ""),
        *(("/encode", [text, other], "") for other in others),
    ):
        request = made(*docs)
        request.header.exec_endpoint = endpoint
        arrived = sent(request)
        check_request(arrived, LIMITS)
        choose_executors(arrived, SEARCH_FLOW)
        assert arrived.header.target_executor == expected


def test_what_is_not_offered() -> None:
    request = made()
    request.proto_with_data.data.docs_bytes = b"\x80\x04."
    with pytest.raises(BadInput, match="docs_bytes"):
        check_request(sent(request), LIMITS)
    request = made()
    request.header.target_executor = "(a+)+$"
    with pytest.raises(BadInput, match="target_executor"):
        check_request(sent(request), LIMITS)
    request = made()
    request.parameters = {"indexer__folder": "x"}
    with pytest.raises(BadInput, match="indexer__folder is unknown"):
        check_request(sent(request), LIMITS)
    request = made()
    request.parameters = {"limit": float("nan")}
    with pytest.raises(BadInput, match="parameters"):
        check_request(sent(request), LIMITS)
    with pytest.raises(TooLarge, match="257 documents"):
        check_request(sent(made(*(ClipDoc(text="a") for _ in range(257)))), LIMITS)


@pytest.mark.parametrize(
    ("dtype", "shape", "size", "words"),
    [
        ("object", [1], 8, "dtype 'object'"),
        ("O", [1], 8, "dtype 'O'"),
        ("V8", [1], 8, "dtype"),
        ("float32,float32", [1], 8, "dtype"),
        ("float32", [2**31, 2**31], 8, "don't fill"),
        ("float32", [3], 8, "don't fill"),
        ("", [], 0, "dtype"),
    ],
)
def test_arrays_that_are_none(dtype: str, shape: list[int], size: int, words: str) -> None:
    request = made(ClipDoc(text="a"))
    dense = request.proto_with_data.data.docs.docs[0].data["embedding"].ndarray.dense
    dense.dtype = dtype
    dense.buffer = bytes(size)
    dense.shape.extend(shape)
    with pytest.raises(BadInput, match=f"document 0: embedding.*{words}"):
        check_request(sent(request), LIMITS)


def test_types_that_are_none_of_ours() -> None:
    doc = RankDoc(text="a", matches=DocList[RankMatch]([RankMatch(text="b")]))
    request = DataRequest()
    request.header.exec_endpoint = "/rank"
    request.document_array_cls = DocList[RankDoc]
    request.data.docs = DocList[RankDoc]([doc])
    assert check_request(sent(request), LIMITS) == 1
    sent_doc = request.proto_with_data.data.docs.docs[0]
    sent_doc.data["matches"].doc_array.docs[0].data["text"].type = "torch_tensor"
    with pytest.raises(BadInput, match="document 0: matches.0: text: 'torch_tensor'"):
        check_request(sent(request), LIMITS)


def test_a_stream_is_answered_in_order_and_read_no_further_than_its_window() -> None:
    taken: list[int] = []
    running = 0
    most = 0

    async def items() -> AsyncIterator[int]:
        for i in range(30):
            taken.append(i)
            yield i

    async def work(i: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01 if i % 3 == 0 else 0)
        running -= 1
        return i * i

    async def read() -> list[int]:
        found = []
        async for result in map_ordered(items(), work, 4):
            assert len(taken) <= len(found) + 4
            found.append(result)
        return found

    assert asyncio.run(read()) == [i * i for i in range(30)]
    assert 1 < most <= 4


def test_a_stream_that_breaks() -> None:
    ended = threading.Event()

    async def items() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise BadInput("the client's stream broke")

    async def slow(i: int) -> int:
        try:
            await asyncio.sleep(3600 if i == 2 else 0)
        finally:
            if i == 2:
                ended.set()
        return i

    async def work(i: int) -> int:
        return i

    async def read(with_work, stop_after: int) -> list[int]:
        found = []
        results = map_ordered(items(), with_work, 4)
        async for result in results:
            found.append(result)
            if len(found) == stop_after:
                break
        await results.aclose()
        await asyncio.sleep(0)
        return found

    with pytest.raises(BadInput, match="broke"):
        asyncio.run(read(work, 9))
    assert asyncio.run(read(slow, 1)) == [1]
    assert ended.is_set(), "what nobody waits for any more is ended"


def test_threads_with_a_bounded_queue() -> None:
    threads = BoundedThreads(2, 3, "test")
    free = threading.Event()
    begun = [threads.submit(free.wait) for _ in range(2)]
    while threads._work_queue.qsize():  # until both threads have taken theirs
        pass
    begun += [threads.submit(free.wait) for _ in range(3)]
    with pytest.raises(Overloaded, match="3 requests are waiting"):
        threads.submit(free.wait)
    free.set()
    assert all(one.result() for one in begun)
    assert threads.submit(lambda: 5).result() == 5
    threads.shutdown()
