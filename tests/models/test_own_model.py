"""A model that no list knows: a timm and a Hugging Face tower, joined by a config of one's own.

The towers are of random weights and as small as can be; `examples/own_model.py` joins real ones.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from docarray import DocList
from safetensors.torch import save_file

from cliptune.documents import ClipDoc
from cliptune.evaluation.quality_gate import add_engine
from cliptune.inference import get_tower
from cliptune.models.artifact_writer import write_artifact
from cliptune.models.loading import load_model
from cliptune.models.openclip import needs_transformers, open_clip
from tests.pictures import picture

transformers = pytest.importorskip("transformers", reason="needs cliptune[hf]")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "blue", "boots", "hat", "very"]
TEXTS = ["red boots", "blue hat", "very very very red hat", "boots"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder as a user would write it."""
    torch.manual_seed(0)
    text = tmp_path / "own" / "text"
    text.mkdir(parents=True)
    (text / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizerFast(str(text / "vocab.txt")).save_pretrained(str(text))
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 24, "vocab_size": len(WORDS)}
    transformers.BertConfig(**sizes).save_pretrained(str(text))
    model_cfg = {
        "embed_dim": 16,
        "vision_cfg": {
            "timm_model_name": "test_efficientnet",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": 48,
        },
        "text_cfg": {
            "hf_model_name": str(text),
            "hf_tokenizer_name": str(text),
            "hf_model_pretrained": False,
            "hf_pooler_type": "mean_pooler",
            "hf_proj_type": "linear",
            "context_length": 24,
        },
    }
    half = [0.5, 0.5, 0.5]
    config = {"model_cfg": model_cfg, "preprocess_cfg": {"mean": half, "std": half}}
    (text.parent / "open_clip_config.json").write_text(json.dumps(config))
    needs_transformers(model_cfg)
    clip = open_clip.CustomTextCLIP(**json.loads(json.dumps(model_cfg)))
    state = {name: value.contiguous() for name, value in clip.state_dict().items()}
    save_file(state, text.parent / "open_clip_model.safetensors")
    return text.parent


def test_the_folder_gives_both_towers(folder: Path) -> None:
    model = load_model(folder)
    assert model.preprocessing.mean == (0.5, 0.5, 0.5)
    assert model.preprocessing.size == (48, 48)
    reference = transformers.AutoModel.from_config(
        transformers.AutoConfig.from_pretrained(str(folder / "text")), add_pooling_layer=False
    )
    own = {k.removeprefix("text.transformer."): v for k, v in model.clip.state_dict().items()}
    reference.load_state_dict({name: own[name] for name in reference.state_dict()})
    tokens = transformers.AutoTokenizer.from_pretrained(str(folder / "text"))(
        TEXTS, padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        hidden = reference.eval()(**tokens).last_hidden_state
        mask = tokens["attention_mask"][:, :, None]
        expected = model.clip.text.proj((hidden * mask).sum(1) / mask.sum(1))
    expected = torch.nn.functional.normalize(expected, dim=-1).numpy()
    found = get_tower(model, "clip-text").encode(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_its_artifact_needs_nothing_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pictures = list(np.random.default_rng(0).integers(0, 255, (3, 48, 48, 3), dtype=np.uint8))
    texts = get_tower(load_model(folder), "clip-text").encode(TEXTS)
    images = get_tower(load_model(folder), "clip-vision").encode(pictures)
    path = write_artifact(load_model(folder), tmp_path / "artifact", to_onnx=True).path
    shutil.rmtree(folder)
    for engine in ("torch", "onnx"):
        text_tower = get_tower(path, "clip-text", engine=engine)
        np.testing.assert_allclose(text_tower.encode(TEXTS), texts, atol=1e-4)
        one_by_one = [text_tower.encode([text])[0] for text in TEXTS]
        np.testing.assert_allclose(one_by_one, texts, atol=1e-4)
        vision_tower = get_tower(path, "clip-vision", engine=engine)
        np.testing.assert_allclose(vision_tower.encode(pictures), images, atol=1e-4)
    again = load_model(path)
    np.testing.assert_allclose(get_tower(again, "clip-text").encode(TEXTS), texts, atol=1e-5)


def test_its_towers_in_bf16(folder: Path, tmp_path: Path) -> None:
    """Towers of other libraries take weights in bfloat16 beside others in float32."""
    docs = DocList[ClipDoc](
        [ClipDoc(text=text, image=picture(number)) for number, text in enumerate(TEXTS)]
    )
    write_artifact(load_model(folder), tmp_path / "artifact")
    add_engine(tmp_path / "artifact", tmp_path / "half", "bf16", docs, tolerance=0.99, device="cpu")
    given = {"clip-text": TEXTS, "clip-vision": [doc.image for doc in docs]}
    for name, data in given.items():
        full = get_tower(tmp_path / "half", name, device="cpu").encode(data)
        reduced = get_tower(tmp_path / "half", name, precision="bf16", device="cpu").encode(data)
        assert (full * reduced).sum(axis=1).min() > 0.999
        assert np.abs(full - reduced).max() > 1e-5, "it is another engine"
