"""Artifacts: what is written is what is read, and nothing else is accepted."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from cliptune.errors import BadArtifact, BadInput, NotFound
from cliptune.files import zip_folder
from cliptune.inference import get_tower
from cliptune.models.artifact import open_artifact, write_checksums
from cliptune.models.artifact_writer import write_artifact
from cliptune.models.loading import load_model
from cliptune.settings import ENGINES, Engine

TEXTS = ["a red shirt", "blue jeans for men", "a", "a very long title " * 40]


@pytest.fixture(scope="module")
def artifact(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact") / "tuned"
    write_artifact(load_model(tiny_model), folder, to_onnx=True, metrics={"after": {"x": 1.0}})
    return folder


def test_the_layout_is_finetuners(artifact: Path) -> None:
    files = {p.relative_to(artifact).as_posix() for p in artifact.rglob("*") if p.is_file()}
    assert files >= {
        "config.yml",
        "metadata.yml",
        "metrics.yml",
        "models/input-map.yml",
        "models/clip-text/metadata.yml",
        "models/clip-text/model.safetensors",
        "models/clip-text/model.onnx",
        "models/clip-vision/metadata.yml",
        "models/clip-vision/model.safetensors",
        "models/clip-vision/model.onnx",
    }


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("config.yml", "- 1", "config.yml holds no mapping but"),
        ("config.yml", "a: [", "config.yml can't be read"),
        ("config.yml", "matryoshka: 8", "matryoshka in config.yml is 8: expected lengths below 32"),
        ("config.yml", "matryoshka: [8, '16']", "expected lengths below 32"),
        ("config.yml", "matryoshka: [0]", "expected lengths below 32"),
        ("config.yml", "matryoshka: [32]", "expected lengths below 32"),
        ("models/input-map.yml", "text", "input-map.yml holds no mapping but 'text'"),
        ("calibration.yml", "{", "calibration.yml can't be read"),
    ],
)
def test_files_that_say_what_they_cannot(
    artifact: Path, tmp_path: Path, name: str, content: str, problem: str
) -> None:
    folder = shutil.copytree(artifact, tmp_path / "hostile")
    (folder / name).write_text(content)
    write_checksums(folder)
    with pytest.raises(BadArtifact, match=problem):
        get_tower(folder, "clip-text")


def test_a_round_trip_keeps_every_bit(artifact: Path, tiny_model: Path) -> None:
    before, after = load_model(tiny_model), load_model(artifact)
    assert before.digest == after.digest == open_artifact(artifact).digest
    for name, value in before.clip.state_dict().items():
        assert torch.equal(value, after.clip.state_dict()[name]), name


@pytest.mark.parametrize("engine", ENGINES)
def test_all_engines_and_the_zip_agree_with_open_clip(
    artifact: Path, tiny_model: Path, tmp_path: Path, engine: Engine
) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino", reason="needs cliptune[openvino]")
    zipped = zip_folder(artifact, tmp_path / "tuned.zip")
    model = load_model(tiny_model)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        # open_clip's own path: 77 tokens, padding and all.
        texts = model.clip.encode_text(model.tokenizer(TEXTS, 77), normalize=True).numpy()
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        mean = torch.tensor(model.preprocessing.mean).view(1, 3, 1, 1)
        std = torch.tensor(model.preprocessing.std).view(1, 3, 1, 1)
        pictures = model.clip.encode_image((pixels - mean) / std, normalize=True).numpy()
    for path in (artifact, zipped):
        text_tower = get_tower(path, "clip-text", engine=engine, batch_size=3)
        vision_tower = get_tower(path, "clip-vision", engine=engine, batch_size=2)
        np.testing.assert_allclose(text_tower.encode(TEXTS), texts, atol=1e-5)
        np.testing.assert_allclose(vision_tower.encode(list(images)), pictures, atol=1e-5)
        np.testing.assert_allclose(vision_tower.encode_pixels(images), pictures, atol=1e-5)
        assert text_tower.digest == vision_tower.digest == model.digest
        assert text_tower.truncated == 1


@pytest.mark.parametrize("where", ["begin", "middle", "end"])
@pytest.mark.parametrize(
    "name",
    [
        "metadata.yml",
        "models/clip-text/model.safetensors",
        "models/clip-vision/model.onnx",
        "models/network.json",
        "checksums.sha256",
    ],
)
def test_a_flipped_byte_is_noticed(artifact: Path, tmp_path: Path, name: str, where: str) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(artifact, damaged)
    content = bytearray((damaged / name).read_bytes())
    position = {"begin": 0, "middle": len(content) // 2, "end": len(content) - 2}[where]
    content[position] ^= 1
    (damaged / name).write_bytes(content)
    with pytest.raises(BadArtifact, match=r"damaged"):
        open_artifact(damaged)


def test_missing_and_added_files_are_noticed(artifact: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(artifact, damaged)
    (damaged / "models" / "extra.bin").write_bytes(b"?")
    with pytest.raises(BadArtifact, match=r"models/extra.bin was added"):
        open_artifact(damaged)
    (damaged / "models" / "extra.bin").unlink()
    (damaged / "models" / "clip-text" / "model.safetensors").unlink()
    with pytest.raises(BadArtifact, match=r"models/clip-text/model.safetensors is missing"):
        open_artifact(damaged)


@pytest.mark.parametrize("member", ["../outside.txt", "/tmp/outside.txt", "a/../../outside.txt"])
def test_a_zip_writes_nothing_outside_its_folder(tmp_path: Path, member: str) -> None:
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.yml", "format: 1")
        archive.writestr(member, "gotcha")
    with pytest.raises(BadArtifact, match="unsafe member"):
        open_artifact(path)
    assert not list(tmp_path.rglob("outside.txt"))


def test_a_zip_with_a_link_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "link.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(BadArtifact, match="unsafe member"):
        open_artifact(path)


def test_a_truncated_zip_leaves_nothing_behind(
    artifact: Path, tmp_path: Path, cliptune_home: Path
) -> None:
    path = zip_folder(artifact, tmp_path / "tuned.zip")
    path.write_bytes(path.read_bytes()[:-2000])
    before = set((cliptune_home / "cache").rglob("*"))
    with pytest.raises(BadArtifact):
        open_artifact(path)
    assert set((cliptune_home / "cache").rglob("*")) == before


def test_wrong_calls(artifact: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no artifact at"):
        open_artifact(tmp_path / "nothing")
    with pytest.raises(BadInput, match="'clip-audio'.*'clip-text' or 'clip-vision'"):
        get_tower(artifact, "clip-audio")
    with pytest.raises(BadInput, match="not an artifact"):
        get_tower(tiny_model, "clip-text", engine="onnx")
    without = tmp_path / "without-onnx"
    write_artifact(load_model(tiny_model), without)
    with pytest.raises(NotFound, match="to_onnx=True"):
        get_tower(without, "clip-text", engine="onnx")


@pytest.mark.parametrize("damage", ["remove", "empty"])
def test_an_unpacked_copy_that_was_damaged_is_unpacked_again(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setenv("CLIPTUNE_HOME", str(tmp_path / "home"))
    path = zip_folder(artifact, tmp_path / "tuned.zip")
    digest = open_artifact(path).digest
    names = ("metadata.yml", "checksums.sha256", "models/clip-text/model.safetensors")
    for name in names:
        copy = open_artifact(path).path / name
        copy.unlink()
        if damage == "empty":
            copy.touch()
        assert open_artifact(path).digest == digest
