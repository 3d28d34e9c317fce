"""Folders and files of open_clip: the embeddings that open_clip itself gets from them.

Networks are open_clip's own of each family, with fewer and narrower layers.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cliptune.inference import get_tower
from cliptune.models.artifact_writer import write_artifact
from cliptune.models.loading import load_model
from cliptune.models.openclip import needs_transformers, open_clip
from tests.models.formats import owners
from tests.models.formats.owners import TEXTS, Embeddings
from tests.tiny_model import TINY_CONFIG

SMALL = {"layers": 2, "width": 64, "heads": 2}
TOWERS = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 64}


def of(architecture: str, text: dict[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    """open_clip's config of `architecture`, made small."""
    config = open_clip.get_model_config(architecture)
    config["text_cfg"] |= text
    config["vision_cfg"] |= vision
    if "timm_model_name" not in config["vision_cfg"] or config["vision_cfg"]["timm_pool"] != "map":
        config["embed_dim"] = 48
    return config


CONFIGS: dict[str, dict[str, Any]] = {
    "clip": of("ViT-B-32", SMALL, TOWERS),
    "dfn-metaclip": of("ViT-B-32-quickgelu", SMALL, TOWERS),
    "long": of("ViT-B-32", {**SMALL, "context_length": 248}, TOWERS),
    "siglip": of(
        "ViT-B-32-SigLIP2-256",
        {**SMALL, "vocab_size": 49408, "hf_tokenizer_name": None, "tokenizer_kwargs": None},
        {"timm_model_name": "vit_test_patch8_siglip_32", "image_size": 32},
    ),
    "mobileclip2": of("MobileCLIP2-S0", SMALL, {}),
    "eva": of("EVA02-B-16", SMALL, {"timm_model_name": "eva02_tiny_patch14_224"}),
    "pe": of("PE-Core-T-16-384", SMALL, {}),
    "resnet": of("RN50", SMALL, {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64}),
    "convnext": of("convnext_base", SMALL, {"timm_model_name": "convnext_atto"}),
    "coca": of(
        "coca_ViT-B-32",
        {**SMALL, "context_length": 76},
        {**TOWERS, "attn_pooler_heads": 2},
    ),
}
CONFIGS["siglip"]["embed_dim"] = 64
CONFIGS["coca"]["multimodal_cfg"] |= {"layers": 1, "width": 64, "heads": 2}
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "squash"}


@pytest.fixture(scope="module")
def pictures(shared_dir: Path) -> list[Any]:
    return [Image.open(path).convert("RGB") for path in owners.photographs(shared_dir)]


def made(config: dict[str, Any]) -> torch.nn.Module:
    cfg = copy.deepcopy(config)
    custom = cfg.pop("custom_text", False) or cfg["text_cfg"].get("hf_model_name")
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    return owners._shake((open_clip.CoCa if "multimodal_cfg" in cfg else kind)(**cfg))


def saved(folder: Path, config: dict[str, Any], *, safe: bool, tokenizer: Any) -> None:
    """By open_clip's own function for the hub."""
    from open_clip.push_to_hf_hub import save_for_hf

    clip = made(config)
    open_clip.model.set_model_preprocess_cfg(clip, {**HALF, "size": clip.visual.image_size})
    clip.visual.image_mean, clip.visual.image_std = HALF["mean"], HALF["std"]
    save_for_hf(clip, tokenizer, config, str(folder), safe_serialization=safe)


def reference(
    name: str, pictures: list[Any], tokenizer: Any = None, checkpoint: Path | None = None
) -> Embeddings:
    """By open_clip's factory, transform and tokenizer alone."""
    clip, _, transform = open_clip.create_model_and_transforms(name, require_pretrained=True)
    if checkpoint:
        open_clip.factory.load_checkpoint(clip, str(checkpoint))
    clip.eval()
    tokens = (tokenizer or open_clip.get_tokenizer(name))(TEXTS)
    pixels = torch.stack([transform(picture) for picture in pictures])
    with torch.inference_mode():
        return owners.unit(clip.encode_text(tokens)), owners.unit(clip.encode_image(pixels))


def embeddings(model: Any, pictures: list[Any], **options: Any) -> Embeddings:
    text = get_tower(model, "clip-text", device="cpu", **options)
    vision = get_tower(model, "clip-vision", device="cpu", **options)
    return text.encode(TEXTS), vision.encode(pictures)


def difference(ours: Any, theirs: Any) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


