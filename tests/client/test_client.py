"""The client's calls through a real Flow, over both protocols."""

from __future__ import annotations

import numpy as np
import pytest
from docarray import DocList

from cliptune import errors
from cliptune.documents import ClipDoc
from cliptune.errors import TooLarge
from cliptune.inference import get_tower
from cliptune.serving import Client
from tests.pictures import COLOURS, picture, shop
from tests.server import Server

pytestmark = pytest.mark.e2e


def test_embeddings_are_the_towers_own(server: Server, clients: list[Client]) -> None:
    texts = ["red rain boots", "a blue hat", "red rain boots", "ein grüner Schuh 👢"]
    pictures = [picture(c) for c in COLOURS.values()]
    expected_texts = get_tower(server.model, "clip-text").encode(texts)
    expected_pictures = get_tower(server.model, "clip-vision").encode(pictures)
    for client in clients:
        found = client.encode(texts)
        assert found.dtype == np.float32
        assert np.abs(found - expected_texts).max() < 1e-6
        docs = client.encode(DocList[ClipDoc]([ClipDoc(image=p) for p in pictures]))
        assert np.abs(np.stack(list(docs.embedding)) - expected_pictures).max() < 1e-5


def test_mixed_documents_keep_their_order(server: Server, clients: list[Client]) -> None:
    digest = get_tower(server.model, "clip-text").digest
    answers = []
    for client in clients:
        docs = DocList[ClipDoc]()
        for number, colour in enumerate(list(COLOURS.values()) * 3):
            docs.append(ClipDoc(id=f"t{number}", text=f"text {number}"))
            docs.append(ClipDoc(id=f"p{number}", image=picture(colour)))
            docs.append(ClipDoc(id=f"b{number}", text=f"text {number}", image=picture(colour)))
        # One request at a time: a tower's batches are the same then, to the last bit.
        same = client.encode(docs, batch_size=7, prefetch=1)
        assert same is docs
        assert all(doc.model_digest == digest for doc in docs)
        by_id = {doc.id: doc.embedding for doc in docs}
        for number in range(18):
            # a text wins over a picture; and another text or picture is another embedding
            assert np.array_equal(by_id[f"t{number}"], by_id[f"b{number}"])
            assert not np.allclose(by_id[f"t{number}"], by_id[f"p{number}"])
            assert not np.allclose(by_id[f"t{number}"], by_id[f"t{(number + 1) % 18}"])
        answers.append(np.stack(list(docs.embedding)))
    assert np.array_equal(*answers)


def test_index_search_delete_search(client: Client) -> None:
    assert client.index(shop(), batch_size=4) == 6
    assert client.status()["documents"] == 6
    found = client.search(picture(COLOURS["blue"]), limit=3)
    assert len(found.matches) == 3
    best = found.matches[0]
    assert (best.id, best.text) == ("shop/blue", "blue thing")
    assert best.score == pytest.approx(1.0, abs=1e-5)
    assert best.tags == {"price": 30, "colour": "blue", "ean": 4_006_381_333_931}
    assert isinstance(best.tags["ean"], int)
    assert client.delete(ids=["shop/blue", "not there"]) == 1
    found = client.search(picture(COLOURS["blue"]), limit=10)
    assert len(found.matches) == 5
    assert "shop/blue" not in [m.id for m in found.matches]
    assert client.delete(filter="price >= 50") == 2
    assert {m.id for m in client.search("x").matches} == {"shop/red", "shop/green", "shop/yellow"}
    assert client.clear() == 3
    assert client.search("x").matches == []


def test_search_is_exact_cosine_and_alike_over_both(server: Server, clients: list[Client]) -> None:
    clients[0].index(shop())
    query = get_tower(server.model, "clip-text").encode(["a yellow scarf"])[0]
    vectors = get_tower(server.model, "clip-vision").encode([d.image for d in shop()])
    order = np.argsort(-(vectors @ query))
    for client in clients:
        matches = client.search("a yellow scarf", limit=6).matches
        assert [m.id for m in matches] == [shop()[i].id for i in order]
        assert [m.score for m in matches] == pytest.approx(list((vectors @ query)[order]), abs=1e-5)
        second = client.search("a yellow scarf", limit=2, offset=2).matches
        assert [m.id for m in second] == [m.id for m in matches[2:4]]
        limit = float(matches[2].score) - 1e-6
        assert len(client.search("a yellow scarf", score_threshold=limit).matches) == 3


