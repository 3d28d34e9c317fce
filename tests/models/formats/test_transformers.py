"""Folders of transformers and sentence-transformers: the very embeddings of those libraries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cliptune.inference import get_tower
from cliptune.models.artifact_writer import write_artifact
from cliptune.models.loading import load_model
from cliptune.models.wise_ft import mix_models
from tests.models.formats import owners
from tests.models.formats.owners import TEXTS, Owned

pytest.importorskip("transformers", reason="needs cliptune[hf]")
pytestmark = pytest.mark.usefixtures("tiny_siglip")
FAMILIES: dict[str, Callable[[Path], Owned]] = {
    "clip-quick": owners.clip,
    "clip-gelu": lambda folder: owners.clip(folder, "gelu"),
    "clip-248": lambda folder: owners.clip(folder, max_position_embeddings=248),
    "siglip": owners.siglip,
    "siglip2": owners.siglip2,
    "chinese-clip": owners.chinese_clip,
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def owned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Owned:
    return FAMILIES[request.param](tmp_path_factory.mktemp("owned") / request.param)


@pytest.fixture(scope="module")
def pictures(shared_dir: Path) -> list[Path]:
    return owners.photographs(shared_dir)


def opened(pictures: list[Path], owned: Owned) -> list[Any]:
    images = [Image.open(path).convert("RGB") for path in pictures]
    if owned.folder.name == "siglip2":  # what it was trained on when the form is not kept
        images = [image.resize((64, 64)) for image in images]
    return images


def embeddings(model: Any, images: list[Any], **options: Any) -> tuple[np.ndarray, np.ndarray]:
    text = get_tower(model, "clip-text", device="cpu", **options)
    vision = get_tower(model, "clip-vision", device="cpu", **options)
    return text.encode(TEXTS), vision.encode(images)


def difference(ours: Any, theirs: Any) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


def test_a_folder_gives_the_embeddings_of_its_library(
    owned: Owned, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = opened(pictures, owned)
    theirs = owned.embed(TEXTS, images)
    assert difference(theirs[0][:1], theirs[0][1:2]) > 0.01, "embeddings that tell texts apart"
    assert difference(embeddings(owned.folder, images), theirs) < 1e-5
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    name = owners.in_cache(owned.folder, tmp_path, f"shop/{owned.folder.name}")
    for called in (name, f"hf-hub:{name}"):
        assert difference(embeddings(called, images), theirs) < 1e-5


def test_all_that_is_made_of_it_is_the_same_model(
    owned: Owned, pictures: list[Path], tmp_path: Path
) -> None:
    images = opened(pictures, owned)
    theirs = owned.embed(TEXTS, images)
    model = load_model(owned.folder)
    artifact = write_artifact(model, tmp_path / "artifact", to_onnx=True).path
    assert difference(embeddings(artifact, images), theirs) < 1e-5
    assert difference(embeddings(artifact, images, engine="onnx"), theirs) < 1e-4
    again = load_model(artifact)
    assert again.digest == model.digest
    mixed = mix_models(model, again, 0.5)
    assert difference(embeddings(mixed, images), theirs) < 1e-5


def test_it_is_tuned_like_any_other(owned: Owned, tmp_path: Path) -> None:
    from cliptune.training import TrainingOptions, train
    from tests.training.test_loop import Recorder, squares

    base = load_model(owned.folder)
    shapes = {name: value.shape for name, value in base.clip.state_dict().items()}
    for how in ({"lora": {"rank": 2}}, {"freeze": {"vision": 1, "text": 1}}, {"freeze": "vision"}):
        options = TrainingOptions.parse(
            {"model": str(owned.folder), "epochs": 1, "batch_size": 6, "device": "cpu", **how}
        )
        folder = tmp_path / "".join(how)
        folder.mkdir(exist_ok=True)
        outcome = train(options, squares(1, 1), None, [], folder, Recorder())
        tuned = load_model(outcome.artifact.path)
        assert {name: value.shape for name, value in tuned.clip.state_dict().items()} == shapes
        assert tuned.digest != base.digest


def test_sentence_transformers_own_folder(tmp_path: Path, pictures: list[Path]) -> None:
    owned = owners.sentence_transformers_clip(tmp_path / "st")
    images = [Image.open(path).convert("RGB") for path in pictures]
    theirs = owned.embed(TEXTS, images)
    ours = embeddings(owned.folder, images)
    assert np.abs(ours[0] - theirs[0]).max() < 1e-5
    # It resizes by torchvision, whose bicubic filter rounds otherwise than Pillow's.
    assert np.abs(ours[1] - theirs[1]).max() < 0.05