SLOW = ("mobileclip2", "pe", "eva")
"""Of large networks however few their layers."""


@pytest.mark.usefixtures("tiny_siglip")
@pytest.mark.parametrize(
    "family",
    [pytest.param(one, marks=[pytest.mark.e2e] if one in SLOW else []) for one in CONFIGS],
)
def test_a_family(family: str, tmp_path: Path, pictures: list[Any]) -> None:
    config = CONFIGS[family]
    saved(tmp_path / "model", config, safe=family != "clip", tokenizer=owners.clip_tokenizer())
    context = config["text_cfg"].get("context_length", 77)
    own = open_clip.tokenizer.SimpleTokenizer(context_length=context)
    theirs = reference(f"local-dir:{tmp_path / 'model'}", pictures, own)
    assert difference(embeddings(tmp_path / "model", pictures), theirs) < 1e-5
    artifact = write_artifact(load_model(tmp_path / "model"), tmp_path / "a", to_onnx=True).path
    assert difference(embeddings(artifact, pictures), theirs) < 1e-5
    assert difference(embeddings(artifact, pictures, engine="onnx"), theirs) < 1e-4


def hf_text_model(folder: Path, kind: str) -> Any:
    """A tiny text tower of Hugging Face with its tokenizer, which open_clip's configs name."""
    import transformers as hf
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    folder.mkdir()
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    unigram.train_from_iterator(
        TEXTS * 5, trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>")
    )
    vocabulary = [tuple(one) for one in json.loads(unigram.to_str())["model"]["vocab"]]
    sizes = {"vocab_size": 2100, "max_position_embeddings": 96}
    if kind == "xlm-roberta":
        hf.XLMRobertaTokenizer(vocab=vocabulary).save_pretrained(folder)
        hf.XLMRobertaConfig(
            **sizes, hidden_size=48, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=64, pad_token_id=1,
        ).save_pretrained(folder)  # fmt: skip
    else:
        from tokenizers import models as m

        bpe = Tokenizer(m.BPE(unk_token="<unk>"))
        bpe.train_from_iterator(
            TEXTS * 5, trainers.BpeTrainer(vocab_size=80, special_tokens=special)
        )
        made = json.loads(bpe.to_str())["model"]
        hf.NllbTokenizer(
            vocab=made["vocab"], merges=[tuple(one) for one in made["merges"]]
        ).save_pretrained(folder)
        hf.M2M100Config(
            **sizes, d_model=48, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, pad_token_id=1,
        ).save_pretrained(folder)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [("xlm-roberta", "xlm-roberta-base-ViT-B-32"), ("nllb", "nllb-clip-base")],
)
def test_texts_in_many_languages(
    kind: str, architecture: str, tmp_path: Path, pictures: list[Any]
) -> None:
    pytest.importorskip("transformers", reason="needs cliptune[hf]")
    hf_text_model(tmp_path / "text", kind)
    named = {"hf_model_name": str(tmp_path / "text"), "hf_tokenizer_name": str(tmp_path / "text")}
    config = of(
        architecture, {**named, "hf_model_pretrained": False, "hf_proj_type": "linear"}, TOWERS
    )
    needs_transformers(config)  # type: ignore[arg-type]
    tokenizer = open_clip.tokenizer.HFTokenizer(str(tmp_path / "text"))
    saved(tmp_path / "model", config, safe=True, tokenizer=tokenizer)
    theirs = reference(f"local-dir:{tmp_path / 'model'}", pictures)
    assert difference(embeddings(tmp_path / "model", pictures), theirs) < 1e-5
    artifact = write_artifact(load_model(tmp_path / "model"), tmp_path / "a", to_onnx=True).path
    # The artifact brings its text tower's config and tokenizer along.
    (tmp_path / "text").rename(tmp_path / "gone")
    assert difference(embeddings(artifact, pictures), theirs) < 1e-5
    assert difference(embeddings(artifact, pictures, engine="onnx"), theirs) < 1e-4
    if kind == "nllb":  # the language of the queries is a token of them
        config["text_cfg"] |= {"hf_model_name": str(tmp_path / "gone")}
        config["text_cfg"] |= {"hf_tokenizer_name": str(tmp_path / "gone")}
        config["text_cfg"]["tokenizer_kwargs"] = {"language": "deu_Latn"}
        stated = {"model_cfg": config, "preprocess_cfg": HALF}
        (tmp_path / "model" / "open_clip_config.json").write_text(json.dumps(stated))
        german = load_model(tmp_path / "model")
        assert not torch.equal(german.tokenizer(TEXTS), tokenizer(TEXTS))