@pytest.mark.parametrize("filter", ["price > 20 and colour != 'pink'", {"price": {"$gt": 20}}])
def test_filters(client: Client, filter: str | dict) -> None:
    client.index(shop())
    found = {m.tags["colour"] for m in client.search("x", filter=filter).matches}
    assert found == {"blue", "yellow", "black"} | ({"pink"} if isinstance(filter, dict) else set())


def test_the_same_id_replaces(client: Client) -> None:
    client.index(shop())
    client.index(DocList[ClipDoc]([ClipDoc(id="shop/red", text="new", image=picture((1, 2, 3)))]))
    assert client.status()["documents"] == 6
    assert client.search(picture((1, 2, 3)), limit=1).matches[0].text == "new"


def test_a_folders_pictures_are_read_by_the_client(client: Client, tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(picture(COLOURS["green"]))
    uri = str(tmp_path / "a.png")
    assert client.index([ClipDoc(id="g", uri=uri, text="from a file")]) == 1
    assert client.search(picture(COLOURS["green"])).matches[0].score == pytest.approx(1, abs=1e-5)


REFUSED = [
    (lambda c: c.search("x", filter="price <"), errors.BadFilter, "column 8"),
    (lambda c: c.search("x", filter="ü" * 5000 + " <"), errors.BadFilter, "filter"),
    (lambda c: c.search("x", limit=0), errors.BadInput, "limit"),
    (lambda c: c.search("x", limit=2.5), errors.BadInput, "2.5"),
    (lambda c: c.search("  "), errors.BadInput, "neither a text nor a picture"),
    (lambda c: c.search(b"not a picture"), errors.BadImage, "not a picture"),
    (lambda c: c.search("x" * 100_001), TooLarge, "100001 characters"),
    (lambda c: c.search("x", score_threshold=7), errors.BadInput, "score_threshold"),
    (lambda c: c.delete(), errors.BadInput, "ids or a filter"),
    (lambda c: c.index([ClipDoc(id="t", text="no picture")]), errors.BadInput, "has no picture"),
    (lambda c: c.index([ClipDoc(uri="https://a.example/b.jpg")]), errors.BadImage, "never fetched"),
    (
        lambda c: c.encode(DocList[ClipDoc]([ClipDoc(text="a"), ClipDoc(id="lost")])),
        errors.BadInput,
        r"document 1 \(id 'lost'\)",
    ),
    (
        lambda c: c.encode(DocList[ClipDoc]([ClipDoc(text="a"), ClipDoc(id="bad", image=b"x")])),
        errors.BadImage,
        r"document 1 \(id 'bad'\)",
    ),
    (
        lambda c: c.index([ClipDoc(image=picture((0, 0, 0)), tags={"n": 2**60})]),
        errors.BadInput,
        "2\\^53|tags",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED)
def test_errors_come_back_as_their_class(client: Client, call, kind, message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        call(client)
    assert type(caught.value) is kind
    assert "Traceback" not in str(caught.value)


def test_another_models_index_is_refused(client: Client, server: Server) -> None:
    client.index(shop()[:1])
    from cliptune.index import open_index

    with open_index(server.index) as index:  # several processes may have it open
        other = DocList[ClipDoc]([ClipDoc(id="o", embedding=np.ones(32), model_digest="0" * 64)])
        with pytest.raises(errors.ModelMismatch):
            index.add(other)
        index.clear()
        index.add(other)
    with pytest.raises(errors.ModelMismatch):
        client.search("x")
    with pytest.raises(errors.ModelMismatch):
        client.index(shop()[:1])
    assert client.status()["searchable"] is False
    client.clear()
    assert client.index(shop()[:1]) == 1


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_an_unreachable_server(scheme: str) -> None:
    from tests.ports import free_ports

    with pytest.raises(errors.Unavailable, match="can't be reached"):
        Client(f"{scheme}://127.0.0.1:{free_ports(1)[0]}", timeout=10).status()


@pytest.mark.parametrize("address", ["localhost:51000", "ftp://x:1", "grpc://localhost", ""])
def test_a_bad_address(address: str) -> None:
    with pytest.raises(errors.BadInput, match="address"):
        Client(address)
