"""Fixtures shared by all tests: a home of their own, and the real pictures where they are."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


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


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with the real fashion and clothing pictures; skips where it is missing."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("CLIPTUNE_SHARED") or root.parent / "shared")
    if not (folder / "fashion" / "products.csv").is_file():
        pytest.skip(f"no real pictures at {folder} (set CLIPTUNE_SHARED)")
    return folder


TINY_CONFIG = {
    "model_cfg": {
        "embed_dim": 32,
        "vision_cfg": {
            "layers": 2,
            "width": 64,
            "head_width": 32,
            "patch_size": 8,
            "image_size": 32,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 2,
        },
    },
    "preprocess_cfg": {
        "size": [32, 32],
        "mean": [0.48, 0.45, 0.40],
        "std": [0.26, 0.26, 0.27],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    },
}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny CLIP of random weights: two transformers, CLIP's own vocabulary."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


def make_tiny_model(folder: Path) -> Path:
    """What `tiny_model` gives, made in a new folder."""
    import torch
    from safetensors.torch import save_file

    from cliptune.models.openclip import open_clip

    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(TINY_CONFIG))
    torch.manual_seed(7)
    clip = open_clip.CLIP(**json.loads(json.dumps(TINY_CONFIG["model_cfg"])))
    weights = {name: value.contiguous() for name, value in clip.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder
