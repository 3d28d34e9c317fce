"""URIs that a server reads: from where it is allowed alone, whatever client and web server try."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cliptune.errors import BadImage, BadInput
from cliptune.executors.fetching import Fetcher
from cliptune.settings import Settings

LOOPBACK = "127.0.0.0/8"


class Pictures(BaseHTTPRequestHandler):
    """A web server that means no good."""

    def do_GET(self) -> None:
        self.server.asked.append((self.headers["Host"], self.path))
        where = self.path.split("?")[0]
        if where.startswith("/redirect/"):
            self.send_response(302)
            self.send_header("Location", self.path.split("?to=", 1)[1])
            self.end_headers()
            return
        if where == "/pics/missing.jpg":
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        size = 2 * 1024 * 1024 if where.endswith("large.jpg") else 8
        with contextlib.suppress(OSError):  # we hang up on what is too large
            self.wfile.write(b"p" * size)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetcher(prefixes: str, networks: str = LOOPBACK) -> Fetcher:
    made = Fetcher.allowed_by(Settings.read(allow_uris=prefixes, allow_networks=networks))
    assert made is not None
    return made


def test_pictures_below_a_prefix(web: ThreadingHTTPServer) -> None:
    at = f"http://127.0.0.1:{web.server_port}"
    reader = fetcher(f"{at}/pics")
    uris = [f"{at}/pics/{i}.jpg?v=1" for i in range(40)]
    found = reader.read_all([*uris, f"{at}/pics/missing.jpg", f"{at}/else/1.jpg"])
    assert found[:40] == [b"p" * 8] * 40
    assert "answered 404" in str(found[40])
    assert "not below" in str(found[41])
    assert (f"127.0.0.1:{web.server_port}", "/pics/7.jpg?v=1") in web.asked
    assert not any("else" in path for _, path in web.asked)


@pytest.mark.parametrize(
    "uri",
    [
        "{at}/pics/../secret.jpg",
        "{at}/pics/%2e%2e/secret.jpg",
        "{at}/picsecret/a.jpg",
        "{at}/pics\\..\\secret.jpg",
        "http://127.0.0.1:{port}@evil.example/pics/a.jpg",
        "http://user@127.0.0.1:{port}/pics/a.jpg",
        "http://evil.example/pics/a.jpg#http://127.0.0.1:{port}/pics/",
        "https://127.0.0.1:{port}/pics/a.jpg",
        "http://127.0.0.1:1/pics/a.jpg",
        "http://127.0.0.1:99999/pics/a.jpg",
        "{at}/pics/a b.jpg",
        "{at}/pics/a\r\nHost: evil.jpg",
        "ftp://127.0.0.1/pics/a.jpg",
        "gopher://127.0.0.1/pics/a.jpg",
        "http:///pics/a.jpg",
        "http://[::1/pics/a.jpg",
        "//127.0.0.1/pics/a.jpg",
        "file:///etc/passwd",
        "/etc/passwd",
        "pics/a.jpg",
    ],
)
def test_what_is_elsewhere_is_not_asked_for(web: ThreadingHTTPServer, uri: str) -> None:
    at = f"http://127.0.0.1:{web.server_port}"
    with pytest.raises(BadImage):
        fetcher(f"{at}/pics/").read(uri.format(at=at, port=web.server_port))
    assert web.asked == []


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "172.16.9.9", "192.168.1.1", "169.254.169.254", "100.64.0.1",
     "0.0.0.0",
     "::1", "fe80::1", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
     "2002:7f00:1::", "2001:0:1::1", "224.0.0.1", "255.255.255.255", "fe80::1%eth0"],
)  # fmt: skip
def test_no_address_inside_is_connected_to(
    address: str, monkeypatch: pytest.MonkeyPatch, web: ThreadingHTTPServer
) -> None:
    reader = fetcher("http://cdn.shop.example/", networks="")
    assert not reader.allows(address)
    # DNS says first a public address, then one inside: none of them is asked.
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    answers = [(socket.AF_INET, 1, 6, "", ("93.184.216.34", 80)), (family, 1, 6, "", (address, 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    with pytest.raises(BadImage, match="not a public address"):
        reader.read("http://cdn.shop.example/a.jpg")


def test_public_addresses_and_those_of_the_operators_networks() -> None:
    assert fetcher("http://a.example/", "").allows("93.184.216.34")
    assert fetcher("http://a.example/", "").allows("2606:4700::1111")
    assert not fetcher("http://a.example/", "").allows("10.1.2.3")
    assert fetcher("http://a.example/", "10.1.2.0/24, fd00::/8").allows("10.1.2.3")
    assert not fetcher("http://a.example/", "10.1.2.0/24").allows("10.1.3.3")


def test_a_name_is_resolved_once_and_the_server_hears_its_name(
    web: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the second answer would be another address."""
    asked: list[str] = []

    def resolve(host: str, port: int, *_: object, **__: object) -> list:
        if host[0].isdigit():  # urllib3 passes the address through here too
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    connect = socket.socket.connect
    where: list[str] = []
    monkeypatch.setattr(
        socket.socket, "connect", lambda self, to: (where.append(to[0]), connect(self, to))[1]
    )
    at = f"http://cdn.shop.example:{web.server_port}"
    assert fetcher(f"{at}/").read(f"{at}/pics/a.jpg") == b"p" * 8
    assert asked == ["cdn.shop.example"]
    assert where == ["127.0.0.1"]
    assert web.asked == [(f"cdn.shop.example:{web.server_port}", "/pics/a.jpg")]


