"""Fixtures shared by all tests: a home of their own, and the real pictures where they are."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cliptune.demo.catalogue.dataset import FOLDER
from tests.milvus_process import INSTALLED, MilvusProcess
from tests.tiny_model import make_tiny_model

ROOT = Path(__file__).resolve().parents[1]
# One thread for the tiny models here, and in what tests start: several files run at once, and
# threads that wait for each other's cores take longer. torch reads it when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
pytest_plugins = ["tests.server", "tests.slowest", "tests.gpu"]


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of this process's tests; the catalogue's drawings in it are drawn once for all.

    They take longest, and are kept in `build` by the code that they are drawn by.
    """
    code = hashlib.sha256()
    for file in sorted((ROOT / "cliptune" / "demo" / "catalogue").rglob("*.py")):
        code.update(file.read_bytes())
    drawn = ROOT / "build" / "catalogue" / code.hexdigest()[:16]
    drawn.mkdir(parents=True, exist_ok=True)
    cache = tmp_path_factory.mktemp("cache")
    (cache / FOLDER).symlink_to(drawn)
    return cache


@pytest.fixture(autouse=True)
def cliptune_home(
    shared_cache: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Keep each test's runs and data sets apart."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "cache").symlink_to(shared_cache)
    monkeypatch.setenv("CLIPTUNE_HOME", str(folder))
    return folder


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in the memory's file system, where there is room: for tests that write it often.

    To be used where processes are killed, not the machine: the file system loses nothing by that,
    in memory or on a disk, and disks may take seconds to bring a file to rest.
    """
    memory = Path("/dev/shm")
    if not memory.is_dir() or shutil.disk_usage(memory).free < 2**30:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def mount_disk() -> Iterator[Callable[[Path, str], None]]:
    """Mounts a disk of a size such as `8m` at a folder, or makes it larger; or skips."""
    mounted: list[Path] = []

    def mount(folder: Path, size: str) -> None:
        again = "remount," if folder in mounted else ""
        folder.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"{again}size={size}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        if not again:
            mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def new_milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], MilvusProcess]]:
    """Starts a Milvus server of its own at each call; skips where none is installed.

    They end with the module: a server starts within seconds, and is never quite idle.
    """
    if not INSTALLED.is_file():
        pytest.skip("no Milvus server here: scripts/install-milvus installs one")
    started: list[MilvusProcess] = []

    def start() -> MilvusProcess:
        started.append(MilvusProcess(tmp_path_factory.mktemp("milvus")))
        started[-1].start()
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="module")
def milvus(new_milvus: Callable[[], MilvusProcess]) -> MilvusProcess:
    """The module's one Milvus server, which no test ends."""
    return new_milvus()


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with the real fashion and clothing pictures; skips where it is missing."""
    folder = Path(os.environ.get("CLIPTUNE_SHARED") or ROOT.parent / "shared")
    if not (folder / "fashion" / "products.csv").is_file():
        pytest.skip(f"no real pictures at {folder} (set CLIPTUNE_SHARED)")
    return folder


@pytest.fixture(scope="session")
def peer_python() -> Callable[[str], Path]:
    """The Python of a peer's own environment, by its name; skips where it isn't installed."""
    folder = ROOT / os.environ.get("CLIPTUNE_PEERS_DIR", ".peers")

    def find(name: str) -> Path:
        python = folder / name / "bin" / "python"
        if not python.is_file():
            pytest.skip(f"no {name} at {folder} (scripts/install-peers installs it)")
        return python

    return find


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny CLIP of random weights: two transformers, CLIP's own vocabulary."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Artifacts of three tiny models that agree in nothing but their shape."""
    import torch

    from cliptune.models.artifact_writer import write_artifact
    from cliptune.models.loading import load_model

    folder = tmp_path_factory.mktemp("models")
    for number in range(3):
        model = load_model(tiny_model)
        torch.manual_seed(number)
        with torch.no_grad():
            for weights in model.clip.parameters():
                weights += 0.05 * torch.randn_like(weights)
        write_artifact(model, folder / str(number))
    return folder / "0", folder / "1", folder / "2"