STUBS = {  # what the program imports for data that this test has none of
    "braceexpand.py": "braceexpand = None",
    "webdataset/__init__.py": "class PipelineStage: ...\ndef __getattr__(_): return PipelineStage",
    "webdataset/filters.py": "_shuffle = None",
    "webdataset/tariterators.py": (
        "base_plus_ext = url_opener = tar_file_expander = valid_sample = None"
    ),
}


@pytest.mark.e2e
def test_a_checkpoint_of_open_clips_training_program(
    tiny_model: Path, tmp_path: Path, pictures: list[Any]
) -> None:
    for name, text in STUBS.items():
        (tmp_path / "stubs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "stubs" / name).write_text(text)
    command = [
        *(sys.executable, "-m", "open_clip_train.main", "--model", f"local-dir:{tiny_model}"),
        *("--dataset-type", "synthetic", "--train-num-samples", "8", "--batch-size", "4"),
        *("--workers", "0", "--epochs", "1", "--save-frequency", "1", "--name", "run"),
        *(
            "--lr",
            "0.05",
            "--warmup",
            "1",
            "--logs",
            str(tmp_path / "logs"),
            "--device",
            "cpu",
            "--precision",
            "fp32",
        ),
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "stubs")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    checkpoint = tmp_path / "logs" / "run" / "checkpoints" / "epoch_1.pt"
    folder = tmp_path / "tuned"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(TINY_CONFIG))
    (folder / "epoch_1.pt").write_bytes(checkpoint.read_bytes())
    theirs = reference(f"local-dir:{tiny_model}", pictures, None, checkpoint)
    assert difference(embeddings(folder, pictures), theirs) < 1e-5
    assert difference(embeddings(tiny_model, pictures), theirs) > 1e-5


def test_what_training_in_parallel_leaves(tiny_model: Path, tmp_path: Path) -> None:
    """Names with `module.`, and learning rates that are numpy's numbers."""
    state = load_model(tiny_model).clip.state_dict()
    written = {
        "epoch": np.int64(3),
        "state_dict": {f"module.{name}": value for name, value in state.items()},
        "optimizer": {"param_groups": [{"lr": np.float64(1e-3), "on": np.bool_(True)}]},
    }
    folder = tmp_path / "tuned"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(TINY_CONFIG))
    torch.save(written, folder / "epoch_3.pt")
    with pytest.raises(Exception, match="numpy"):
        torch.load(folder / "epoch_3.pt", weights_only=True)
    assert load_model(folder).digest == load_model(tiny_model).digest


@pytest.mark.filterwarnings("ignore")
def test_openais_archive_is_read_and_not_run(
    tmp_path: Path, pictures: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = of(
        "ViT-B-32-quickgelu", {**SMALL, "width": 128}, {**TOWERS, "width": 128, "head_width": 64}
    )
    clip = made(config)
    for name, value in (("input_resolution", 64), ("context_length", 77), ("vocab_size", 49408)):
        if hasattr(clip, name):
            delattr(clip, name)
        clip.register_buffer(name, torch.tensor(value))
    clip.visual.image_size = 64
    file = tmp_path / "ViT-tiny.pt"
    inputs = {"encode_text": torch.zeros(2, 77, dtype=torch.long)}
    inputs |= {"encode_image": torch.zeros(2, 3, 64, 64)}
    inputs["forward"] = inputs["encode_image"], inputs["encode_text"]  # type: ignore[assignment]
    torch.jit.save(torch.jit.trace_module(clip, inputs, check_trace=False), file)
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("its program was loaded"))
    model = load_model(file)
    assert model.activation == "QuickGELU"
    assert model.preprocessing.mean == (0.48145466, 0.4578275, 0.40821073)
    with torch.inference_mode():
        ours = embeddings(model, pictures)
        tokens = open_clip.get_tokenizer("ViT-B-32")(TEXTS)
        theirs = owners.unit(clip.encode_text(tokens))
    assert np.abs(ours[0] - theirs).max() < 1e-5
    own = {name: value for name, value in clip.state_dict().items() if name not in
           ("input_resolution", "context_length", "vocab_size")}  # fmt: skip
    assert all(torch.equal(value, own[name]) for name, value in model.clip.state_dict().items())
