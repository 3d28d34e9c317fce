"""Artifacts from a web server that misbehaves, from S3, from folders: whole and right, or not."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
import yaml
from typer.testing import CliRunner

from cliptune.cli.app import app
from cliptune.errors import AlreadyExists, BadArtifact, BadInput, NotFound, Unavailable
from cliptune.files import zip_folder
from cliptune.models.artifact import open_artifact, write_checksums
from cliptune.models.fetching import digest_of, fetch_artifact
from tests.s3 import s3_server
from tests.waiting import wait_until

Models = tuple[Path, Path, Path]


class Shelf(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        kind = self.path.strip("/").partition("?")[0]
        if kind == "moved":
            self.send_response(302)
            self.send_header("Location", "/whole")
            self.end_headers()
            return
        if kind not in ("whole", "half", "slow"):
            self.send_error(404 if kind == "gone" else 403)
            return
        body = self.server.body
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = len(body) // 2
        self.wfile.write(body[:half])
        if kind == "slow":
            self.server.go_on.wait(60)
        if kind != "half":
            with contextlib.suppress(OSError):  # killed meanwhile
                self.wfile.write(body[half:])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def shelf(models: Models, tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    """A web server with the first of the models, zipped."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shelf)
    server.asked, server.go_on = [], threading.Event()
    server.body = zip_folder(models[0], tmp_path / "tuned.zip").read_bytes()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.go_on.set()
    server.shutdown()
    server.server_close()


def address(shelf: ThreadingHTTPServer, kind: str, login: str = "") -> str:
    return f"http://{login}127.0.0.1:{shelf.server_port}/{kind}"


def digest(model: Path) -> str:
    return open_artifact(model).digest


def is_alone(target: Path, *, there: bool) -> bool:
    """Whether nothing was left beside it."""
    return list(target.parent.iterdir()) == ([target] if there else [])


def test_it_is_the_model_that_was_written(models: Models) -> None:
    for model in models:
        assert digest_of(open_artifact(model)) == digest(model)


