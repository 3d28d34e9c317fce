"""`cliptune download` from a mirror of the hub, and what is left when no hub may be asked."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cliptune.models.loading import load_model

pytestmark = pytest.mark.e2e


class Mirror(BaseHTTPRequestHandler):
    """As much of the hub as its client asks for: files of one repository, with their hashes."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        self.asked.append(self.path)
        start = "/shop/clip/resolve/main/"
        file = self.folder / self.path.removeprefix(start)
        is_there = self.path.startswith(start) and file.is_file()
        data = file.read_bytes() if is_there else b""
        self.send_response(200 if is_there else 404)
        if not is_there:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if with_body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(tiny_model: Path) -> Iterator[tuple[str, list[str]]]:
    handler = type("Here", (Mirror,), {"folder": tiny_model, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.asked
    server.shutdown()
    thread.join()
    server.server_close()


def cliptune(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "CLIPTUNE_OFFLINE"))}
    return subprocess.run(
        [sys.executable, "-m", "cliptune", *args],
        env={**kept, **environment}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_a_model_from_a_mirror(
    mirror: tuple[str, list[str]], tiny_model: Path, tmp_path: Path
) -> None:
    address, asked = mirror
    cache = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hub")}
    done = cliptune("download", "shop/clip", "--out", str(tmp_path / "copy"), **cache)
    assert done.returncode == 0, done.stderr
    digest = load_model(tiny_model).digest
    assert digest[:12] in done.stdout
    assert load_model(tmp_path / "copy").digest == digest
    assert asked
    asked.clear()
    done = cliptune("download", "shop/clip", CLIPTUNE_OFFLINE="1", **cache)
    assert done.returncode == 0, done.stderr
    assert asked == [], "nothing is asked when offline"
    done = cliptune("download", "shop/other", CLIPTUNE_OFFLINE="1", **cache)
    assert done.returncode == 1
    assert "CLIPTUNE_OFFLINE is set" in done.stderr
    assert asked == []
