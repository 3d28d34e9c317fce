"""The search Flow through real gRPC and HTTP: equal answers, order, clear errors."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
import requests
from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.errors import BadFilter, BadImage, BadInput, ModelMismatch, NotFound, Unavailable
from cliptune.inference import get_tower
from cliptune.serving import Client, serve
from tests.pictures import picture
from tests.ports import free_port
from tests.server import Server

pytestmark = pytest.mark.e2e
TEXTS = ["a red shirt", "blue jeans", "a red shirt", "x" * 5000]


@pytest.fixture(params=["grpc", "http"])
def client(request: pytest.FixtureRequest, server: Server) -> Client:
    return Client(getattr(server, request.param))


def test_texts_and_pictures_mixed_keep_their_order(client: Client, server: Server) -> None:
    docs = DocList[ClipDoc]()
    for i in range(10):
        docs.append(ClipDoc(text=TEXTS[i % 4]) if i % 3 else ClipDoc(image=picture(i)))
    client.encode(docs)
    text_tower = get_tower(server.artifact, "clip-text")
    vision_tower = get_tower(server.artifact, "clip-vision")
    for i, doc in enumerate(docs):
        expected = text_tower.encode([doc.text]) if doc.text else vision_tower.encode([picture(i)])
        np.testing.assert_allclose(doc.embedding, expected[0], atol=1e-4)
        assert doc.model_digest == text_tower.digest
    np.testing.assert_allclose(client.encode(TEXTS), text_tower.encode(TEXTS), atol=1e-4)


def test_index_search_filter_delete(client: Client, server: Server, pictures: DocList) -> None:
    client.clear()
    assert client.index(pictures, batch_size=5) == 12
    assert client.index(pictures[:3]) == 3, "the same ids again replace"
    assert client.status()["index"]["rows"] == 12

    vision = get_tower(server.artifact, "clip-vision")
    stored = vision.encode([doc.image for doc in pictures])
    query = get_tower(server.artifact, "clip-text").encode(["something red"])[0]
    expected = np.argsort(-(stored @ query), kind="stable")
    found = client.search("something red", limit=12).matches
    assert [match.id for match in found] == [f"item-{i}" for i in expected]
    np.testing.assert_allclose([m.score for m in found], (stored @ query)[expected], atol=1e-4)
    assert found[0].text == f"Item number {expected[0]} <b>bold</b>"
    assert found[0].tags["price"] == 10.0 * expected[0]

    same = client.search(picture(4), limit=1).matches[0]
    assert same.id == "item-4"
    assert same.score == pytest.approx(1.0, abs=1e-4)

    red = client.search("x", limit=12, filter="colour == 'red' and price < 70").matches
    assert {match.id for match in red} == {"item-1", "item-3", "item-5"}
    assert [m.id for m in client.search("x", limit=4, offset=2).matches] == [
        m.id for m in client.search("x", limit=6).matches[2:]
    ]
    assert client.delete("item-4") == 1
    assert client.search(picture(4), limit=12).matches[0].id != "item-4"
    assert client.delete(filter="price >= 100") == 2
    assert client.status()["index"]["rows"] == 9


@pytest.mark.parametrize(
    ("doc", "error", "words"),
    [
        (ClipDoc(id="a"), BadInput, "neither a text nor a picture"),
        (ClipDoc(id="a", image=b"no picture"), BadImage, "document 1.*not a picture"),
        (ClipDoc(id="a", image=picture(1)[:90]), BadImage, "document 1.*damaged"),
    ],
)
def test_a_bad_document_is_named(
    client: Client, doc: ClipDoc, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        client.encode(DocList[ClipDoc]([ClipDoc(text="fine"), doc]))


def test_other_errors_are_clear(client: Client, pictures: DocList) -> None:
    client.index(pictures[:2])
    with pytest.raises(BadFilter, match="(?i)column|position|character"):
        client.search("x", filter="price <")
    with pytest.raises(BadInput, match="limit.*0"):
        client.search("x", limit=0)
    with pytest.raises(BadInput, match="ids or a filter"):
        client.delete()
    with pytest.raises(BadInput, match="no picture"):
        client.index([ClipDoc(id="t", text="a title alone")])


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/search", b"", 400, "empty"),
        ("/search", b"{", 400, "not JSON"),
        ("/search", b"[1]", 422, "object"),
        ("/search", b'{"data": 3}', 422, "data"),
        ("/search", b'{"data": [{"text": 5}]}', 422, "text"),
        ("/search", b'{"data": [{"txt": "a"}]}', 422, "txt"),
        ("/search", b'{"data": [{"text": "a"}], "parameters": {"limt": 3}}', 422, "limt"),
        ("/encode", b'{"data": []}', 422, "no documents"),
        ("/encode", b'{"data": [{"image": "!!"}]}', 422, "base64"),
        ("/encode", b'{"data": [{"uri": "http://localhost/a.png"}]}', 422, "never fetched"),
        ("/encode", b'{"data": [{"uri": "file:///etc/passwd"}]}', 422, "not read"),
        ("/encode", b'{"data": [{"uri": "/etc/passwd"}]}', 422, "not read"),
        ("/encode", b'{"data": [' + b'{"text": "a"},' * 300 + b'{"text": "a"}]}', 413, "limit is 256"),  # noqa: E501
        ("/encode", b'{"data": [{"text": "' + b"a" * 200_000 + b'"}]}', 413, "limit is 100000"),
        ("/nowhere", b"{}", 404, "/search"),
        ("/post", b'{"data": [{"text": "a"}], "execEndpoint": "/nope"}', 404, "nope"),
    ],
)  # fmt: skip
def test_bad_bodies(server: Server, path: str, body: bytes, status: int, words: str) -> None:
    response = requests.post(server.http + path, data=body, timeout=30)
    assert response.status_code == status, response.text
    assert words in response.json()["error"]["message"]
    assert "Traceback" not in response.text


def test_a_body_beyond_the_limit(server: Server) -> None:
    response = requests.post(f"{server.http}/index", data=b" " * (65 * 2**20), timeout=60)
    assert response.status_code == 413
    assert "limit" in response.json()["error"]["message"]


def test_clip_as_services_form(server: Server) -> None:
    encoded = base64.b64encode(picture(1)).decode()
    body = {"data": [{"text": "a"}, {"blob": encoded}], "execEndpoint": "/", "parameters": {}}
    answer = requests.post(f"{server.http}/post", json=body, timeout=30).json()
    docs = DocList[ClipDoc]([ClipDoc(text="a"), ClipDoc(image=picture(1))])
    ours = Client(server.grpc).encode(docs)
    for found, doc in zip(answer["data"], ours, strict=True):
        np.testing.assert_allclose(found["embedding"], doc.embedding, atol=1e-5)


def test_health_docs_and_pictures(server: Server, pictures: DocList) -> None:
    Client(server.grpc).index(pictures)
    assert requests.get(f"{server.http}/healthz", timeout=5).status_code == 200
    assert requests.get(f"{server.http}/readyz", timeout=5).json()["ready"] is True
    assert "/search" in requests.get(f"{server.http}/openapi.json", timeout=5).json()["paths"]
    found = requests.get(f"{server.http}/pictures/item-3", timeout=5)
    assert found.content == pictures[3].image
    assert found.headers["content-type"] == "image/png"
    assert requests.get(f"{server.http}/pictures/none", timeout=5).status_code == 404


def test_embeddings_of_another_model_are_refused(
    server: Server, pictures: DocList, tmp_path: Path, tiny_model: Path
) -> None:
    import torch

    from cliptune.models.artifact_writer import write_artifact
    from cliptune.models.loading import load_model

    model = load_model(tiny_model)
    with torch.no_grad():
        model.clip.text_projection += 0.1
    write_artifact(model, tmp_path / "other")
    index = tmp_path / "index"
    ports = {"grpc_port": free_port(), "http_port": free_port()}
    with serve(server.artifact, index=index, **ports):
        Client(f"grpc://127.0.0.1:{ports['grpc_port']}").index(pictures)
    with serve(tmp_path / "other", index=index, **ports):
        client = Client(f"http://127.0.0.1:{ports['http_port']}")
        with pytest.raises(ModelMismatch, match="digest|model"):
            client.search("a")
        with pytest.raises(ModelMismatch):
            client.index(pictures)
        assert client.status()["searchable"] is False


def test_a_port_in_use_and_a_missing_artifact(server: Server) -> None:
    port = int(server.http.rsplit(":", 1)[1])
    with (
        pytest.raises(Exception, match=f"port {port}"),
        serve(grpc_port=free_port(), http_port=port),
    ):
        pass
    with pytest.raises(NotFound, match="nowhere.zip"), serve("nowhere.zip"):
        pass
    with pytest.raises(Unavailable, match="127.0.0.1"):
        Client(f"grpc://127.0.0.1:{free_port()}", timeout=5).status()
