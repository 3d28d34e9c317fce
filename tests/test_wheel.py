"""The wheel, installed alone in an environment of its own, outside the checkout, runs the demo."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.pictures import picture
from tests.ports import free_port
from tests.server import Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
ROOT = Path(__file__).resolve().parents[1]


def find_uv() -> str:
    beside = ROOT / ".uv" / "bin" / "uv"
    found = shutil.which("uv") or (str(beside) if beside.is_file() else None)
    if found is None:
        pytest.skip("no uv here: `make test` brings its own")
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(folder, find_uv(), "build", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT))
    [built] = folder.glob("*.whl")
    return built


def run(folder: Path, *command: str, code: int = 0) -> str:
    """Run a command outside the checkout; returns what it printed."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr if code else done.stdout


ASK = """
import asyncio, importlib.util, sys
from cliptune import AsyncClient, Client, ClipDoc
from cliptune.serving import RemoteSession

for name in ("torch", "jina", "lancedb", "onnxruntime", "fastapi", "matplotlib"):
    assert importlib.util.find_spec(name) is None, name

async def main(address):
    async with AsyncClient(address) as client:
        return (await client.search("red", limit=1, filter="sku == 'base'")).matches[0].id

for address in sys.argv[1:]:
    with Client(address) as client:
        client.index([ClipDoc(id="one", uri="one.png", text="red", tags={"sku": "base"})])
        assert client.search("red", filter="sku == 'base'").matches[0].id == "one"
        assert client.encode(["a", ClipDoc(uri="one.png").uri]).shape[0] == 2
    assert asyncio.run(main(address)) == "one"
print("asked")
"""


def test_the_base_is_a_client(wheel: Path, tmp_path: Path, server: Server) -> None:
    """Without extras: no torch, no Jina; it asks a server, and says what is missing."""
    uv, environment = find_uv(), tmp_path / "environment"
    run(tmp_path, uv, "venv", "--quiet", "--python", sys.executable, str(environment))
    python, lock = str(environment / "bin" / "python"), str(ROOT / "requirements.lock")
    install = (uv, "pip", "install", "--quiet", "--python", python, "--constraint", lock)
    run(tmp_path, *install, str(wheel))
    (tmp_path / "one.png").write_bytes(picture(1))
    assert run(tmp_path, python, "-c", ASK, server.grpc, server.http) == "asked\n"
    command = str(environment / "bin" / "cliptune")
    assert "Fine-tune CLIP" in run(tmp_path, command, "--help")
    assert "one" in run(tmp_path, command, "search", "red", "--server", server.grpc)
    (tmp_path / "t.csv").write_text("title,picture\na,one.png\nb,one.png\n")
    for arguments, extra in {
        ("serve", "--index", "shop"): "serve",
        ("fit", "t.csv", "--text-column", "title", "--image-column", "picture"): "train",
    }.items():
        told = " ".join(run(tmp_path, command, *arguments, code=1).split())
        assert f"pip install 'cliptune[{extra}]'" in told
        assert "Traceback" not in told


def test_the_demo_from_the_wheel(wheel: Path, tmp_path: Path, cliptune_home: Path) -> None:
    uv = find_uv()
    names = zipfile.ZipFile(wheel).namelist()
    assert "cliptune/serving/flows/search.yml" in names
    assert "cliptune/py.typed" in names
    for name in ("index.html", "style.css", "main.js"):
        assert f"cliptune/gateway/page/site/{name}" in names
    assert "cliptune/models/builtin/open_clip_model.safetensors" in names
    assert wheel.stat().st_size < 15_000_000

    environment = tmp_path / "environment"
    run(tmp_path, uv, "venv", "--quiet", "--python", sys.executable, str(environment))
    python = str(environment / "bin" / "python")
    run(tmp_path, uv, "pip", "install", "--quiet", "--no-deps", "--python", python, str(wheel))
    # All other packages are these tests' own, by the same lock: once more they would have to be
    # compiled first. A path of a `.pth` isn't searched for more of them: the checkout stays out.
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run(tmp_path, python, "-c", "import cliptune; print(cliptune.__file__)")
    assert where.startswith(str(environment))

    told = run(
        tmp_path, str(environment / "bin" / "cliptune"), "demo", "--epochs", "1", "--out", "out",
        "--grpc-port", str(free_port()), "--http-port", str(free_port()),
    )  # fmt: skip
    assert "before" in told
    assert "WiSE-FT" in told
    assert "750 pictures indexed" in told
    assert (tmp_path / "out" / "results.png").stat().st_size > 50_000
    assert len(list((tmp_path / "out").glob("*.zip"))) == 1
