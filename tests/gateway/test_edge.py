"""The network's edge: IPv6, proxies, prefixes, codings, forms; and who is told of paths."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import io
import json
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from docarray import DocList
from starlette.types import Message, Receive, Scope, Send

from cliptune.documents import ClipDoc
from cliptune.errors import BadInput
from cliptune.gateway.access.api_keys import make_key, new_key
from cliptune.gateway.http.middleware import EdgeMiddleware
from cliptune.protocol.endpoints import GET
from cliptune.serving import Client, serve
from cliptune.settings import Settings
from tests.pictures import base64_of, picture
from tests.ports import free_ports
from tests.server import Server

pytestmark = pytest.mark.e2e
SECRET = "/home/anna/pictures of clients"


@pytest.fixture(scope="module")
def edge(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A server on IPv6 and IPv4, below a path, with keys, behind proxies of this machine."""
    home = tmp_path_factory.mktemp("edge-home")
    keys = {role: new_key() for role in ("search", "write", "admin")}
    file = home / "keys.txt"
    file.write_text("".join(f"{make_key(k, role, role).line()}\n" for role, k in keys.items()))
    grpc_port, http_port, clip_port = free_ports(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPTUNE_HOME", str(home))
        with serve(
            tiny_model,
            index=home / "index",
            grpc_port=grpc_port,
            http_port=http_port,
            clip_service_port=clip_port,
            host="::",
            api_keys=file,
            root_path="/shop",
            trusted_proxies="::1,127.0.0.0/8",
        ):
            with Client(f"grpc://[::1]:{grpc_port}", api_key=keys["write"]) as client:
                docs = [
                    ClipDoc(id="a/1", text="red", image=picture(1), uri=f"{SECRET}/1.jpg"),
                    ClipDoc(id="2", text="blue", image=picture(2), uri="https://me:pw@cdn.example/2.jpg"),
                    ClipDoc(id="3", text="green", image=picture(3), uri=f"file://{SECRET}/3.jpg"),
                    ClipDoc(id="4", text="black", image=picture(4), uri="C:\\Users\\anna\\4.jpg"),
                ]  # fmt: skip
                assert client.index(docs) == 4
            yield {
                "keys": keys, "home": home, "grpc": grpc_port, "http": http_port, "clip": clip_port
            }  # fmt: skip


def auth(edge: dict[str, Any], role: str = "search") -> dict[str, str]:
    return {"Authorization": f"Bearer {edge['keys'][role]}"}


@pytest.mark.parametrize("host", ["[::1]", "127.0.0.1"])
def test_both_families_are_served(edge: dict[str, Any], host: str) -> None:
    assert requests.get(f"http://{host}:{edge['http']}/healthz", timeout=30).ok
    for scheme, port in (("grpc", edge["grpc"]), ("http", edge["http"])):
        with Client(f"{scheme}://{host}:{port}", api_key=edge["keys"]["search"]) as client:
            assert len(client.search("red").matches) == 4
    with socket.create_connection((host.strip("[]"), edge["clip"]), timeout=10):
        pass


def test_matches_have_the_pictures_address_and_no_path(edge: dict[str, Any]) -> None:
    base = f"http://[::1]:{edge['http']}"
    found = requests.get(f"{base}/search?q=red", headers=auth(edge), timeout=30).json()
    by_id = {match["id"]: match for match in found["matches"]}
    assert by_id["a/1"]["image_url"] == "/shop/pictures/a%2F1"
    assert by_id["2"]["uri"] == "https://cdn.example/2.jpg"
    assert [by_id[i]["uri"] for i in ("a/1", "3", "4")] == [None] * 3
    for match in by_id.values():
        answer = requests.get(base + match["image_url"], headers=auth(edge), timeout=30)
        assert answer.content.startswith(b"\x89PNG"), answer.text
    with Client(f"grpc://[::1]:{edge['grpc']}", api_key=edge["keys"]["search"]) as client:
        [first] = [m for m in client.search("red").matches if m.id == "a/1"]
        assert first.image_url == "/shop/pictures/a%2F1"
        assert first.uri is None


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_paths_are_for_the_operator_alone(edge: dict[str, Any], scheme: str) -> None:
    address = f"{scheme}://[::1]:{edge[scheme]}"
    told = {}
    for role in edge["keys"]:
        with Client(address, api_key=edge["keys"][role]) as client:
            answers = [client.status(), client.get(["a/1", "3", "4"]).to_json()]
            told[role] = str(answers)
            with pytest.raises(BadInput):
                client.search("a", filter="(")
    for role in ("search", "write"):
        assert str(edge["home"]) not in told[role]
        assert "anna" not in told[role]
    assert str(edge["home"]) in told["admin"]
    assert SECRET in told["admin"]


def test_a_client_can_not_say_that_it_is_the_operator(edge: dict[str, Any]) -> None:
    with Client(f"grpc://[::1]:{edge['grpc']}", api_key=edge["keys"]["search"]) as client:
        given = {"_operator": True, "_pictures_at": "https://evil.example"}
        docs = DocList[ClipDoc]([ClipDoc(id="a/1")])
        [found] = client._transport.post(GET, docs, given)
        assert found.uri is None


class Proxy(BaseHTTPRequestHandler):
    """A reverse proxy of a few lines: it takes `/outer` off, and says for whom it asks."""

    target = 0
    protocol_version = "HTTP/1.1"

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        told = {
            "X-Forwarded-For": "203.0.113.9",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "shop.example",
            "X-Forwarded-Prefix": "/outer",
        }
        headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
        path = self.path.removeprefix("/outer") or "/"
        with closing(http.client.HTTPConnection("127.0.0.1", self.target, timeout=30)) as upstream:
            upstream.request(self.command, path, body, {**headers, **told})
            answer = upstream.getresponse()
            content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_POST = do_HEAD = forward  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def proxy(edge: dict[str, Any]) -> Iterator[str]:
    handler = type("To", (Proxy,), {"target": edge["http"]})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/outer"
        server.shutdown()


def test_behind_a_proxy_that_takes_the_prefix_off(edge: dict[str, Any], proxy: str) -> None:
    found = requests.get(f"{proxy}/search?q=red", headers=auth(edge), timeout=30).json()
    first = next(m for m in found["matches"] if m["id"] == "a/1")
    assert first["image_url"] == "/outer/pictures/a%2F1"
    parts = urlsplit(proxy)
    own = f"{parts.scheme}://{parts.netloc}{first['image_url']}"
    assert requests.get(own, headers=auth(edge), timeout=30).content.startswith(b"\x89PNG")
    described = requests.get(f"{proxy}/openapi.json", timeout=30).json()
    assert described["servers"] == [{"url": "/outer"}]
    assert 'href="/outer/openapi.json"' in requests.get(f"{proxy}/docs", timeout=30).text
    # The page of the address that the browser sees may post: its origin is the proxy's.
    for origin, status in (("https://shop.example", 200), ("https://evil.example", 403)):
        answer = requests.post(
            f"{proxy}/search",
            json={"data": [{"text": "a"}]},
            headers={**auth(edge), "Origin": origin},
            timeout=30,
        )  # fmt: skip
        assert answer.status_code == status


def test_behind_a_proxy_that_leaves_the_prefix_on(edge: dict[str, Any]) -> None:
    base = f"http://[::1]:{edge['http']}"
    assert requests.get(f"{base}/shop/healthz", timeout=30).json() == {"status": "ok"}
    answer = requests.get(f"{base}/shop", timeout=30, allow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (308, "/shop/")
    page = requests.get(f"{base}/shop/", timeout=30).text
    assert "<title>" in page
    assert requests.get(f"{base}/shop/openapi.json", timeout=30).json()["servers"]


def test_nobody_is_believed_who_is_not_trusted(server: Server) -> None:
    lies = {
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Prefix": "/evil",
        "X-Forwarded-For": "1.2.3.4",
    }
    answer = requests.post(
        f"{server.http}/search", json={"data": [{"text": "a"}]}, timeout=30,
        headers={**lies, "Origin": "http://evil.example"},
    )  # fmt: skip
    assert answer.status_code == 403
    assert (
        "servers"
        not in requests.get(f"{server.http}/openapi.json", headers=lies, timeout=30).json()
    )


def test_head_is_answered_wherever_get_is(server: Server) -> None:
    described = requests.get(f"{server.http}/openapi.json", timeout=30).json()
    paths = [p for p, methods in described["paths"].items() if "get" in methods and "{" not in p]
    assert len(paths) > 4
    for path in [*paths, "/", "/docs", "/openapi.json", "/pictures/nobody", "/search?q=a"]:
        headers = {"Accept-Encoding": "identity"}
        asked = requests.get(server.http + path, timeout=30, headers=headers)
        found = requests.head(server.http + path, timeout=30, headers=headers)
        assert found.status_code == asked.status_code, path
        assert found.content == b""
        assert found.headers["content-type"] == asked.headers["content-type"]
        if path not in ("/metrics", "/status"):
            assert found.headers["content-length"] == asked.headers["content-length"], path


def test_head_is_answered_where_sending_takes_time() -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 5000, "more_body": False})

    sent: list[Message] = []

    async def send(message: Message) -> None:
        await asyncio.sleep(0.01)  # a client that reads slowly
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "HEAD", "path": "/", "headers": [], "client": ("::1", 1)}
    asyncio.run(EdgeMiddleware(application, Settings.read())(scope, receive, send))
    assert [one["type"] for one in sent] == ["http.response.start", "http.response.body"]
    assert sent[1]["body"] == b""


