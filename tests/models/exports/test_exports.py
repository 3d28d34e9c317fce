"""What goes out is loaded by the library that it is for, and gives the same embeddings there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from cliptune.cli.app import app
from cliptune.errors import BadInput
from cliptune.inference import get_tower
from cliptune.models.artifact_writer import write_artifact
from cliptune.models.exports.card import wilson
from cliptune.models.exports.export import export_model
from cliptune.models.loading import load_model
from cliptune.models.openclip import open_clip
from tests.models.formats import owners
from tests.models.formats.owners import TEXTS, Embeddings
from tests.tiny_model import TINY_CONFIG

pytest.importorskip("transformers", reason="needs cliptune[hf]")
pytestmark = pytest.mark.usefixtures("tiny_siglip")


@pytest.fixture(scope="module")
def pictures(shared_dir: Path) -> list[Any]:
    return [Image.open(path).convert("RGB") for path in owners.photographs(shared_dir)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of a CLIP with QuickGELU that has been measured."""
    folder = tmp_path_factory.mktemp("clip")
    config = json.loads(json.dumps(TINY_CONFIG))
    config["model_cfg"]["quick_gelu"] = True
    (folder / "model").mkdir()
    (folder / "model" / "open_clip_config.json").write_text(json.dumps(config))
    made = owners._shake(open_clip.CLIP(**json.loads(json.dumps(config["model_cfg"]))))
    save_file(made.state_dict(), folder / "model" / "open_clip_model.safetensors")
    metrics = {
        "before": {"e_recall_at_k": 0.25}, "after": {"e_recall_at_k": 0.5},
        "evaluations": {"e": {"n_queries": 100}},
    }  # fmt: skip
    config = {"train_data": "/home/shop/products.csv", "epochs": 3}
    model = load_model(folder / "model")
    model.base = "clip-base-en"
    return write_artifact(model, folder / "artifact", metrics=metrics, config=config).path


def ours(model: Any, pictures: list[Any]) -> Embeddings:
    return (
        get_tower(model, "clip-text", device="cpu").encode(TEXTS),
        get_tower(model, "clip-vision", device="cpu").encode(pictures),
    )


def difference(one: Any, other: Any) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


def export(model: Path, format_: str, out: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(model), "--format", format_, "--out", str(out)])
    assert done.exit_code == 0, done.output


def by_open_clip(folder: Path, pictures: list[Any], tokenizer: Any = None) -> Embeddings:
    name = f"local-dir:{folder}"
    model, _, transform = open_clip.create_model_and_transforms(name, require_pretrained=True)
    tokens = (tokenizer or open_clip.get_tokenizer(name))(TEXTS)
    with torch.inference_mode():
        return (
            owners.unit(model.eval().encode_text(tokens)),
            owners.unit(model.encode_image(torch.stack([transform(p) for p in pictures]))),
        )


def by_transformers(folder: Path, pictures: list[Any]) -> Embeddings:
    """By its own classes; pictures by Pillow's form of its processor, as cliptune resizes them."""
    import transformers as hf

    model = hf.AutoModel.from_pretrained(folder).eval()
    processor = hf.AutoProcessor.from_pretrained(folder, backend="pil")
    tokens = processor.tokenizer(
        TEXTS, padding="max_length", truncation=True, return_tensors="pt",
        max_length=processor.tokenizer.model_max_length,
    )  # fmt: skip
    given = {"input_ids": tokens["input_ids"]}
    if model.config.model_type != "siglip":
        given["attention_mask"] = tokens["attention_mask"]
    with torch.inference_mode():
        return (
            owners.unit(model.get_text_features(**given)),
            owners.unit(
                model.get_image_features(**processor.image_processor(pictures, return_tensors="pt"))
            ),
        )


def test_open_clip(clip: Path, pictures: list[Any], tmp_path: Path) -> None:
    export(clip, "open_clip", tmp_path / "out")
    own = open_clip.tokenizer.SimpleTokenizer()
    assert difference(by_open_clip(tmp_path / "out", pictures, own), ours(clip, pictures)) < 1e-5
    assert load_model(tmp_path / "out").digest == load_model(clip).digest


def test_open_clip_takes_no_artifact_for_one_of_its_own(clip: Path) -> None:
    with pytest.raises(FileNotFoundError, match="config file missing"):
        open_clip.create_model(f"local-dir:{clip / 'models'}")


