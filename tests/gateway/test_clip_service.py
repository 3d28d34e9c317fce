"""clip-as-service's own client, unchanged, in its own environment, against our server."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests

from cliptune.gateway.clip_service.clip_service_pb2 import Request
from cliptune.inference import get_tower
from cliptune.protocol.jina_messages_pb2 import Status
from cliptune.serving import Client
from tests.pictures import COLOURS, picture
from tests.server import Server

pytestmark = pytest.mark.e2e
PROGRAM = Path(__file__).with_name("clip_client_program.py")
PICTURES = {"a": "red", "b": "green", "c": "blue"}
TEXTS = [f"a text, number {i}" for i in range(21)]


@pytest.fixture
def asked(
    server: Server,
    clients: list[Client],
    tmp_path: Path,
    peer_python: Callable[[str], Path],
    request: pytest.FixtureRequest,
) -> tuple[dict, dict]:
    """What the program's client got: answers, and arrays."""
    for name, colour in PICTURES.items():
        (tmp_path / f"{name}.png").write_bytes(picture(COLOURS[colour]))
    address = {
        "grpc": server.clip_service,
        "http": server.http,
        "ws": server.http.replace("http", "ws"),
    }[request.param]
    done = subprocess.run(
        [peer_python("clip-client"), "-W", "ignore", PROGRAM, address, tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    with np.load(tmp_path / "embeddings.npz") as arrays:
        return json.loads((tmp_path / "answers.json").read_text()), dict(arrays)


@pytest.mark.parametrize("asked", ["grpc", "http", "ws"], indirect=True)
def test_the_unchanged_client(asked: tuple[dict, dict], server: Server, tmp_path: Path) -> None:
    answers, arrays = asked
    texts = get_tower(server.model, "clip-text").encode(TEXTS)
    red, green, blue = get_tower(server.model, "clip-vision").encode(
        [picture(COLOURS[colour]) for colour in PICTURES.values()]
    )

    def same(name: str, expected: object) -> None:
        assert np.abs(arrays[name] - np.stack(expected)).max() < 1e-5, name

    same("mixed", [texts[0], red, texts[1], green, blue])
    same("texts", texts)
    same("generator", texts)
    same("documents", [texts[0], red, red, red, arrays["documents"][4]])
    assert not np.allclose(arrays["documents"][4], red)  # one channel of it is another picture
    assert answers["document ids"] == ["text", "uri", "blob", "tensor", "grey"]
    assert answers["tags"] == {"price": 3, "deep": {"er": [1, "x"]}}
    same("async", texts[:5])
    assert answers["callbacks"] == {"done": [[TEXTS[:5], 5, [5, 32]]], "always": 5}

    of_picture, of_text = answers["ranked"]
    for found, query, others, names in (
        (of_picture, red, texts[:4], ["t0", "t1", "t2", "t3"]),
        (of_text, texts[0], np.stack([red, green, blue]), ["a", "b", "c"]),
    ):
        cosines = others @ query
        order = np.argsort(-cosines)
        assert [m[0] for m in found] == [names[i] for i in order]
        assert [m[2] for m in found] == pytest.approx(list(cosines[order]), abs=1e-5)
        softmax = np.exp(100 * cosines) / np.exp(100 * cosines).sum()
        assert [m[1] for m in found] == pytest.approx(list(softmax[order]), abs=1e-3)
    assert sorted(answers["op names"]) == ["cosine", "softmax"]
    assert {m[3] for m in of_picture} == set(TEXTS[:4])

    same("indexed", [red, green, blue, texts[3]])
    stored = {"a": red, "b": green, "c": blue, "words": texts[3]}
    for hits, query, best in zip(answers["hits"], (green, texts[3]), ("b", "words"), strict=True):
        assert hits[0][0] == best
        nearest = sorted(stored, key=lambda name: -float(stored[name] @ query))[:3]
        assert [hit[0] for hit in hits] == nearest
        distances = [1 - float(stored[name] @ query) for name in nearest]
        assert [hit[3] for hit in hits] == pytest.approx(distances, abs=1e-5)
    assert answers["hits"][0][0][1] == "/pictures/b"  # never the path on its owner's machine
    assert answers["hits"][0][0][2] == {"n": 1, "s": "b"}
    assert answers["hits"][1][0][4] == TEXTS[3]
    assert answers["filtered"] == ["a"]
    assert answers["asearch"] == ["c"]

    for profile in answers["profile"]:
        assert profile["Roundtrip"] >= profile["Server"] >= profile["CLIP model"] >= 0
        assert profile["Server"] > 0
    assert all(answers["errors"]), answers["errors"]
    assert "Traceback" not in str(answers["errors"])
    assert answers["after errors"] == [2, 32]


def call(server: Server, *requests_: bytes) -> list[Request]:
    with grpc.insecure_channel(server.clip_service.removeprefix("grpc://")) as channel:
        stream = channel.stream_stream("/jina.JinaRPC/Call")
        return [Request.FromString(raw) for raw in stream(iter(requests_), timeout=60)]


def a_request(endpoint: str, **document: object) -> Request:
    made = Request()
    made.header.request_id = endpoint
    made.header.exec_endpoint = endpoint
    made.data.docs.docs.add(**document)
    return made


def test_a_streams_errors_are_told_each_in_its_place(server: Server) -> None:
    asked = [
        a_request("/encode", text="fine"),
        a_request("/encode", blob=b"junk"),
        a_request("/encode", id="empty"),
        a_request("/nowhere", text="x"),
        a_request("/rank", text="no matches"),
        a_request("/", uri="https://a.example/x.png"),
        a_request("/encode", text="x" * 100_001),
        a_request("/encode", text="fine again"),
    ]
    answers = call(server, *(one.SerializeToString() for one in asked))
    assert [a.header.request_id for a in answers] == [a.header.request_id for a in asked]
    told = [a.header.status.exception.name for a in answers]
    wrong = ["BadImage", "BadInput", "NotFound", "BadInput", "BadImage", "TooLarge"]
    assert told == ["", *wrong, ""]
    assert all(a.header.status.code == Status.ERROR for a in answers[1:-1])
    assert "Traceback" not in str(answers)
    assert answers[-1].data.docs.docs[0].HasField("embedding")


@pytest.mark.parametrize("raw", [b"\xff\xff\xff", b"\x0a\x05abc", b"\x22\xff\xff\xff\xff\x0f"])
def test_what_is_no_request_ends_the_call(server: Server, raw: bytes) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(server, a_request("/encode", text="a").SerializeToString(), raw)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "array",
    [
        {"buffer": b"abc", "shape": [2, 2, 3], "dtype": "|u1"},
        {"buffer": b"abcd" * 3, "shape": [1, 1, 3], "dtype": "<f4"},
        {"buffer": b"a" * 12, "shape": [2, 2, 3], "dtype": "|O"},
        {"buffer": b"a" * 12, "shape": [2, 2, 3], "dtype": "no type(" * 100},
        {"buffer": b"a" * 12, "shape": [12], "dtype": "|u1"},
        {"buffer": b"a", "shape": [2**31, 2**31, 3], "dtype": "|u1"},
        {"shape": [2, 2, 3], "dtype": "|u1"},
    ],
)
def test_bad_tensors(server: Server, array: dict) -> None:
    asked = a_request("/encode", tensor={"dense": array, "cls_name": "numpy"})
    [answer] = call(server, asked.SerializeToString())
    assert answer.header.status.exception.name == "BadImage"
    assert "document 0" in answer.header.status.description


def test_numbers_that_json_lacks_are_refused(server: Server) -> None:
    tagged = a_request("/index", blob=picture(COLOURS["red"]))
    tagged.data.docs.docs[0].tags["price"] = float("nan")
    limited = a_request("/search", text="a")
    limited.parameters["limit"] = float("inf")
    answers = call(server, tagged.SerializeToString(), limited.SerializeToString())
    assert [a.header.status.exception.name for a in answers] == ["BadInput", "BadInput"]
    assert "document 0" in answers[0].header.status.description


def test_access_paths_choose_what_is_embedded(server: Server) -> None:
    asked = a_request("/encode", text="root")
    asked.data.docs.docs[0].chunks.add(text="a chunk")
    asked.parameters["access_paths"] = "@c"
    [answer] = call(server, asked.SerializeToString())
    [doc] = answer.data.docs.docs
    assert not doc.HasField("embedding")
    assert doc.chunks[0].HasField("embedding")
    asked.parameters["access_paths"] = "@x"
    [answer] = call(server, asked.SerializeToString())
    assert "access_paths" in answer.header.status.description


def test_pictures_come_back_unless_they_are_dropped(server: Server) -> None:
    data = picture(COLOURS["red"])
    asked = a_request("/encode", blob=data)
    [answer] = call(server, asked.SerializeToString())
    assert answer.data.docs.docs[0].blob == data
    asked.parameters["drop_image_content"] = True
    [answer] = call(server, asked.SerializeToString())
    assert answer.data.docs.docs[0].blob == b""


def test_by_curl(server: Server, clients: list[Client]) -> None:
    """What clip-as-service's guide shows with curl."""
    blob = base64.b64encode(picture(COLOURS["red"])).decode()
    body = {
        "data": [
            {"text": "First do it"},
            {"blob": blob},
            {"uri": f"data:image/png;base64,{blob}"},
            {"tensor": [[[255, 0, 0]] * 4] * 4},
        ],
        "execEndpoint": "/",
    }
    answer = requests.post(f"{server.http}/post", json=body, timeout=30).json()
    assert [len(doc["embedding"]) for doc in answer["data"]] == [32] * 4
    assert answer["data"][1]["embedding"] == answer["data"][2]["embedding"]
    assert answer["header"]["status"] is None if "status" in answer["header"] else True
    body = {
        "data": [{"text": "red", "matches": [{"blob": blob}, {"text": "blue"}]}],
        "execEndpoint": "/rank",
    }
    ranked = requests.post(f"{server.http}/post", json=body, timeout=30).json()["data"][0]
    scores = [m["scores"]["clip_score"]["value"] for m in ranked["matches"]]
    assert sum(scores) == pytest.approx(1, abs=1e-5)
    assert scores == sorted(scores, reverse=True)
    for endpoint, documents in (
        ("/index", [{"id": "x", "blob": blob}]),
        ("/delete", [{"id": "x"}]),
    ):
        body = {"data": documents, "execEndpoint": endpoint}
        assert requests.post(f"{server.http}/post", json=body, timeout=30).ok
        count = clients[0].status()["documents"]
        assert count == (1 if endpoint == "/index" else 0)


BAD = [
    ({"data": "x"}, "data"),
    ({"data": [3]}, "data.0"),
    ({"data": [{"text": 3}]}, "data.0.text"),
    ({"data": [{"txt": "a"}]}, "did you mean 'text'"),
    ({"data": [{"text": "a", "blob": "aaaa"}]}, "one content"),
    ({"data": [{"tensor": [[1, 2], [3]]}]}, "one length"),
    ({"data": [{"text": "a", "matches": 3}], "execEndpoint": "/rank"}, "data.0.matches"),
    ({"data": [], "execEndpoint": 3}, "execEndpoint"),
    ({"data": [], "parameters": []}, "no documents"),
    ({"data": [{"text": "a"}], "parameters": [1]}, "parameters"),
    ({"data": [{"text": "a"}] * 257}, "limit is 256"),
]


@pytest.mark.parametrize(("body", "message"), BAD)
def test_bad_bodies(server: Server, body: dict, message: str) -> None:
    response = requests.post(f"{server.http}/post", json=body, timeout=30)
    assert response.status_code in (413, 422), response.text
    assert message in response.json()["error"]["message"]
    assert message in response.json()["header"]["status"]["description"]
