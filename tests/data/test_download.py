"""Pictures by URL from a real web server that misbehaves, and downloads that are killed."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from docarray import DocList
from PIL import Image
from typer.testing import CliRunner

import cliptune
from cliptune.cli.app import app
from cliptune.data.pictures.download import download_pictures, fetch
from cliptune.data.pictures.images import image_bytes
from cliptune.data.source import read_documents
from cliptune.data.validation import PAIR
from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadImage, BadInput
from cliptune.inference import get_tower
from tests.waiting import wait_until


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (number % 256, 90, 10)).save(buffer, "PNG")
    return buffer.getvalue()


class Shop(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        kind, _, name = self.path.strip("/").partition("/")
        if kind == "gone":
            self.send_error(404)
        elif kind == "loop":
            self.redirect(f"/loop/{name}x")
        elif kind == "moved":
            self.redirect(f"/good/{name}")
        elif kind == "file":
            self.redirect("file:///etc/passwd")
        else:
            self.answer(kind, name)

    def redirect(self, place: str) -> None:
        self.send_response(302)
        self.send_header("Location", place)
        self.end_headers()

    def answer(self, kind: str, name: str) -> None:
        body = {
            "page": b"<html>please log in</html>",
            "huge": b"p" * 300_000,
            "gzip": gzip.compress(bytes(50_000_000)),
            "cut": png(1)[:30],
        }.get(kind, png(int(name) if name.isdigit() else 0))
        self.send_response(200)
        if kind == "gzip":
            self.send_header("Content-Encoding", "gzip")
        if kind == "cut":
            self.send_header("Content-Length", str(len(png(1))))
        self.end_headers()
        with contextlib.suppress(OSError):
            if kind == "slow":
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.2)
            if kind == "later":
                time.sleep(0.05)
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def shop() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def at(shop: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{shop.server_port}"


def test_each_picture_is_fetched_once(shop: ThreadingHTTPServer, at: str, tmp_path: Path) -> None:
    urls = [f"{at}/good/{i}" for i in range(30)] + [f"{at}/moved/77", f"{at}/good/3"]
    seen: list[tuple[int, int]] = []
    found = download_pictures(urls, tmp_path, on_progress=lambda *told: seen.append(told))
    assert found.problems == {}
    assert (found.fetched, len(found.files), seen[-1]) == (31, 31, (31, 31))
    assert all(found.files[f"{at}/good/{i}"].read_bytes() == png(i) for i in range(30))
    assert found.files[f"{at}/moved/77"].read_bytes() == png(77)
    asked = len(shop.asked)
    again = download_pictures([*urls, f"{at}/good/99"], tmp_path)
    assert (again.fetched, len(again.files), len(shop.asked)) == (1, 32, asked + 1)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("/gone/1", "answered 404"),
        ("/loop/1", "more than 3 redirects"),
        ("/file/1", "no http or https URL"),
        ("/page/1", "not a picture"),
        ("/huge/1", "more than 200000 bytes"),
        ("/gzip/1", "not a picture"),
        ("/slow/1", "did not arrive within 2|can't be read"),
        ("/cut/1", "30 of .* bytes arrived|can't be read"),
    ],
)
def test_what_is_no_picture_is_named_and_not_kept(
    place: str, words: str, at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPTUNE_FETCH_SECONDS", "2")
    monkeypatch.setenv("CLIPTUNE_FETCH_BYTES", "200000")
    found = download_pictures([f"{at}{place}", f"{at}/good/1"], tmp_path / "kept")
    assert list(found.files) == [f"{at}/good/1"]
    with pytest.raises(BadImage, match=words):
        raise BadImage(found.problems[f"{at}{place}"])
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 1


def test_hosts_that_are_not_there() -> None:
    for url in ("http://127.0.0.1:9/a.png", "http://no.such.host.invalid/a.png", "http://["):
        with pytest.raises(BadImage):
            fetch(url)
    for url in ("file:///etc/passwd", "ftp://a/b.png", "/etc/passwd"):
        with pytest.raises(BadImage, match="no http or https URL"):
            fetch(url)


@pytest.mark.e2e
def test_a_download_that_was_killed_goes_on(
    shop: ThreadingHTTPServer, at: str, tmp_path: Path
) -> None:
    urls = [f"{at}/later/{i}" for i in range(60)]
    code = (
        "from cliptune.data.pictures.download import download_pictures\n"
        f"download_pictures({urls!r}, {str(tmp_path)!r}, workers=2)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: len(shop.asked) >= 20)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = len(shop.asked)
    found = download_pictures(urls, tmp_path)
    assert len(found.files) == 60
    assert all(found.files[url].read_bytes() == png(i) for i, url in enumerate(urls))
    assert 0 < found.fetched <= 60 - (before - 4), "what was there is not fetched again"


def test_encode_fetches_what_a_document_names(
    at: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = get_tower(tiny_model, "clip-vision")
    docs = DocList[ClipDoc]([ClipDoc(uri=f"{at}/good/5"), ClipDoc(image=png(9))])
    cliptune.encode(tower, docs)
    expected = tower.encode([png(5), png(9)])
    np.testing.assert_allclose(np.stack([doc.embedding for doc in docs]), expected, atol=1e-6)
    with pytest.raises(BadImage, match=r"document 0 .*answered 404"):
        cliptune.encode(tower, DocList[ClipDoc]([ClipDoc(uri=f"{at}/gone/5")]))
    with pytest.raises(BadImage, match="never fetched"):
        cliptune.encode(tower, docs, fetch=False)
    monkeypatch.setenv("CLIPTUNE_FETCH", "0")
    with pytest.raises(BadInput, match="CLIPTUNE_FETCH=0 forbids"):
        cliptune.encode(tower, docs)


def test_a_tables_pictures_are_fetched_when_asked_for(
    shop: ThreadingHTTPServer, at: str, tmp_path: Path
) -> None:
    """Each once; what can't be fetched is left out and named; ids are the pictures' digests."""
    rows = [f"shirt {i},{at}/good/{i}" for i in range(5)]
    rows += [f"again,{at}/good/0", f"lost,{at}/gone/1"]
    path = tmp_path / "products.csv"
    path.write_text("\n".join(["title,image", *rows]))
    with pytest.raises(BadData, match=r"line 2 .*csv_options=\{'download': True\} fetches"):
        read_documents(path, needs=PAIR)
    assert shop.asked == []
    for asked in (6, 1):  # the lost one is asked for again
        shop.asked.clear()
        found = read_documents(path, csv_options={"download": True}, needs=PAIR)
        assert len(shop.asked) == asked
    assert [image_bytes(doc, allow_files=True) for doc in found.docs] == [
        *map(png, range(5)), png(0)
    ]  # fmt: skip
    assert str(found.docs[1].id) == hashlib.sha256(png(1)).hexdigest()
    [problem] = found.summary.left_out
    assert "line 8" in str(problem)
    assert "answered 404" in str(problem)
    docs = [ClipDoc(id=str(i), text="a", uri=row.split(",")[1]) for i, row in enumerate(rows)]
    found = read_documents(docs, csv_options={"download": True}, needs=PAIR)
    assert [str(doc.id) for doc in found.docs] == list("012345")
    assert "answered 404" in str(found.summary.left_out[0])


def test_the_shell_fetches_a_tables_pictures(at: str, tmp_path: Path) -> None:
    rows = [f"shirt {i},{at}/good/{i}" for i in range(4)]
    path = tmp_path / "products.csv"
    path.write_text("\n".join(["title,image", *rows]))
    command = ["evaluate", "builtin", "--queries", str(path), "--limit", "2", "--json"]
    refused = CliRunner().invoke(app, command)
    assert "--download fetches each of them once" in str(refused.exception)
    result = CliRunner().invoke(app, [*command, "--download"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["n_index"] == 4
