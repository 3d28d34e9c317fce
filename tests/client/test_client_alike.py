"""One client, two protocols: the same inputs, answers, errors and lives over both."""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from docarray import DocList
from PIL import Image

from cliptune.client.inputs import lossless, to_doc
from cliptune.data.pictures.images import decode_image
from cliptune.documents import ClipDoc, RankDoc, RankMatch
from cliptune.errors import (
    BadFilter,
    BadImage,
    BadInput,
    CliptuneError,
    NotReady,
    Unavailable,
)
from cliptune.serving import Client
from tests.pictures import COLOURS, picture, shop
from tests.ports import free_port

RED = picture(COLOURS["red"])


def opened(data: bytes = RED) -> Image.Image:
    return Image.open(io.BytesIO(data))


def as_jpeg(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    opened().save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def see_through(mode: str) -> Image.Image:
    image = opened().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image.convert(mode)


PIL_IMAGES = {
    "orientation": lambda: opened(as_jpeg(6)),
    **{mode: (lambda mode=mode: opened().convert(mode)) for mode in ("1", "L", "P", "CMYK", "I")},
    **{mode: (lambda mode=mode: see_through(mode)) for mode in ("RGBA", "LA")},
    "16 bits": lambda: Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50),
    "floats": lambda: Image.fromarray(np.linspace(0, 1, 1200, dtype=np.float32).reshape(30, 40)),
}


@pytest.mark.parametrize("name", PIL_IMAGES)
def test_a_pil_image_is_sent_with_all_that_the_server_decides_by(name: str) -> None:
    image = PIL_IMAGES[name]()
    again = Image.open(io.BytesIO(lossless(image)))
    assert again.mode == image.mode
    assert again.getexif().get(0x0112) == image.getexif().get(0x0112)
    assert np.array_equal(np.asarray(again), np.asarray(image))
    if name == "orientation":
        expected = decode_image(as_jpeg(6))
        assert np.array_equal(decode_image(lossless(image)), expected)
        assert expected.size == (30, 40)


def test_a_truncated_pil_image_is_a_bad_image() -> None:
    with pytest.raises(BadImage, match="item 3: .*truncated"):
        to_doc(opened(as_jpeg(1)[:-100]), 3)


