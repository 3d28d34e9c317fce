"""Loading by name, and the errors of names that can't be loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from cliptune.errors import BadInput, NotFound, Unavailable
from cliptune.models.loading import load_model
from cliptune.models.openclip import open_clip


def test_a_folder_loads_as_open_clip_loads_it(tiny_model: Path) -> None:
    model = load_model(tiny_model)
    reference = open_clip.create_model(f"local-dir:{tiny_model}")
    for (name, value), other in zip(
        model.clip.state_dict().items(), reference.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name
    assert model.preprocessing.size == (32, 32)
    assert model.output_dim == 32


def test_a_checkpoint_file_is_a_tag(tiny_model: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    checkpoint = tmp_path / "weights.pt"
    clip = open_clip.create_model("RN50", pretrained=None)
    torch.save(clip.state_dict(), checkpoint)
    model = load_model(f"RN50::{checkpoint}")
    assert torch.equal(model.clip.logit_scale, clip.logit_scale)
    assert torch.equal(model.clip.visual.conv1.weight, clip.visual.conv1.weight)


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (print, ("code ran while a checkpoint was read",))


def test_a_pickle_with_code_is_refused(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "evil"
    shutil.copytree(tiny_model, folder)
    (folder / "open_clip_model.safetensors").unlink()
    torch.save({"state_dict": Evil()}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(BadInput, match="it asks for print.*could run code"):
        load_model(folder)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("clip-bas-en", NotFound, "clip-base-en"),
        ("ViT-B-23::openai", NotFound, "ViT-B-32::openai"),
        ("ViT-B-32", NotFound, "names no weights.*openai"),
        ("ViT-B-32::opanai", NotFound, "openai"),
        ("local-dir:/nowhere", NotFound, "there is no folder and no file at /nowhere"),
    ],
)
def test_unknown_names_list_near_ones(name: str, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        load_model(name)


def test_a_hub_out_of_reach_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Unavailable, match=r"ViT-B-32::openai.*cliptune download"):
        load_model("ViT-B-32::openai")
    with pytest.raises(Unavailable, match="someone/some-clip is not in this machine.*HF_ENDPOINT"):
        load_model("hf-hub:someone/some-clip")


def test_a_model_of_the_hub_is_what_its_config_says(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--shop--quick"
    snapshot = repository / "snapshots" / "abc"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    snapshot.mkdir(parents=True)
    config = json.loads((tiny_model / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = True
    config["preprocess_cfg"] |= {"mean": [0.0] * 3, "std": [1.0] * 3, "resize_mode": "squash"}
    (snapshot / "open_clip_config.json").write_text(json.dumps(config))
    weights = "open_clip_model.safetensors"
    shutil.copy(tiny_model / weights, snapshot / weights)
    model = load_model("hf-hub:shop/quick")
    reference, _, transform = open_clip.create_model_and_transforms("hf-hub:shop/quick")
    assert model.activation == "QuickGELU"
    assert model.model_cfg == config["model_cfg"]
    p = model.preprocessing
    assert (p.mean, p.std, p.resize_mode) == ((0.0,) * 3, (1.0,) * 3, "squash")
    assert model.digest != load_model(tiny_model).digest, "the same weights, another network"
    tokens = model.tokenizer(["a red shoe"])
    pixels = transform(Image.new("RGB", (40, 90), "red"))[None]
    reference.eval()
    with torch.inference_mode():
        assert torch.equal(model.clip.encode_text(tokens), reference.encode_text(tokens))
        assert torch.equal(model.clip.encode_image(pixels), reference.encode_image(pixels))


def test_a_broken_config_is_named(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model, folder)
    (folder / "open_clip_config.json").write_text(json.dumps({"nothing": 1}))
    with pytest.raises(BadInput, match="broken"):
        load_model(folder)


def test_weights_of_another_architecture_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["layers"] = 3
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match=r"not those of the network.*resblocks\.2"):
        load_model(folder)


def test_the_digest_follows_the_weights(tiny_model: Path) -> None:
    model, again = load_model(tiny_model), load_model(tiny_model)
    assert model.digest == again.digest
    with torch.no_grad():
        again.clip.visual.conv1.weight[0, 0, 0, 0] += 1e-6
    assert model.digest != again.digest
