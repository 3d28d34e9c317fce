"""The HTTP side as a web site meets it: plain requests, good and bad."""

from __future__ import annotations

import base64
import concurrent.futures
import json

import numpy as np
import pytest
import requests

from cliptune.serving import Client
from tests.pictures import COLOURS, base64_of, picture, shop
from tests.server import Server

pytestmark = [pytest.mark.e2e, pytest.mark.versions]
RED = base64_of(picture(COLOURS["red"]))


def test_pictures_in_every_form_are_the_same(server: Server) -> None:
    url_safe = base64.urlsafe_b64encode(picture(COLOURS["red"])).decode().rstrip("=")
    data = [
        {"image": RED},
        {"image": url_safe},
        {"blob": RED},
        {"uri": f"data:image/png;base64,{RED}"},
        {"image": f"data:image/png;base64,{RED}"},
    ]
    response = requests.post(f"{server.http}/encode", json={"data": data}, timeout=30)
    assert response.status_code == 200
    vectors = [item["embedding"] for item in response.json()["data"]]
    assert np.abs(np.array(vectors) - vectors[0]).max() < 1e-6
    assert len(vectors[0]) == 32


def test_clip_as_services_form(server: Server) -> None:
    body = {"data": [{"text": "a"}, {"blob": RED}], "execEndpoint": "/", "parameters": {}}
    answer = requests.post(f"{server.http}/post", json=body, timeout=30).json()
    plain = requests.post(f"{server.http}/encode", json={"data": body["data"]}, timeout=30).json()
    assert [d["embedding"] for d in answer["data"]] == [d["embedding"] for d in plain["data"]]


def test_embeddings_as_base64_are_the_same(server: Server, clients: list[Client]) -> None:
    body = {"data": [{"text": "a hat"}, {"image": RED}, {"text": "boots"}]}
    numbers = requests.post(f"{server.http}/encode", json=body, timeout=30)
    encoded = requests.post(
        f"{server.http}/encode", json={**body, "encoding_format": "base64"}, timeout=30
    )
    assert len(encoded.content) < len(numbers.content)
    for plain, packed in zip(numbers.json()["data"], encoded.json()["data"], strict=True):
        raw = base64.b64decode(packed["embedding"], validate=True)
        found = np.frombuffer(raw, "<f4")
        np.testing.assert_array_equal(found, np.array(plain["embedding"], np.float32))
        assert packed["id"] != plain["id"]  # made up anew: all else is as it was
        assert packed["model_digest"] == plain["model_digest"]
    # cliptune's own client asks for it, and gets what it gets over gRPC.
    over_grpc, over_http = (client.encode(["a hat", "boots"]) for client in clients)
    np.testing.assert_array_equal(over_grpc, over_http)
    assert over_http.dtype == np.float32
    over_http[0, 0] = 0  # it is the caller's own
    clients[0].index(shop())
    [stored] = clients[1].get(["shop/red"], include_embedding=True)
    [same] = clients[0].get(["shop/red"], include_embedding=True)
    np.testing.assert_array_equal(stored.embedding, same.embedding)
    wrong = {**body, "encoding_format": "hex"}
    answer = requests.post(f"{server.http}/encode", json=wrong, timeout=30)
    assert answer.status_code == 422
    assert "encoding_format" in answer.json()["error"]["message"]


def test_search_by_get_and_the_stored_picture(server: Server, clients: list[Client]) -> None:
    clients[0].index(shop())
    found = requests.get(
        f"{server.http}/search", params={"q": "red", "limit": 2, "filter": "price < 40"}, timeout=30
    ).json()
    assert [m["id"] for m in found["matches"]] == [
        m.id for m in clients[0].search("red", limit=2, filter="price < 40").matches
    ]
    response = requests.get(f"{server.http}/pictures/shop%2Fred", timeout=30)
    assert response.content == picture(COLOURS["red"])
    assert response.headers["content-type"] == "image/png"
    again = requests.get(
        f"{server.http}/pictures/shop%2Fred",
        headers={"If-None-Match": response.headers["etag"]},
        timeout=30,
    )
    assert again.status_code == 304
    assert not again.content


def test_health(server: Server) -> None:
    assert requests.get(f"{server.http}/healthz", timeout=30).json() == {"status": "ok"}
    ready = requests.get(f"{server.http}/readyz", timeout=30).json()
    assert ready == {"ready": True, "executors": {"text": True, "vision": True, "indexer": True}}
    assert requests.get(f"{server.http}/readyz?need=any", timeout=30).json() == ready
    assert requests.get(f"{server.http}/readyz?need=most", timeout=30).status_code == 422
    assert requests.get(f"{server.http}/status", timeout=30).json()["model"]["output_dim"] == 32
    assert requests.get(f"{server.http}/openapi.json", timeout=30).json()["paths"]["/search"]