def test_a_slash_at_the_end_changes_nothing(server: Server, clients: list[Client]) -> None:
    body = {"data": [{"text": "a"}]}
    for path in ("/search", "/encode", "/status", "/post"):
        one, other = (
            requests.post(server.http + p, json=body, timeout=30) for p in (path, path + "/")
        )
        assert one.status_code == other.status_code, path
    assert requests.get(f"{server.http}/search/?q=a", timeout=30).ok
    clients[0].index([ClipDoc(id="a/", image=picture(1))])
    assert requests.get(f"{server.http}/pictures/a/", timeout=30).ok


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("PUT", "/encode", "POST"), ("DELETE", "/status", "GET, HEAD, POST"),
     ("HEAD", "/encode", "POST"),
     ("GET", "/index/", "POST"), ("PATCH", "/search", "GET, HEAD, POST")],
)  # fmt: skip
def test_a_wrong_method_is_told_the_right_ones(
    server: Server, method: str, path: str, allowed: str
) -> None:
    answer = requests.request(method, server.http + path, timeout=30)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize(
    ("asked", "words"),
    [("GET /search?q=a&limt=3", "'limit'"), ("GET /search?q=a&limit=3&limit=4", "2 times"),
     ("POST /search?limit=3", "parameters"), ("GET /status?verbose=1", "none")],
)  # fmt: skip
def test_unknown_parameters_in_the_address(server: Server, asked: str, words: str) -> None:
    method, path = asked.split()
    body = {"data": [{"text": "a"}]} if method == "POST" else None
    answer = requests.request(method, server.http + path, json=body, timeout=30)
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["error"]["message"]


