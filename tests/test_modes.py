"""A whole life under an umask: training, keys, serving, indexing, swapping; and who may read it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pictures import picture
from tests.ports import free_ports

pytestmark = pytest.mark.e2e

LIFE = """
import os, sys
from pathlib import Path
os.umask(int(sys.argv[1], 8))
import cliptune
from cliptune.cli.app import app
from typer.testing import CliRunner

def shell(*arguments):
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == 0, (arguments, result.output, result.exception)

table = ["table.csv", "--text-column", "title", "--image-column", "picture"]
shell("fit", *table, "--model", sys.argv[2], "--epochs", 1, "--batch-size", 8, "--name", "one",
      "-c", "TensorBoardLogger")
shell("keys", "new", "ops", "--role", "admin", "--file", "keys.txt")
from cliptune.index import open_index
from cliptune.index.snapshots import write_snapshot
from cliptune.serving import serve
ports = dict(zip(("grpc_port", "http_port", "clip_service_port"), map(int, sys.argv[3:6])))
with serve("artifacts/one.zip", index="deep/shop-index", **ports):
    server = ["--server", f"grpc://127.0.0.1:{ports['grpc_port']}"]
    shell("index", *table, *server)
    shell("search", "product", *server)
with open_index("deep/shop-index") as index:
    index.optimize()
    write_snapshot(index, "backup")
"""


def modes(root: Path) -> dict[str, int]:
    return {
        str(path.relative_to(root)): stat.S_IMODE(path.lstat().st_mode)
        for path in [root, *root.rglob("*")]
        if not path.is_symlink()
    }


def test_a_whole_life(tmp_path: Path, tiny_model: Path) -> None:
    umask = "022"  # others: tests/test_files.py
    (tmp_path / "pictures").mkdir()
    rows = ["title,picture"]
    for n in range(16):
        (tmp_path / "pictures" / f"{n}.png").write_bytes(picture(n))
        rows.append(f"product {n},pictures/{n}.png")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    home = tmp_path / "home"
    result = subprocess.run(
        [sys.executable, "-c", LIFE, umask, str(tiny_model), *map(str, free_ports(3))],
        cwd=tmp_path, env={**os.environ, "CLIPTUNE_HOME": str(home)},
        capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    for private in (home, tmp_path / "backup"):
        for name, mode in modes(private).items():
            assert not mode & 0o077, (private.name, name, oct(mode))
    assert {"runs/default/one/run.json", "runs/default/one/run.log", "logs"} <= modes(home).keys()
    # LanceDB writes its files by the umask, in a folder that nobody else enters.
    for name, mode in modes(tmp_path / "deep" / "shop-index").items():
        if name.count("/") == 0:
            assert not mode & 0o077, (name, oct(mode))
    assert modes(tmp_path)["keys.txt"] == 0o600
    open_to = 0o777 & ~int(umask, 8)
    found = modes(tmp_path)
    assert (found["artifacts"], found["deep"]) == (open_to, open_to)
    assert found["artifacts/one.zip"] == open_to & 0o666