@pytest.mark.e2e
def test_every_form_of_a_picture_is_the_same_picture(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "red"  # without an ending: a Path is a picture all the same
    path.write_bytes(RED)
    forms = [RED, bytearray(RED), memoryview(RED), path, opened(), np.asarray(opened())]
    found = client.encode(forms)
    assert found.shape == (6, 32)
    assert np.abs(found - found[0]).max() < 1e-6
    assert client.index([ClipDoc(id="red", image=RED)]) == 1
    for one in forms:
        assert client.search(one).matches[0].score == pytest.approx(1, abs=1e-5)
    assert len(client.search([path, opened()])) == 2
    with pytest.raises(BadInput, match="put the one item into"):
        client.encode(path)


@pytest.mark.e2e
def test_numpys_numbers(client: Client) -> None:
    tags: dict[str, Any] = {
        "price": np.int64(30),
        "weight": np.float32(0.5),
        "new": np.bool_(True),
        "sizes": np.arange(3),
        "ean": np.int64(4_006_381_333_931),
    }
    docs = [ClipDoc(id=np.int64(7), image=RED, tags=tags), ClipDoc(id="8", image=picture(8))]
    assert client.index(docs, batch_size=np.int64(2)) == 2
    found = client.search("x", limit=np.int64(1), offset=np.int32(0), exact=np.bool_(True))
    assert len(found.matches) == 1
    [one] = client.search("x", filter={"price": {"$lt": np.float64(31)}}).matches
    plain = {"price": 30, "weight": 0.5, "new": True, "sizes": [0, 1, 2], "ean": 4_006_381_333_931}
    assert one.tags == plain
    assert [type(one.tags[name]) for name in plain] == [int, float, bool, list, int]
    assert [doc.id for doc in client.get(np.array([8, 7]))] == ["8", "7"]
    assert client.search("x", score_threshold=np.float32(-1)).matches
    assert client.update([ClipDoc(id="7", tags={"price": np.int64(31)})])["updated"] == 1
    assert client.get("7")[0].tags["price"] == 31
    assert client.delete(np.int64(7)) == 1
    assert client.delete({"8", "9"}) == 1


@pytest.mark.e2e
def test_answers_are_of_the_same_types(clients: list[Client]) -> None:
    clients[0].index(shop())

    def kinds(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: kinds(value[key]) for key in sorted(value)}
        if isinstance(value, list | DocList):
            return [kinds(one) for one in value]
        if isinstance(value, ClipDoc):
            fields = {name: kinds(getattr(value, name)) for name in value.model_fields}
            return (type(value).__name__, fields)
        return type(value).__name__

    ranked = RankDoc(text="a", matches=[RankMatch(text="b"), RankMatch(image=RED)])
    calls: dict[str, Callable[[Client], Any]] = {
        "status": lambda c: c.status(),
        "search": lambda c: c.search("x", limit=2),
        "get": lambda c: c.get(["shop/red"], include_embedding=True),
        "encode": lambda c: c.encode(DocList[ClipDoc]([ClipDoc(text="a"), ClipDoc(image=RED)])),
        "rank": lambda c: c.rank([ranked]),
        "update": lambda c: c.update([ClipDoc(id="shop/red", text="t"), ClipDoc(id="no")]),
        "delete": lambda c: c.delete(["shop/pink"]) or c.delete("no"),
        "clear": lambda c: c.clear(),
    }
    for name, call in calls.items():
        assert kinds(call(clients[0])) == kinds(call(clients[1])), name


BAD: dict[str, tuple[Any, type[CliptuneError]]] = {
    "junk": (b"junk", BadImage),
    "a gone file": (Path("gone.png"), BadImage),
    "a number": (3, BadInput),
    "nothing": (ClipDoc(id="empty"), BadInput),
    "too large a number": (ClipDoc(id="big", image=RED, tags={"n": 2**60}), BadInput),
}


@pytest.mark.e2e
@pytest.mark.parametrize("batch_size", [3, 64])
def test_bad_items_are_told_by_their_place_and_cost_nobody_else(
    client: Client, batch_size: int
) -> None:
    """All kinds of bad items among good ones, alone or several in a batch, first and last too."""
    good = [ClipDoc(id=f"good-{n}", image=picture(n)) for n in range(9)]
    bad = [item for item, _ in BAD.values()]
    given = [bad[0], *good[:3], bad[1], bad[2], *good[3:], bad[3], bad[4]]
    told: list[tuple[int | None, type]] = []

    def on_error(error: CliptuneError, docs: DocList[ClipDoc]) -> None:
        assert len(docs) == 1
        told.append((error.position, type(error)))
        assert f"{error.position}" in str(error)

    assert client.index(given, batch_size=batch_size, on_error=on_error) == 9
    expected = [given.index(item) for item in bad]
    assert told == list(zip(expected, [kind for _, kind in BAD.values()], strict=True))
    assert client.status()["documents"] == 9
    # embedding takes no tags: the last one is good there
    del told[:]
    found = client.encode([b"x", *good, b"y"], batch_size=batch_size, on_error=on_error)
    assert told == [(0, BadImage), (10, BadImage)]
    assert np.isnan(found).all(axis=1).nonzero()[0].tolist() == [0, 10]
    [one] = asyncio.run(client.asearch(["a", b"x"], batch_size=batch_size, on_error=on_error))
    assert one.matches
    assert told[-1] == (1, BadImage)
    ranked = client.rank(
        [RankDoc(text="a", matches=[RankMatch(text="b")]), ClipDoc(text="c")], on_error=on_error
    )
    assert len(ranked or ()) == 1
    with pytest.raises(BadImage, match="document 5 ") as caught:
        client.encode([*good[:5], ClipDoc(id="x", image=b"x")], batch_size=2)
    assert caught.value.position == 5


@pytest.mark.e2e
def test_what_is_no_items_fault_is_told_of_the_whole_batch(client: Client) -> None:
    told: list[tuple[type, int]] = []
    client.search(
        ["a", "b", "c"],
        filter="price <",
        batch_size=2,
        on_error=lambda error, docs: told.append((type(error), len(docs))),
    )
    assert told == [(BadFilter, 2), (BadFilter, 1)]


@pytest.mark.parametrize("scheme", ["grpc", "http"])
class TestWithoutAServer:
    """What needs none, over both protocols."""

    def test_a_closed_client_says_so(self, scheme: str) -> None:
        client = Client(f"{scheme}://127.0.0.1:{free_port()}")
        client.close()
        client.close()
        calls: list[Callable[[], Any]] = [
            lambda: client.encode(["a"]),
            lambda: client.search("a"),
            lambda: client.index(shop()),
            lambda: client.update(shop()),
            lambda: client.get(["a"]),
            lambda: client.delete("a"),
            lambda: client.clear(),
            lambda: client.status(),
            lambda: client.profile(show=False),
            lambda: asyncio.run(client.aencode(["a"])),
            lambda: asyncio.run(client.asearch("a")),
        ]
        for call in calls:
            with pytest.raises(NotReady, match="is closed: make a new one"):
                call()

    def test_nobody_there(self, scheme: str) -> None:
        address = f"{scheme}://127.0.0.1:{free_port()}"
        with Client(address, retries=0) as client:
            for call in (client.status, client.clear, lambda: client.encode(["a"])):
                with pytest.raises(Unavailable) as caught:
                    call()
                assert str(caught.value) == f"{address} can't be reached: Connection refused"

    def test_an_unknown_host(self, scheme: str) -> None:
        with (
            Client(f"{scheme}://nobody.invalid:80", retries=0) as client,
            pytest.raises(Unavailable, match=r"can't be reached: (Name or|No address|Temporary)"),
        ):
            client.status()

    def test_no_answer_in_time(self, scheme: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
            with Client(address, timeout=0.5, retries=0) as client:
                with pytest.raises(Unavailable) as caught:
                    client.status()
                assert str(caught.value) == f"{address} did not answer within 0.5 s"

    @pytest.mark.parametrize("rest", ["://", "://:80", "://host:0", "://host:99999", "://host:x"])
    def test_addresses(self, scheme: str, rest: str) -> None:
        with pytest.raises(BadInput, match="address"):
            Client(scheme + rest)

    def test_a_pickle_holds_no_key(self, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
        client = Client(f"{scheme}://127.0.0.1:9", api_key="ct_secret", timeout=7, retries=5)
        raw = pickle.dumps(client)
        assert b"ct_secret" not in raw
        again = pickle.loads(raw)
        assert (again.address, again.timeout, again.retries) == (client.address, 7, 5)
        assert again._api_key == "ct_secret", "in the same process"
        monkeypatch.setattr("cliptune.client.base._KEYS", {})
        assert pickle.loads(raw)._api_key is None, "elsewhere"
        monkeypatch.setenv("CLIPTUNE_API_KEY", "ct_another")
        assert pickle.loads(raw)._api_key == "ct_another", "what that process has"
        assert Client(client.address)._api_key is None


def _encode(client: Client) -> np.ndarray:
    return client.encode(["a red thing"])


@pytest.mark.e2e
def test_in_other_processes(clients: list[Client]) -> None:
    expected = _encode(clients[0])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for found in pool.map(_encode, clients):
            assert np.array_equal(found, expected)
    for client in clients:
        assert np.array_equal(_encode(pickle.loads(pickle.dumps(client))), expected)
        asyncio.run(client.aencode(["a"]))  # its threads are not in the child
        child = os.fork()
        if child == 0:
            code = 1
            try:
                found = asyncio.run(client.aencode(["a red thing"]))
                code = 0 if np.array_equal(found, expected) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert np.array_equal(_encode(client), expected)
