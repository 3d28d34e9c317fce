"""Weights that were trained with QuickGELU, from their name to every place that uses them.

A small architecture is made known to open_clip, with weights of random numbers under two tags: one
whose makers state QuickGELU and a preprocessing of its own, one without.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from cliptune.data.pictures.preprocessing import to_pixels
from cliptune.errors import BadInput, NotFound
from cliptune.index.versions.models import keep_model, model_created, model_digest, model_name
from cliptune.inference import get_tower
from cliptune.models.artifact import write_checksums
from cliptune.models.artifact_writer import write_artifact
from cliptune.models.exports.to_clip_service import write_clip_service
from cliptune.models.loading import check_model, check_same_model, load_model
from cliptune.models.names import absolute_name
from cliptune.models.openclip import open_clip
from cliptune.models.wise_ft import mix_models
from tests.tiny_model import TINY_CONFIG

ARCH = "Tiny-B-32"
TEXTS = ["red rain boots", "a blue and green dress with long sleeves", "x"]
MEAN, STD = (0.5, 0.4, 0.3), (0.6, 0.5, 0.4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file of the weights; meanwhile open_clip lists the architecture with its tags."""
    folder = tmp_path_factory.mktemp("listed")
    config = json.loads(json.dumps(TINY_CONFIG["model_cfg"]))
    config["vision_cfg"]["image_size"] = 224
    config["vision_cfg"]["patch_size"] = 32
    torch.manual_seed(11)
    file = folder / "weights.safetensors"
    clip = open_clip.CLIP(**json.loads(json.dumps(config)))
    # Larger weights than at the start of a training, so that activations differ in what they do.
    state = {n: v.contiguous() * (3 if "mlp" in n else 1) for n, v in clip.state_dict().items()}
    save_file(state, file)
    shared = {"url": "", "hf_hub": "", "file": str(file), "resize_mode": "shortest"}
    listed = {
        "quick": shared
        | {"mean": MEAN, "std": STD, "interpolation": "bicubic", "quick_gelu": True},
        "plain": shared | {"mean": MEAN, "std": STD, "interpolation": "bilinear"},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(open_clip.factory._MODEL_CONFIGS, ARCH, config)
        patch.setitem(open_clip.pretrained._PRETRAINED, ARCH, listed)
        yield file


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of texts and pictures by open_clip alone: its factory, transform and tokenizer."""
    clip, _, transform = open_clip.create_model_and_transforms(
        ARCH, pretrained="quick", force_quick_gelu=True
    )
    clip.eval()
    pixels = torch.stack([transform(one) for one in pictures()])
    with torch.inference_mode():
        texts = clip.encode_text(open_clip.get_tokenizer(ARCH)(TEXTS), normalize=True)
        images = clip.encode_image(pixels, normalize=True)
    return texts.numpy(), images.numpy()


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(5)
    sizes = [(300, 224), (224, 500), (640, 480)]
    return [Image.fromarray(random.integers(0, 256, (*s, 3), dtype=np.uint8)) for s in sizes]


def embeddings(model: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    text = get_tower(model, "clip-text", device="cpu", **options)
    vision = get_tower(model, "clip-vision", device="cpu", **options)
    pixels = np.stack([to_pixels(one, vision.preprocessing) for one in pictures()])
    return text.encode(TEXTS), vision.encode_pixels(pixels)


def same(ours: tuple[np.ndarray, ...], theirs: tuple[np.ndarray, ...], most: float) -> bool:
    return all(np.abs(a - b).max() < most for a, b in zip(ours, theirs, strict=True))


def test_embeddings_are_those_of_open_clip(checkpoint: Path, reference: Any) -> None:
    model = load_model(f"{ARCH}::quick")
    assert same(embeddings(model), reference, 1e-5)
    # GELU is another network: what is tested here shows in the embeddings.
    model.clip = open_clip.create_model(ARCH, pretrained=str(checkpoint)).eval()
    assert not same(embeddings(model), reference, 1e-3)


def test_everything_made_of_it_has_the_same_network(
    checkpoint: Path, reference: Any, tmp_path: Path
) -> None:
    model = load_model(f"{ARCH}::quick")
    artifact = write_artifact(model, tmp_path / "artifact", to_onnx=True)
    assert artifact.model_cfg["quick_gelu"] is True
    assert artifact.metadata["activation"] == "QuickGELU"
    assert (artifact.preprocessing.mean, artifact.preprocessing.std) == (MEAN, STD)
    assert same(embeddings(artifact.path), reference, 1e-5)
    assert same(embeddings(artifact.path, engine="onnx"), reference, 1e-4)
    assert same(embeddings(load_model(artifact.path)), reference, 1e-5)
    shutil.make_archive(str(tmp_path / "zipped"), "zip", artifact.path)
    assert same(embeddings(tmp_path / "zipped.zip"), reference, 1e-5)
    # open_clip itself reads the network from the artifact's config.
    models = artifact.path / "models"
    clip = open_clip.CLIP(**json.loads((models / "network.json").read_text())["model_cfg"])
    assert any(isinstance(m, open_clip.transformer.QuickGELU) for m in clip.modules())

    # What a swap keeps of a model that is served by its name.
    digest = model_digest(f"{ARCH}::quick")
    assert digest == artifact.digest == model.digest
    keep_model(f"{ARCH}::quick", tmp_path / "kept", digest)
    assert same(embeddings(tmp_path / "kept"), reference, 1e-5)

    write_clip_service(model, tmp_path / "plugged")
    session = onnxruntime.InferenceSession(tmp_path / "plugged" / "textual.onnx")
    tokens = model.tokenizer(TEXTS).numpy().astype(np.int32)
    [texts] = session.run(None, {"input_ids": tokens, "attention_mask": (tokens != 0).astype("i4")})
    assert np.abs(texts - reference[0]).max() < 1e-4


def test_the_mix_with_its_own_base_is_one_network(checkpoint: Path, reference: Any) -> None:
    base, tuned = load_model(f"{ARCH}::quick"), load_model(f"{ARCH}::quick")
    with torch.no_grad():
        tuned.clip.visual.proj += 0.1
    mixed = mix_models(base, tuned, 0.0)
    assert same(embeddings(mixed), reference, 1e-5)
    with pytest.raises(BadInput, match=r"plain has GELU and .*quick has QuickGELU"):
        mix_models(load_model(f"{ARCH}::plain"), tuned, 0.5)


def test_training_goes_on_in_the_same_network(checkpoint: Path, tmp_path: Path) -> None:
    from cliptune.training import TrainingOptions, train
    from tests.training.test_loop import Recorder, squares

    logger = Recorder()
    options = TrainingOptions.parse(
        {"model": f"{ARCH}::quick", "epochs": 1, "batch_size": 6, "device": "cpu",
         "lora": {"rank": 2}}
    )  # fmt: skip
    outcome = train(options, squares(1, 1), None, [], tmp_path, logger)
    assert outcome.artifact.metadata["activation"] == "QuickGELU"
    assert "INFO " + load_model(f"{ARCH}::quick").config.summary in logger.lines
    clip = load_model(outcome.artifact.path).clip
    assert not any(isinstance(m, nn.GELU) for m in clip.modules())
    check_same_model(f"{ARCH}::quick", outcome.artifact.path)
    with pytest.raises(BadInput, match="whose towers are others"):
        check_same_model(f"{ARCH}::plain", outcome.artifact.path)


def test_a_checkpoint_of_named_weights_is_taken_for_such(
    checkpoint: Path, reference: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(load_file(checkpoint), tmp_path / "plain")  # a file whose name is a tag too
    torch.save(load_file(checkpoint), tmp_path / "mine::1.pt")
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    for name in (f"{ARCH}::quick::plain", f"{ARCH}::Quick::{tmp_path}/mine::1.pt"):
        model = load_model(name, tell=told.append)
        assert same(embeddings(model), reference, 1e-5), name
        assert model.base == absolute_name(name)
    assert absolute_name(f"{ARCH}::quick::plain") == f"{ARCH}::quick::{tmp_path}/plain"
    assert told == []
    assert load_model(f"{ARCH}::plain").preprocessing.interpolation == "bilinear"


def test_what_is_assumed_of_a_bare_checkpoint_is_said(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"{ARCH}::{checkpoint}"
    with caplog.at_level(logging.WARNING, "cliptune"):
        model = load_model(name)
        get_tower(name, "clip-text")
    assert model.activation == "GELU"
    assert len(caplog.records) == 1, "said once"
    said = caplog.records[0].getMessage()
    assert "assumed GELU; pictures 224 x 224, bicubic, shortest" in said
    assert f"{ARCH}::TAG::{checkpoint}" in said
    assert "Of quick, plain" in said
    # Two networks of the same weights are two models, whose embeddings must not meet.
    assert model.digest != load_model(f"{ARCH}::quick").digest
    assert load_model(f"{ARCH}::random").digest != model.digest


def test_preprocessing_that_all_listed_weights_share_is_taken(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = open_clip.pretrained._PRETRAINED[ARCH]
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, ARCH, {"plain": tags["plain"]})
    told: list[str] = []
    p = load_model(f"{ARCH}::{checkpoint}", tell=told.append).preprocessing
    assert (p.mean, p.std, p.interpolation) == (MEAN, STD, "bilinear")
    assert "bilinear" in told[0]
    assert "wrong" not in told[0]


def test_the_errors_say_how_a_checkpoint_is_named(checkpoint: Path, tmp_path: Path) -> None:
    for name, words in (
        (ARCH, rf"names no weights.*{ARCH}::TAG::FILE"),
        (f"{ARCH}::quikc", "unknown weights 'quikc'.*did you mean 'quick'"),
        (f"{ARCH}::quick::{tmp_path}/nothing.pt", "no checkpoint file '.*nothing.pt'"),
        (f"{ARCH}::{tmp_path}", "unknown weights"),
    ):
        for look in (load_model, check_model):
            with pytest.raises(NotFound, match=words):
                look(name)
    for name in (f"{ARCH}::", f"{ARCH}::quick::", "", " ", "a\0b", "hf-hub:../x", "hf-hub:a/b::c"):
        with pytest.raises(BadInput, match="model"):
            check_model(name)


def made_by_an_earlier_version(folder: Path) -> Path:
    """An artifact of QuickGELU's weights in a network with GELU, as it was written once."""
    path = write_artifact(load_model(f"{ARCH}::quick"), folder).path
    config = json.loads((path / "models" / "network.json").read_text())
    del config["model_cfg"]["quick_gelu"]
    (path / "models" / "network.json").write_text(json.dumps(config))
    write_checksums(path)
    return path


def test_an_old_artifact_stays_what_it_is_and_says_so(
    checkpoint: Path, reference: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = made_by_an_earlier_version(tmp_path / "old")
    with caplog.at_level(logging.WARNING, "cliptune"):
        model = load_model(old)
        found = embeddings(old)
    assert model.activation == "GELU"
    assert not same(found, reference, 1e-3)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "earlier version, with GELU" in said[0]
    assert f"{ARCH}::quick" in said[0]
    check_same_model(f"{ARCH}::quick", old)  # a run may go on from it
    with pytest.raises(BadInput, match="has QuickGELU and .*old has GELU.*tune such a model again"):
        mix_models(load_model(f"{ARCH}::quick"), model, 0.5)
    # Made anew, it says nothing.
    told: list[str] = []
    load_model(
        write_artifact(load_model(f"{ARCH}::quick"), tmp_path / "new").path, tell=told.append
    )
    assert told == []


def test_a_local_file_or_folder_never_stands_in_for_a_name(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_artifact(load_model(f"{ARCH}::plain"), tmp_path / "builtin")
    monkeypatch.chdir(tmp_path)
    assert load_model("builtin").output_dim == 256
    assert get_tower("builtin", "clip-text").output_dim == 256
    assert load_model("./builtin").output_dim == 32
    assert load_model(Path("builtin")).output_dim == 32
    assert model_created("builtin") is None
    assert model_created("./builtin")
    assert [model_name(n) for n in ("builtin", "./builtin", f"{ARCH}::quick::{checkpoint}")] == [
        "builtin", "builtin", f"{ARCH}::quick::{checkpoint.name}",
    ]  # fmt: skip