def test_redirects_are_checked_like_the_first_address(web: ThreadingHTTPServer) -> None:
    at = f"http://127.0.0.1:{web.server_port}"
    reader = fetcher(f"{at}/redirect/,{at}/pics/")
    assert reader.read(f"{at}/redirect/?to=/pics/a.jpg") == b"p" * 8
    for to, words in (
        ("/secret.jpg", "not below"),
        ("http://169.254.169.254/latest/", "not below"),
        ("file:///etc/passwd", "not below"),
        ("/redirect/?to=/redirect/?to=/secret.jpg", "not below"),
    ):
        with pytest.raises(BadImage, match=words):
            reader.read(f"{at}/redirect/?to={to}")
    with pytest.raises(BadImage, match="more than 3 redirects"):
        reader.read(f"{at}/redirect/x?to=" + f"{at}/redirect/x?to=" * 5 + "/pics/a.jpg")
    # An allowed name that leads inside after a redirect.
    inside = fetcher(f"http://93.184.216.34/,{at}/", networks="")
    with pytest.raises(BadImage, match="not a public address"):
        inside.read(f"{at}/pics/a.jpg")


def test_size_and_sum_are_bounded(
    web: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = f"http://127.0.0.1:{web.server_port}"
    monkeypatch.setenv("CLIPTUNE_FETCH_BYTES", "1048576")
    with pytest.raises(BadImage, match="more than 1048576 bytes"):
        fetcher(f"{at}/").read(f"{at}/large.jpg")
    monkeypatch.setenv("CLIPTUNE_FETCH_BYTES", f"{4 * 1024 * 1024}")
    monkeypatch.setenv("CLIPTUNE_MAX_BODY", f"{5 * 1024 * 1024}")
    found = fetcher(f"{at}/").read_all([f"{at}/{i}large.jpg" for i in range(12)])
    fetched = sum(isinstance(one, bytes) for one in found)
    assert fetched <= 2
    assert any("together" in str(one) for one in found if not isinstance(one, bytes))


def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPTUNE_FETCH_SECONDS", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        at = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(BadImage, match=r"within 1 s|can't be read"):
            fetcher(f"{at}/").read(f"{at}/a.jpg")


def test_files_below_a_prefix(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "a b.jpg").write_bytes(b"picture")
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "inner").symlink_to(folder / "in")
    os.mkfifo(folder / "pipe")
    reader = fetcher(f"file://{folder}/")
    assert reader.read(f"file://{folder}/in/a%20b.jpg") == b"picture"
    assert reader.read(f"{folder}/inner/a%20b.jpg") == b"picture"
    for path in ("link", "linked/secret", "../secret", "%2e%2e/secret", "in/../../secret", "pipe",
                 "in", "nothing", "a%00b"):  # fmt: skip
        with pytest.raises(BadImage) as caught:
            reader.read(f"file://{folder}/{path}")
        assert "secret'" not in str(caught.value).replace(path, "")
    with pytest.raises(BadImage, match="not below"):
        reader.read("file:///etc/passwd")
    with pytest.raises(BadImage, match="not below"):
        reader.read(f"file://host{folder}/in/a%20b.jpg")


@pytest.mark.parametrize(
    "prefixes",
    ["shop.example/", "ftp://shop.example/", "https://", "https://shop.example/?a", "file://host/a/",
     "https://a@shop.example/", "https://shop.example/../a/", "https://shop.example:99999/"],
)  # fmt: skip
def test_wrong_prefixes_end_the_start(prefixes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPTUNE_ALLOW_URIS", prefixes)
    with pytest.raises(BadInput, match="CLIPTUNE_ALLOW_URIS"):
        Fetcher.allowed_by(Settings.read())
    monkeypatch.setenv("CLIPTUNE_ALLOW_URIS", "")
    assert Fetcher.allowed_by(Settings.read()) is None
    monkeypatch.setenv("CLIPTUNE_ALLOW_URIS", "https://shop.example/")
    monkeypatch.setenv("CLIPTUNE_ALLOW_NETWORKS", "10.0.0.1/8")
    with pytest.raises(BadInput, match="CLIPTUNE_ALLOW_NETWORKS"):
        Fetcher.allowed_by(Settings.read())
