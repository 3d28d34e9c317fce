"""Models of random weights, made and saved by the libraries that own their formats.

Each comes with what that library itself makes of texts and pictures: its `embed` is what
cliptune's embeddings are compared with, tokens and preprocessing included.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cliptune.models.openclip import open_clip

Embeddings = tuple[np.ndarray, np.ndarray]
TEXTS = [
    "red rain boots",
    "a blue and green dress with long sleeves",
    "x",
    "Men's T-shirt, black 3",
]
TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 2}
VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
VISION |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 8}


@dataclass
class Owned:
    """A model's folder, and its library's own embeddings, of unit length."""

    folder: Path
    embed: Callable[[Sequence[str], Sequence[Image.Image]], Embeddings]


def photographs(shared: Path, *, square: bool = False) -> list[Path]:
    """A few of real products, high and wide; their sizes let no library crop by half a pixel."""
    files = sorted((shared / "clothing").rglob("*.jpg"))[::400][:3]
    files += sorted((shared / "fashion" / "images").glob("*.jpg"))[::700][:3]
    return files


def in_cache(folder: Path, cache: Path, name: str) -> str:
    """Lay `folder` out as the hub's client keeps a repository; returns the repository's name."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    shutil.copytree(folder, repository / "snapshots" / "abc")
    return name


def _shake(model: torch.nn.Module) -> Any:
    """Weights as large as after a training: at their start activations hardly matter."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1:
                value.normal_(std=1.5 / value.shape[-1] ** 0.5)
            elif not name.startswith("logit"):
                value.add_(torch.randn_like(value) * 0.1)
    return model.eval()


def unit(embeddings: Any) -> np.ndarray:
    found = getattr(embeddings, "pooler_output", embeddings)
    return torch.nn.functional.normalize(found.float(), dim=-1).detach().numpy()


def clip_tokenizer() -> Any:
    """transformers' own, with CLIP's vocabulary."""
    from transformers import CLIPTokenizer

    encoder = dict(open_clip.tokenizer.SimpleTokenizer().encoder)
    vocabulary = {
        {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}.get(key, key): i
        for key, i in encoder.items()
    }
    packed = Path(open_clip.tokenizer.default_bpe()).read_bytes()
    lines = gzip.decompress(packed).decode().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges)


def _embed(model: Any, tokenizer: Any, processor: Any, length: int) -> Callable[..., Embeddings]:
    def embed(texts: Sequence[str], pictures: Sequence[Image.Image]) -> Embeddings:
        tokens = tokenizer(
            list(texts), padding="max_length", max_length=length, truncation=True,
            return_tensors="pt",
        )  # fmt: skip
        given = {"input_ids": tokens["input_ids"]}
        if model.config.model_type in ("clip", "chinese_clip"):
            given["attention_mask"] = tokens["attention_mask"]
        with torch.inference_mode():
            return (
                unit(model.get_text_features(**given)),
                unit(model.get_image_features(**processor(list(pictures), return_tensors="pt"))),
            )

    return embed


def clip(folder: Path, activation: str = "quick_gelu", **text: Any) -> Owned:
    """transformers' `CLIPModel`."""
    import transformers as hf

    config = hf.CLIPConfig(
        text_config={**TEXT, "hidden_act": activation, **text},
        vision_config={**VISION, "hidden_act": activation},
        projection_dim=48,
    )
    model = _shake(hf.CLIPModel(config))
    tokenizer = clip_tokenizer()
    processor = hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)
    return Owned(
        folder, _embed(model, tokenizer, processor, text.get("max_position_embeddings", 77))
    )


def siglip(folder: Path) -> Owned:
    """transformers' `SiglipModel` with a tokenizer of sentencepiece."""
    import transformers as hf

    tokenizer = _siglip_tokenizer(folder)
    model = _shake(
        hf.SiglipModel(
            hf.SiglipConfig(
                text_config={**TEXT, "vocab_size": 320, "projection_size": 64, "pad_token_id": 0},
                vision_config=VISION,
            )
        )
    )
    processor = hf.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)
    return Owned(folder, _embed(model, tokenizer, processor, 64))


def _siglip_tokenizer(folder: Path) -> Any:
    import sentencepiece
    import transformers as hf

    folder.mkdir(parents=True)
    words = folder.parent / "words.txt"
    words.write_text(
        "\n".join([*TEXTS, "a photo of shoes", "green hats and blue bags"] * 20).lower()
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(words), model_prefix=str(folder.parent / "sp"), vocab_size=90, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return hf.SiglipTokenizer(str(folder.parent / "sp.model"), model_max_length=64)


def siglip2(folder: Path) -> Owned:
    """transformers' `Siglip2Model`, which takes pictures of any form."""
    import transformers as hf
    from tokenizers import Tokenizer, models, normalizers, trainers

    bpe = Tokenizer(models.BPE(byte_fallback=False, unk_token="<unk>"))
    bpe.normalizer = normalizers.Replace(" ", "▁")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    bpe.train_from_iterator(
        [text.lower() for text in TEXTS],
        trainers.BpeTrainer(vocab_size=150, special_tokens=special),
    )
    made = json.loads(bpe.to_str())["model"]
    tokenizer = hf.Siglip2Tokenizer(
        vocab=made["vocab"], merges=[tuple(m) for m in made["merges"]], padding_side="right"
    )
    model = _shake(
        hf.Siglip2Model(
            hf.Siglip2Config(
                text_config={**TEXT, "vocab_size": 256, "projection_size": 64, "pad_token_id": 0},
                vision_config={**VISION, "num_patches": 16},
            )
        )
    )
    processor = hf.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)
    return Owned(folder, _embed(model, tokenizer, processor, 64))


def chinese_clip(folder: Path) -> Owned:
    """transformers' `ChineseCLIPModel`: a BERT for texts."""
    import transformers as hf

    folder.mkdir()
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] red rain boots blue green dress with long a x 红 雨 靴"
    (folder / "vocab.txt").write_text("\n".join(words.split()))
    tokenizer = hf.BertTokenizer(str(folder / "vocab.txt"), model_max_length=52)
    model = _shake(
        hf.ChineseCLIPModel(
            hf.ChineseCLIPConfig(
                text_config={**TEXT, "vocab_size": 40}, vision_config=VISION, projection_dim=48
            )
        )
    )
    processor = hf.ChineseCLIPImageProcessorPil(
        size={"height": 32, "width": 32}, do_center_crop=False
    )
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)
    return Owned(folder, _embed(model, tokenizer, processor, 52))


def sentence_transformers_clip(folder: Path) -> Owned:
    """A folder of sentence-transformers with a CLIP in it."""
    from sentence_transformers import SentenceTransformer

    clip(folder.parent / "inner")
    model = SentenceTransformer(str(folder.parent / "inner"), device="cpu")
    model.save_pretrained(str(folder))

    def embed(texts: Sequence[str], pictures: Sequence[Image.Image]) -> Embeddings:
        return tuple(
            model.encode(list(part), normalize_embeddings=True) for part in (texts, pictures)
        )  # type: ignore[return-value]

    return Owned(folder, embed)
