"""What can't be read is refused in words that say what to do, and no code is run on the way."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cliptune.errors import BadInput, CliptuneError, NotFound, Unavailable
from cliptune.models.formats.checkpoints import read_checkpoint
from cliptune.models.loading import load_model
from tests.models.formats import owners

pytest.importorskip("transformers", reason="needs cliptune[hf]")


class Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("ran"),))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return owners.clip(tmp_path_factory.mktemp("clip") / "clip").folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "model")
    return tmp_path / "model"


def change(folder: Path, part: str, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (config[part] if part else config).update(values)
    (folder / "config.json").write_text(json.dumps(config))


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"text_model": Evil()}, folder / "pytorch_model.bin")


def half_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1000)}, folder / "pytorch_model.bin")
    weights = folder / "pytorch_model.bin"
    weights.write_bytes(weights.read_bytes()[:2000])


def one_shard_of_two(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def outside(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "../../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid x")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (cut, "no whole safetensors file.*again"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "is empty: download it again"),
    "pickle": (pickled, r"it asks for [\w.]+.*could run code: it was not opened"),
    "half a pickle": (half_pickle, "no whole checkpoint.*again"),
    "a shard": (one_shard_of_two, r"1 of the 2 files.*00002.*is missing: download"),
    "a shard elsewhere": (outside, "names files of another folder"),
    "git lfs": (pointer, "git lfs pull"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has a config but no weights"),
    "config cut": (lambda f: (f / "config.json").write_text('{"model_'), "config.json is no JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "no model's config"),
    "another kind": (lambda f: change(f, "", model_type="blip"), "kind 'blip'.*clip, siglip"),
    "layers": (lambda f: change(f, "text_config", num_hidden_layers=3), r"layers\.2.*|missing"),
    "shape": (lambda f: change(f, "", projection_dim=40), r"has the shape \(64, 48\)|shape"),
    "activation": (lambda f: change(f, "vision_config", hidden_act="relu"), "'relu' for pictures"),
    "size": (lambda f: change(f, "vision_config", image_size=48), "resized to.*takes 48 x 48"),
    "a word": (lambda f: change(f, "text_config", hidden_size="wide"), "can't be read"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_folder(what: str, folder: Path) -> None:
    damage, words = BROKEN[what]
    damage(folder)
    with pytest.raises(BadInput, match=words) as error:
        load_model(folder)
    assert "model" in str(error.value)
    assert "weights_only" not in str(error.value), "no library's advice to load unsafely"
    assert not Path("ran").exists()


def test_an_archive_that_asks_for_more_than_tensors(tmp_path: Path) -> None:
    file = tmp_path / "evil.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps({"a": Evil()}))
        archive.writestr("evil/constants.pkl", pickle.dumps(()))
    with pytest.raises(BadInput, match=r"not opened: it asks for"):
        read_checkpoint(file)
    assert not (tmp_path / "ran").exists()


def test_part_of_a_repository_in_the_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "model.safetensors").unlink()
    monkeypatch.setenv("CLIPTUNE_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    owners.in_cache(folder, tmp_path / "hub", "shop/half")
    with pytest.raises(Unavailable, match="downloaded in part.*cliptune download shop/half"):
        load_model("shop/half")
    with pytest.raises(Unavailable, match="CLIPTUNE_OFFLINE is set.*cliptune download shop/none"):
        load_model("shop/none")


def test_files_and_folders_that_are_no_models(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match=r"config.json of transformers.*metadata.yml"):
        load_model(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(BadInput, match=r"can be read: \.safetensors"):
        load_model(tmp_path / "notes.txt")
    alone = tiny_model / "open_clip_model.safetensors"
    with pytest.raises(BadInput, match=r"ARCH::TAG::.*open_clip_model\.safetensors"):
        load_model(alone)
    with pytest.raises(CliptuneError, match="there is no folder and no file"):
        load_model("./nothing.pt")


def test_a_folder_here_comes_before_the_hub(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPTUNE_OFFLINE", "1")
    (tmp_path / "shop").mkdir()
    folder.rename(tmp_path / "shop" / "clip")
    assert load_model("shop/clip").output_dim == 48
    with pytest.raises(Unavailable):
        load_model("hf-hub:shop/clip")
