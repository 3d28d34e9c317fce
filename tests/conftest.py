"""Fixtures shared by all tests: a home of their own, and the real pictures where they are."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.milvus_process import INSTALLED, MilvusProcess
from tests.tiny_model import make_tiny_model

pytest_plugins = ["tests.server"]

SLOWEST = [
    "test_wheel.py",
    "serving/test_train_flow.py",
    "serving/test_swap_flow.py",
    "reindex/test_swap.py",
    "test_sdk.py",
    "cli/test_cli.py",
    "runs/test_survival.py",
    "serving/test_milvus.py",
    "runs/test_training_runs.py",
    "training/test_distributed.py",
    "training/test_objective.py",
    "index/test_index_kills.py",
    "serving/test_launch.py",
    "serving/test_search_flow.py",
    "models/test_plug_out.py",
    "cli/test_cli_wise_ft.py",
    "serving/test_ending.py",
]
"""Files that begin first, so that no process of the tests is left alone with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slowest files first; within a file all stays as it is."""
    place = {Path(__file__).parent / name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: place.get(item.path, len(SLOWEST)))


@pytest.fixture(autouse=True)
def cliptune_home(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Keep each test's runs and data sets apart; drawn catalogues are shared through the cache."""
    folder = tmp_path_factory.mktemp("home")
    shared_cache = tmp_path_factory.getbasetemp() / "cache"
    shared_cache.mkdir(exist_ok=True)
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
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("CLIPTUNE_SHARED") or root.parent / "shared")
    if not (folder / "fashion" / "products.csv").is_file():
        pytest.skip(f"no real pictures at {folder} (set CLIPTUNE_SHARED)")
    return folder


@pytest.fixture(scope="session")
def peer_python() -> Callable[[str], Path]:
    """The Python of a peer's own environment, by its name; skips where it isn't installed."""
    root = Path(__file__).resolve().parents[1]
    folder = root / os.environ.get("CLIPTUNE_PEERS_DIR", ".peers")

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