RAW = json.dumps({"data": [{"text": "red boots"}]}).encode()
_inside = zlib.compressobj(wbits=-zlib.MAX_WBITS)
CODED = {
    "gzip": ("gzip", gzip.compress(RAW)),
    "x-gzip": ("x-gzip", gzip.compress(RAW)),
    "deflate": ("deflate", zlib.compress(RAW)),
    "raw deflate": ("deflate", _inside.compress(RAW) + _inside.flush()),
    "identity": ("identity", RAW),
}


@pytest.mark.parametrize("how", CODED)
@pytest.mark.parametrize("chunked", [False, True])
def test_compressed_bodies_are_read(server: Server, how: str, chunked: bool) -> None:
    coding, body = CODED[how]
    headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
    data: Any = (body[i : i + 3] for i in range(0, len(body), 3)) if chunked else body
    answer = requests.post(f"{server.http}/encode", data=data, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["text"] == "red boots"


REFUSED: dict[str, tuple[str, Callable[[], bytes], int]] = {
    "Brotli": ("br", lambda: RAW, 415),
    "twice": ("gzip, gzip", lambda: gzip.compress(RAW), 415),
    "zstd": ("zstd", lambda: RAW, 415),
    "not compressed": ("gzip", lambda: RAW, 400),
    "cut off": ("gzip", lambda: gzip.compress(RAW)[:-5], 400),
    "with a rest": ("gzip", lambda: gzip.compress(RAW) + b"x", 400),
    "no gzip": ("gzip", lambda: b"", 400),
    "no deflate": ("deflate", lambda: b"\x00", 400),
    "a gzip bomb": ("gzip", lambda: gzip.compress(bytes(100 << 20), 1), 413),
    "a deflate bomb": ("deflate", lambda: zlib.compress(bytes(300 << 20), 1), 413),
}
"""Bodies by what is wrong with them: made when they are sent, since gzip writes the time down."""


@pytest.mark.parametrize("name", REFUSED)
def test_bad_compressed_bodies_are_refused(server: Server, name: str) -> None:
    coding, body, status = REFUSED[name]
    headers = {"content-type": "application/json", "content-encoding": coding}
    answer = requests.post(f"{server.http}/encode", data=body(), headers=headers, timeout=60)
    assert answer.status_code == status, answer.text
    if status == 415:
        assert answer.headers["accept-encoding"] == "gzip, deflate"


def test_large_answers_are_compressed_for_those_who_ask(server: Server) -> None:
    body = {"data": [{"text": f"thing {i}"} for i in range(64)]}
    sizes = {}
    for accepted in ("identity", "gzip", "gzip;q=0", "br, *;q=0.5"):
        answer = requests.post(f"{server.http}/encode", json=body, timeout=30, stream=True,
                               headers={"Accept-Encoding": accepted})  # fmt: skip
        raw = answer.raw.read(decode_content=False)
        assert "Accept-Encoding" in answer.headers["vary"]
        coded = answer.headers.get("content-encoding") == "gzip"
        assert coded is (accepted in ("gzip", "br, *;q=0.5"))
        sizes[accepted] = len(raw)
        found = json.loads(gzip.decompress(raw) if coded else raw)
        assert len(found["data"]) == 64
    assert sizes["gzip"] < 0.7 * sizes["identity"]
    small = requests.get(f"{server.http}/healthz", headers={"Accept-Encoding": "gzip"}, timeout=30)
    assert "content-encoding" not in small.headers


def test_a_picture_comes_as_a_form(server: Server, clients: list[Client]) -> None:
    red = picture(1)
    as_json = requests.post(
        f"{server.http}/encode", json={"data": [{"image": base64_of(red)}]}, timeout=30
    )
    files = {"image": ("x.jpg", io.BytesIO(red), "image/jpeg")}
    answer = requests.post(f"{server.http}/encode", files=files, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["embedding"] == as_json.json()["data"][0]["embedding"]
    fields = {"id": "x", "text": "red", "tags": '{"price": 3}'}
    stored = requests.post(f"{server.http}/index", files={"image": red}, data=fields, timeout=30)
    assert stored.json()["indexed"] == 1, stored.text
    fields = {"limit": "3", "filter": "price < 5"}
    found = requests.post(f"{server.http}/search", files={"image": red}, data=fields, timeout=30)
    assert [m["id"] for m in found.json()["data"][0]["matches"]] == ["x"], found.text


@pytest.mark.parametrize(
    ("path", "files", "status", "words"),
    [
        ("/encode", {"picture": b"x"}, 422, "there are image"),
        ("/search", {"image": b"x", "limt": (None, "3")}, 422, "limit"),
        ("/search", {"image": b"x", "limit": (None, "many")}, 422, "limit"),
        ("/search", {"image": b"junk"}, 422, "picture"),
        ("/index", {"image": b"x", "tags": (None, "[1]")}, 422, "object"),
        ("/rank", {"image": b"x"}, 415, "multipart/form-data"),
        ("/delete", {"image": b"x"}, 415, "multipart/form-data"),
    ],
)  # fmt: skip
def test_bad_forms_are_refused(
    server: Server, path: str, files: Any, status: int, words: str
) -> None:
    answer = requests.post(server.http + path, files=files, timeout=30)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("image/jpeg", b"\xff\xd8", 415),
        ("multipart/form-data", b"--x", 400),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data; name=image",
            400,
        ),
        ("multipart/form-data; boundary=x", b"", 400),
    ],
)
def test_bodies_that_are_no_forms(server: Server, kind: str, body: bytes, status: int) -> None:
    answer = requests.post(
        f"{server.http}/encode", data=body, headers={"Content-Type": kind}, timeout=30
    )
    assert answer.status_code == status, answer.text
