"""`/rank`, `/update`, `/index_texts` and pictures as arrays, over both protocols."""

from __future__ import annotations

import io

import numpy as np
import pytest
import requests
from docarray import DocList
from PIL import Image

from cliptune import errors
from cliptune.documents import ClipDoc, RankDoc, RankMatch
from cliptune.errors import TooLarge
from cliptune.inference import get_tower
from cliptune.serving import Client
from tests.pictures import COLOURS, base64_of, picture, shop
from tests.server import Server

pytestmark = pytest.mark.e2e
TEXTS = ["red", "green", "blue", "a very long story about a shoe"]


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_rank_is_the_softmax_of_a_hundred_times_the_cosine(client: Client, server: Server) -> None:
    data = picture(COLOURS["red"])
    pictures = [picture(c) for c in COLOURS.values()]
    asked = [
        RankDoc(
            image=data,
            matches=[RankMatch(id=t, text=t, tags={"n": i}) for i, t in enumerate(TEXTS)],
        ),
        RankDoc(
            text="red",
            matches=[
                *(RankMatch(id=n, image=p) for n, p in zip(COLOURS, pictures, strict=True)),
                RankMatch(id="said", text="blue"),
            ],
        ),
    ]
    found = client.rank(iter(asked))
    assert found is not None
    texts = get_tower(server.model, "clip-text").encode(TEXTS)
    images = get_tower(server.model, "clip-vision").encode(pictures)
    expected = [
        dict(zip(TEXTS, texts @ images[0], strict=True)),
        dict(zip(COLOURS, images @ texts[0], strict=True)) | {"said": texts[2] @ texts[0]},
    ]
    for doc, cosines in zip(found, expected, strict=True):
        total = sum(np.exp(100 * value) for value in cosines.values())
        assert [m.id for m in doc.matches] == sorted(cosines, key=lambda name: -cosines[name])
        for match in doc.matches:
            cosine = cosines[match.id]
            assert match.clip_score_cosine == pytest.approx(cosine, abs=1e-5)
            assert match.clip_score == pytest.approx(np.exp(100 * cosine) / total, abs=1e-3)
            assert match.embedding is None
    assert {m.tags["n"] for m in found[0].matches} == {0, 1, 2, 3}


REFUSED = [
    ([RankDoc(text="a")], errors.BadInput, "no matches"),
    ([RankDoc(text="a", matches=[RankMatch()])], errors.BadInput, r"match 0 \(id .*\) has neither"),
    ([RankDoc(text="a", matches=[RankMatch(image=b"x")])], errors.BadImage, "picture"),
    ([RankDoc(text="a", matches=[RankMatch(text="b")] * 256)], TooLarge, "257 documents"),
    ([ClipDoc(text="a")], errors.BadInput, "RankDocs"),
]


@pytest.mark.parametrize(("asked", "kind", "message"), REFUSED)
def test_what_can_not_be_ranked(client: Client, asked: list, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        client.rank(asked)


def test_rank_over_plain_http(server: Server) -> None:
    red = base64_of(picture(COLOURS["red"]))
    body = {"data": [{"image": red, "matches": [{"text": t} for t in TEXTS]}]}
    [doc] = requests.post(f"{server.http}/rank", json=body, timeout=30).json()["data"]
    scores = [m["clip_score"] for m in doc["matches"]]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1)
    assert {m["text"] for m in doc["matches"]} == set(TEXTS)
    bad = requests.post(f"{server.http}/rank", json={"data": [{"text": "a"}]}, timeout=30)
    assert bad.status_code == 422
    assert "matches" in bad.json()["error"]["message"]


def test_update_changes_what_is_given(client: Client) -> None:
    client.index(shop())
    changes = [
        ClipDoc(id="shop/red", tags={"price": 99, "colour": None}),
        ClipDoc(id="shop/blue", text="a new title", image=picture((1, 2, 3))),
        ClipDoc(id="nowhere", text="x"),
        ClipDoc(id="shop/red", label="l"),
    ]
    report = client.update(iter(changes))
    assert report == {"updated": 2, "missing": ["nowhere"]}
    red, blue = client.get(["shop/red", "shop/blue"])
    assert red.tags == {"price": 99, "ean": 4_006_381_333_931}
    assert (red.text, red.label) == ("red thing", "l")
    assert blue.text == "a new title"
    assert blue.tags["colour"] == "blue"
    best = client.search(picture((1, 2, 3)), limit=1).matches[0]
    assert (best.id, round(best.score, 4)) == ("shop/blue", 1)
    # what was not given stays: its embedding, and its picture's digest
    again = client.search(picture(COLOURS["red"]), limit=1).matches[0]
    assert (again.id, round(again.score, 4)) == ("shop/red", 1)
    assert client.status()["documents"] == 6
    with pytest.raises(errors.BadImage, match="shop/red"):
        client.update([ClipDoc(id="shop/red", image=b"junk")])
    assert client.search(picture(COLOURS["red"]), limit=1).matches[0].id == "shop/red"


def test_a_clients_embedding_is_not_believed(client: Client) -> None:
    client.index(shop())
    digest = client.get(["shop/red"], include_embedding=True)[0].model_digest
    forged = ClipDoc(id="shop/red", embedding=np.ones(32, np.float32), model_digest=digest)
    client.update([forged])
    assert client.search(picture(COLOURS["red"]), limit=1).matches[0].id == "shop/red"


def test_arrays_of_pixels_are_pictures(client: Client, server: Server) -> None:
    data = picture(COLOURS["pink"])
    [as_bytes, as_array] = client.encode([data, pixels(data)])
    assert np.abs(as_bytes - as_array).max() < 1e-6
    body = {"data": [{"tensor": pixels(data).tolist()}, {"image": base64_of(data)}]}
    found = requests.post(f"{server.http}/encode", json=body, timeout=30).json()["data"]
    assert np.abs(np.subtract(found[0]["embedding"], found[1]["embedding"])).max() < 1e-6
    for tensor, message in (
        ([[[1, 2, 3]], [[1, 2]]], "one length"),
        ([1, 2, 3], "shape"),
        ([[[1, 2, 300]]], "0 to 255"),
        ([[[0.5, 0.5, 0.5]]], "uint8"),
        ([[["a", "b", "c"]]], "numbers"),
    ):
        answer = requests.post(
            f"{server.http}/encode", json={"data": [{"text": "a"}, {"tensor": tensor}]}, timeout=30
        )
        assert answer.status_code == 422, tensor
        assert "document 1" in answer.json()["error"]["message"]
        assert message in answer.json()["error"]["message"]


def test_texts_are_indexed_on_request(client: Client, server: Server) -> None:
    body = {"data": [{"id": t, "text": t, "tags": {"kind": "text"}} for t in TEXTS]}
    found = requests.post(f"{server.http}/index_texts", json=body, timeout=30).json()
    assert found["indexed"] == 4
    assert client.search("blue", limit=1).matches[0].id == "blue"
    asked = {"data": body["data"][:1], "parameters": {"include_embedding": True}}
    [doc] = requests.post(f"{server.http}/index_texts", json=asked, timeout=30).json()["data"]
    assert len(doc["embedding"]) == 32
    client.index(DocList[ClipDoc]([ClipDoc(id="p", image=picture(3))]))
    assert client.status()["documents"] == 5