def test_transformers(clip: Path, pictures: list[Any], tmp_path: Path) -> None:
    export(clip, "transformers", tmp_path / "out")
    assert difference(by_transformers(tmp_path / "out", pictures), ours(clip, pictures)) < 1e-5
    assert load_model(tmp_path / "out").digest == load_model(clip).digest, "and in again"


@pytest.mark.parametrize("family", ["siglip", "chinese_clip"])
def test_what_came_from_transformers_goes_there_again(
    family: str, pictures: list[Any], tmp_path: Path
) -> None:
    owned = getattr(owners, family)(tmp_path / family)
    theirs = owned.embed(TEXTS, pictures)
    artifact = write_artifact(load_model(owned.folder), tmp_path / "artifact").path
    export(artifact, "transformers", tmp_path / "out")
    assert difference(by_transformers(tmp_path / "out", pictures), theirs) < 1e-5
    export(artifact, "open_clip", tmp_path / "open")
    found = by_open_clip(tmp_path / "open", pictures)
    # open_clip builds timm's SigLIP of this size with the exact GELU, where Google's is by tanh.
    assert np.abs(found[0] - theirs[0]).max() < 1e-5
    assert np.abs(found[1] - theirs[1]).max() < (2e-3 if family == "siglip" else 1e-5)


def test_sentence_transformers(clip: Path, pictures: list[Any], tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    export(clip, "sentence-transformers", tmp_path / "out")
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    texts, images = ours(clip, pictures)
    assert np.abs(model.encode(TEXTS, normalize_embeddings=True) - texts).max() < 1e-5
    found = model.encode(pictures, normalize_embeddings=True)
    assert np.abs(found - images).max() < 0.05, "it resizes by torchvision, we by Pillow"
    assert load_model(tmp_path / "out").digest == load_model(clip).digest


@pytest.mark.e2e
def test_openvino(clip: Path, pictures: list[Any], tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="needs cliptune[openvino]")
    export(clip, "openvino", tmp_path / "out")
    model = load_model(clip)
    vision = get_tower(model, "clip-vision", device="cpu")
    pixels = np.stack([vision._pixels(0, picture) for picture in pictures])
    from cliptune.data.pictures.preprocessing import normalise

    given = {
        "clip-text": model.tokenizer(TEXTS).numpy(),
        "clip-vision": normalise(pixels, vision.preprocessing),
    }
    for (tower, inputs), expected in zip(given.items(), ours(clip, pictures), strict=True):
        file = tmp_path / "out" / tower / "openvino_model.xml"
        compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        assert np.abs(owners.unit(torch.tensor(compiled(inputs)[0])) - expected).max() < 1e-4


def test_the_card_says_what_it_was_measured_at(clip: Path, tmp_path: Path) -> None:
    for library in ("open_clip", "transformers", "sentence-transformers"):
        export_model(clip, tmp_path / library, library)  # type: ignore[arg-type]
        card = (tmp_path / library / "README.md").read_text()
        assert f'library_name: "{library}"' in card
        assert 'license: "mit"' in card
        assert "| e_recall_at_k | 0.250 (0.175 to 0.343) | 0.500 (0.404 to 0.596) |" in card
        assert "train_data: products.csv" in card
        assert "/home/shop" not in card
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(25, 100).proportion_ci(method="wilson")
    assert wilson(0.25, 100) == pytest.approx((expected.low, expected.high), abs=1e-4)


@pytest.mark.parametrize("library", ["transformers", "sentence-transformers"])
def test_towers_that_a_library_has_no_class_for(library: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="open_clip"):
        export_model("builtin", tmp_path / "out", library)
    assert not (tmp_path / "out").exists()


def test_a_push_that_is_tried(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ["push", str(clip), "my-shop/search", "--format", "transformers"]
    done = CliRunner().invoke(app, [*args, "--dry-run"])
    assert done.exit_code == 0, done.output
    assert re.search(r"MB\s+model\.safetensors", done.output)
    assert 'AutoModel.from_pretrained("my-shop/search")' in done.output
    assert "nothing was sent to my-shop/search" in done.output
    monkeypatch.setenv("CLIPTUNE_OFFLINE", "1")
    done = CliRunner().invoke(app, args)
    assert "CLIPTUNE_OFFLINE is set" in str(done.exception)
    done = CliRunner().invoke(app, ["push", str(clip), "a/b/c", "--dry-run"])
    assert isinstance(done.exception, BadInput)
