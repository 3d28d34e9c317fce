"""The wheel, installed alone in an environment of its own, outside the checkout, runs the demo."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
ROOT = Path(__file__).resolve().parents[1]


def find_uv() -> str:
    beside = ROOT / ".uv" / "bin" / "uv"
    found = shutil.which("uv") or (str(beside) if beside.is_file() else None)
    if found is None:
        pytest.skip("no uv here: `make test` brings its own")
    return found


def test_the_demo_from_the_wheel(tmp_path: Path, cliptune_home: Path) -> None:
    uv = find_uv()

    def run(*command: str) -> str:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    run(uv, "build", "--quiet", "--wheel", "--out-dir", str(tmp_path), str(ROOT))
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "cliptune/serving/flows/search.yml" in names
    assert "cliptune/py.typed" in names
    assert "cliptune/gateway/page/index.html" in names
    assert "cliptune/models/builtin/open_clip_model.safetensors" in names
    assert wheel.stat().st_size < 15_000_000

    environment = tmp_path / "environment"
    run(uv, "venv", "--quiet", "--python", sys.executable, str(environment))
    python = str(environment / "bin" / "python")
    lock = str(ROOT / "requirements.lock")
    run(uv, "pip", "sync", "--quiet", "--python", python, "--require-hashes", lock)
    run(uv, "pip", "install", "--quiet", "--no-deps", "--python", python, str(wheel))
    where = run(python, "-c", "import cliptune; print(cliptune.__file__)")
    assert where.startswith(str(environment))

    told = run(
        str(environment / "bin" / "cliptune"), "demo", "--epochs", "1", "--out", "out",
        "--grpc-port", str(free_port()), "--http-port", str(free_port()),
    )  # fmt: skip
    assert "before" in told
    assert "WiSE-FT" in told
    assert "750 pictures indexed" in told
    assert (tmp_path / "out" / "results.png").stat().st_size > 50_000
    assert len(list((tmp_path / "out").glob("*.zip"))) == 1