def test_it_comes_whole_by_all_ways(
    models: Models, shelf: ThreadingHTTPServer, tmp_path: Path
) -> None:
    sources = {
        "folder": str(models[0]),
        "zip": str(tmp_path / "tuned.zip"),
        "file": f"file://{tmp_path / 'tuned.zip'}",
        "web": address(shelf, "whole"),
        "moved": address(shelf, "moved"),
    }
    all_files = subprocess.run(
        ["sha256sum", "checksums.sha256"], cwd=models[0], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    for name, source in sources.items():
        for meant in (digest(models[0]), f"sha256:{all_files}"):
            target = tmp_path / name / meant / "model"
            told: list[tuple[int, int]] = []
            found = fetch_artifact(source, target, meant, tell=lambda *n, told=told: told.append(n))
            assert found.path == target
            assert open_artifact(target).digest == digest(models[0])
            assert is_alone(target, there=True)
            if name == "web":
                assert told[-1] == (len(shelf.body), len(shelf.body))


def test_from_s3(models: Models, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target = tmp_path / "pod" / "artifact"
    with s3_server(monkeypatch, tmp_path):
        system = fsspec.filesystem("s3")
        system.mkdir("models")
        system.put_file(str(zip_folder(models[1], tmp_path / "tuned.zip")), "models/tuned.zip")
        with pytest.raises(NotFound, match="no artifact at 's3://models/other.zip'"):
            fetch_artifact("s3://models/other.zip", target, digest(models[1]))
        with pytest.raises(BadArtifact, match=digest(models[1])):
            fetch_artifact("s3://models/tuned.zip", target, digest(models[0]))
        assert is_alone(target, there=False)
        words = ["fetch", "s3://models/tuned.zip", str(target), "--digest", digest(models[1])]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        assert digest(models[1]) in done.output.replace("\n", "")
    assert digest(target) == digest(models[1])
    # Nobody is asked any more.
    assert fetch_artifact("s3://models/tuned.zip", target, digest(models[1])).path == target


def test_what_is_not_meant_is_refused(models: Models, tmp_path: Path) -> None:
    """Even if its sums and its metadata have been made to fit."""
    target, meant = tmp_path / "pod" / "artifact", digest(models[0])
    of_all = digest_of(open_artifact(models[0]), of_all=True)
    other = tmp_path / "other"
    shutil.copytree(models[1], other)
    metadata = yaml.safe_load((other / "metadata.yml").read_text())
    (other / "metadata.yml").write_text(yaml.safe_dump(metadata | {"digest": meant}))
    with pytest.raises(BadArtifact, match="is not what it was"):
        fetch_artifact(str(other), target, meant)
    write_checksums(other)
    assert digest(other) == meant, "it says so"
    for digest_meant in (meant, of_all):
        with pytest.raises(BadArtifact, match=f"has the digest .*, and {digest_meant} is meant"):
            fetch_artifact(str(other), target, digest_meant)
    # The weights are right, and something else isn't.
    changed = tmp_path / "changed"
    shutil.copytree(models[0], changed)
    (changed / "models" / "clip-text" / "model.onnx").write_bytes(b"another model")
    write_checksums(changed)
    with pytest.raises(BadArtifact, match=of_all):
        fetch_artifact(str(changed), target, of_all)
    (changed / "models" / "clip-text" / "model.safetensors").write_bytes(b"no tensors")
    write_checksums(changed)
    with pytest.raises(BadArtifact, match=f"{changed}.*weights can't be read"):
        fetch_artifact(str(changed), target, meant)
    assert is_alone(target, there=False)
    for bad in ("", "latest", meant[:-1], meant.upper(), f"md5:{meant}"):
        with pytest.raises(BadInput, match="metadata.yml"):
            fetch_artifact(str(models[0]), target, bad)


def test_half_of_it_is_none(models: Models, shelf: ThreadingHTTPServer, tmp_path: Path) -> None:
    target, meant = tmp_path / "pod" / "artifact", digest(models[0])
    for kind, error, words in (
        ("half", Unavailable, "without sending complete message body"),
        ("gone", NotFound, "404"),
        ("locked", Unavailable, "403"),
    ):
        source = address(shelf, f"{kind}?signature=secret", "ops:secret@")
        with pytest.raises(error, match=words) as told:
            fetch_artifact(source, target, meant)
        assert "secret" not in str(told.value)
        assert address(shelf, kind) in str(told.value)
    (tmp_path / "cut.zip").write_bytes(shelf.body[: len(shelf.body) // 2])
    with pytest.raises(BadArtifact, match=r"cut\.zip.*zip"):
        fetch_artifact(str(tmp_path / "cut.zip"), target, meant)
    for nowhere in ("http://[", "http://", "http://:x/"):
        with pytest.raises(Unavailable, match="http"):
            fetch_artifact(nowhere, target, meant)
    assert is_alone(target, there=False)
    shelf.shutdown()
    shelf.server_close()
    with pytest.raises(Unavailable, match="refused"):
        fetch_artifact(address(shelf, "whole"), target, meant)


def start(source: str, target: Path, meant: str, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cliptune", "fetch", source, str(target), "--digest", meant]
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file)


def holds(pid: int, folder: Path) -> bool:
    """Whether a process has a folder open, as it has that which it waits for."""
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(handle) == str(folder.resolve()):
                return True
    return False


@pytest.mark.e2e
def test_killed_and_begun_again(models: Models, shelf: ThreadingHTTPServer, tmp_path: Path) -> None:
    """As a pod's init container is: what the killed one left goes, and the other waits for it."""
    target, meant = tmp_path / "pod" / "artifact", digest(models[0])
    half = tmp_path / "pod" / ".artifact.fetching" / "artifact.zip"
    log = tmp_path / "log"
    killed = start(address(shelf, "slow"), target, meant, tmp_path / "killed")
    wait_until(lambda: half.is_file() and half.stat().st_size > 0, 60)
    waiting = start(address(shelf, "whole"), target, meant, log)
    wait_until(lambda: holds(waiting.pid, half.parent), 60, log.read_text)
    assert shelf.asked == ["/slow"]
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait(30) == -signal.SIGKILL
    assert waiting.wait(60) == 0, log.read_text()
    assert digest(target) == meant
    assert is_alone(target, there=True)


def test_what_is_there_stays(models: Models, tmp_path: Path) -> None:
    target = tmp_path / "pod" / "artifact"
    target.mkdir(parents=True)
    (target / "letter.txt").write_text("dear")
    with pytest.raises(AlreadyExists, match="remove it first"):
        fetch_artifact(str(models[0]), target, digest(models[0]))
    assert (target / "letter.txt").read_text() == "dear"
    fetch_artifact(str(models[0]), target.with_name("other"), digest(models[0]))
    with pytest.raises(AlreadyExists, match=digest(models[1])):
        fetch_artifact(str(models[1]), target.with_name("other"), digest(models[1]))


def test_on_a_full_disk(
    models: Models, tmp_path: Path, mount_disk: Callable[[Path, str], None]
) -> None:
    disk = tmp_path / "disk"
    mount_disk(disk, "1m")
    with pytest.raises(OSError, match="No space left"):
        fetch_artifact(str(models[0]), disk / "pod" / "artifact", digest(models[0]))
    assert list((disk / "pod").iterdir()) == []