ITEM = {"text": "a"}
BAD = [
    ("post", "/encode", b"", 400, "BadJson", "empty"),
    ("post", "/encode", b'{"data": [', 400, "BadJson", "not JSON"),
    ("post", "/encode", b"\xff\xfe\x00", 400, "BadJson", "not JSON"),
    ("post", "/encode", [1, 2], 422, "BadInput", "JSON object"),
    ("post", "/encode", {}, 422, "BadInput", "data"),
    ("post", "/encode", {"data": []}, 422, "BadInput", "no documents"),
    ("post", "/encode", {"data": "red"}, 422, "BadInput", "data"),
    ("post", "/encode", {"data": [{"text": 3}]}, 422, "BadInput", "data.0.text"),
    ("post", "/encode", {"data": [ITEM, {"txt": "a"}]}, 422, "BadInput", "data.1.txt"),
    ("post", "/encode", {"data": [ITEM, {"id": "q"}]}, 422, "BadInput", "document 1 (id 'q')"),
    ("post", "/encode", {"data": [{"image": "?!"}]}, 422, "BadImage", "base64"),
    ("post", "/encode", {"data": [ITEM, {"image": "AAAA"}]}, 422, "BadImage", "document 1"),
    ("post", "/encode", {"data": [{"image": RED[:60]}]}, 422, "BadImage", "document 0"),
    ("post", "/encode", {"data": [{"uri": "http://a.example/x.png"}]}, 422, "BadImage", "fetched"),
    ("post", "/encode", {"data": [{"uri": "file:///etc/passwd"}]}, 422, "BadImage", "not read"),
    ("post", "/encode", {"data": [{"uri": "/etc/passwd"}]}, 422, "BadImage", "not read"),
    ("post", "/encode", {"data": [ITEM] * 257}, 413, "TooLarge", "limit is 256"),
    ("post", "/encode", {"data": [{"text": "a" * 100_001}]}, 413, "TooLarge", "100000"),
    ("post", "/encode", {"data": [ITEM], "parameters": {"x": 1}}, 422, "BadInput", "x is unknown"),
    ("post", "/search", {"data": [ITEM], "parameters": {"limit": "x"}}, 422, "BadInput", "limit"),
    ("post", "/search", {"data": [ITEM], "parameters": {"filter": "a ="}}, 422, "BadFilter", "col"),
    ("post", "/index", {"data": [ITEM]}, 422, "BadInput", "no picture"),
    ("post", "/delete", {}, 422, "BadInput", "ids or a filter"),
    ("post", "/delete", {"ids": "a"}, 422, "BadInput", "ids"),
    ("post", "/post", {"data": [ITEM], "execEndpoint": "/nope"}, 404, "NotFound", "/nope"),
    ("post", "/nope", {}, 404, "NotFound", "/nope"),
    ("get", "/encode", None, 405, "MethodNotAllowed", "GET"),
    ("get", "/search", None, 422, "BadInput", "q is empty"),
    ("get", "/search?q=a&limit=many", None, 422, "BadInput", "limit"),
    ("get", "/pictures/nothing", None, 404, "NotFound", "nothing"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "kind", "message"), BAD)
def test_bad_requests(
    server: Server, method: str, path: str, body, status: int, kind: str, message: str
) -> None:
    raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    response = requests.request(method, server.http + path, data=raw, headers=headers, timeout=30)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["type"] == kind
    assert message in error["message"]
    assert "Traceback" not in response.text


def test_a_body_beyond_the_limit(server: Server) -> None:
    response = requests.post(f"{server.http}/encode", data=b" " * (65 * 2**20), timeout=60)
    assert response.status_code == 413
    assert "67108864" in response.json()["error"]["message"]
    # and it answers as before
    assert requests.get(f"{server.http}/healthz", timeout=30).ok


@pytest.mark.parametrize("depth", [20, 45, 400, 5000])
def test_deeply_nested_bodies(server: Server, depth: int) -> None:
    inner = '{"a":' * depth + "1" + "}" * depth
    for path, body in (
        ("/index", f'{{"data": [{{"image": "{RED}", "tags": {inner}}}]}}'),
        ("/search", f'{{"data": [{{"text": "a"}}], "parameters": {{"filter": {inner}}}}}'),
    ):
        response = requests.post(server.http + path, data=body.encode(), timeout=30)
        assert response.status_code == (400 if depth == 5000 else 422), response.text
        assert "deeper" in response.text or "depth" in response.text


def test_the_reference_loads_nothing_from_elsewhere(server: Server) -> None:
    response = requests.get(f"{server.http}/docs", timeout=30)
    assert response.status_code == 200
    assert "POST /search" in response.text
    assert "score_threshold" in response.text
    assert "<script" not in response.text
    assert "http://" not in response.text
    assert "https://" not in response.text
    assert response.headers["content-security-policy"].startswith("default-src 'none'")


def test_pages_of_other_sites_change_nothing(server: Server, clients: list[Client]) -> None:
    clients[0].index(shop())
    for origin in ("https://evil.example", "null"):
        answer = requests.post(f"{server.http}/clear", headers={"Origin": origin}, timeout=30)
        assert answer.status_code == 403
        assert answer.json()["error"]["type"] == "Forbidden"
    assert clients[0].status()["documents"] == 6
    own = requests.post(f"{server.http}/clear", headers={"Origin": server.http}, timeout=30)
    assert own.json() == {"deleted": 6}


def test_many_at_once_get_their_own_answers(server: Server, clients: list[Client]) -> None:
    clients[0].index(shop())
    names = list(COLOURS) * 8

    def best(name: str) -> str:
        body = {"data": [{"image": base64_of(picture(COLOURS[name]))}], "parameters": {"limit": 1}}
        answer = requests.post(f"{server.http}/search", json=body, timeout=60).json()
        return answer["data"][0]["matches"][0]["id"]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(best, names)) == [f"shop/{name}" for name in names]
