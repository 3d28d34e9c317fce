"""A folder that transformers loads: `AutoModel.from_pretrained(FOLDER)`, with its processor.

CLIPs of open_clip's own transformers become `CLIPModel`, SigLIPs `SiglipModel`, and those with a
BERT for texts `ChineseCLIPModel`; transformers has no class for other towers. The library's own
classes write all files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cliptune.errors import BadInput
from cliptune.extras import need
from cliptune.models.formats.huggingface import weight_lines
from cliptune.models.formats.weight_names import to_theirs
from cliptune.models.loading import ClipModel
from cliptune.models.openclip import open_clip
from cliptune.models.tokenizers import HFTokenizer, SimpleTokenizer

USAGE = """
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("ORG/NAME")  # or this folder's path
processor = AutoProcessor.from_pretrained("ORG/NAME")
"""
_TEXT = {
    "context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "norm_kwargs",
    "act_kwargs", "pool_type", "eos_id", "hf_tokenizer_name", "tokenizer_kwargs", "no_causal_mask",
    "proj_bias", "pad_id", "tokenizer_mode",
}  # fmt: skip
_VISION = {
    "image_size", "patch_size", "width", "head_width", "layers", "mlp_ratio", "norm_kwargs",
    "act_kwargs", "patch_dropout",
}  # fmt: skip
"""What of open_clip's config transformers can say."""


def kind_of(model: ClipModel) -> str:
    """transformers' `model_type` of a model's towers.

    Raises:
        BadInput: it has none, or its pictures are prepared as no processor of theirs does.
    """
    text, vision = model.model_cfg["text_cfg"], model.model_cfg["vision_cfg"]
    if model.preprocessing.resize_mode == "longest":
        raise BadInput(
            f"{model.name} has its pictures fitted in and padded, which no processor of "
            "transformers does: use --format open_clip or onnx"
        )
    plain_vision = not {k for k, v in vision.items() if v} - _VISION and isinstance(
        vision.get("layers", 12), int
    )
    plain_text = not {k for k, v in text.items() if v} - _TEXT
    if plain_vision and plain_text and not text.get("no_causal_mask") and not text.get("proj_bias"):
        return "clip"
    is_siglip = "siglip" in vision.get("timm_model_name", "") and vision.get("timm_pool") == "map"
    if is_siglip and plain_text and text.get("no_causal_mask") and text.get("proj_bias"):
        return "siglip"
    config = getattr(getattr(model.clip, "text", None), "config", None)
    poolings = ("cls_last_hidden_state_pooler",)
    if plain_vision and getattr(config, "model_type", "") == "bert" and (
        text.get("hf_pooler_type") in poolings and text.get("hf_proj_type") == "linear"
    ):  # fmt: skip
        return "chinese_clip"
    towers = [
        vision.get("timm_model_name"),
        text.get("hf_model_name") and "a Hugging Face text tower",
    ]
    raise BadInput(
        f"transformers has no class for the towers of {model.name} "
        f"({', '.join(filter(None, towers)) or 'of a form of their own'}): use --format open_clip, "
        "onnx or openvino"
    )


def write_transformers(model: ClipModel, folder: Path) -> None:
    """Write `model` into the empty folder `folder`.

    Raises:
        BadInput: as `kind_of`.
        Unavailable: `cliptune[hf]` is not installed.
    """
    need("hf", "export to transformers")
    import torch
    import transformers

    kind = kind_of(model)
    config = _config(model, kind)
    with torch.device("meta"):
        theirs: Any = getattr(transformers, type(config).__name__.removesuffix("Config") + "Model")(
            config
        )
    own = {n: v for n, v in _plain_text(model).items() if n != "logit_bias" or kind == "siglip"}
    if kind == "siglip" and "logit_bias" not in own:
        own["logit_bias"] = torch.zeros(1)
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    state = to_theirs(own, weight_lines(config.to_dict(), list(shapes)))
    state = {name: value.detach().cpu().reshape(shapes[name]) for name, value in state.items()}
    theirs.load_state_dict(state, assign=True)
    theirs.save_pretrained(folder)
    # Each by itself: what version 5 writes of a whole processor, those before it can't read.
    _image_processor(model, kind).save_pretrained(folder)
    _tokenizer(model).save_pretrained(folder)


def _plain_text(model: ClipModel) -> dict[str, Any]:
    """The weights, where CLIP's own text tower is not in a part of its own."""
    state = dict(model.clip.state_dict())
    text = getattr(model.clip, "text", None)
    if isinstance(text, open_clip.transformer.TextTransformer) and not isinstance(
        text.text_projection, nn.Linear
    ):
        state = {name.removeprefix("text."): value for name, value in state.items()}
    return state


def _config(model: ClipModel, kind: str) -> Any:
    import transformers

    cfg = model.model_cfg
    text, vision = cfg["text_cfg"], cfg["vision_cfg"]
    if kind == "siglip":
        trunk: Any = model.clip.visual.trunk
        block = trunk.blocks[0]
        config = transformers.SiglipConfig(
            text_config={**_text_config(model, text), "projection_size": cfg["embed_dim"]},
            vision_config={
                "hidden_size": trunk.embed_dim,
                "intermediate_size": block.mlp.fc1.out_features,
                "num_hidden_layers": len(trunk.blocks),
                "num_attention_heads": block.attn.num_heads,
                "image_size": model.preprocessing.size[0],
                "patch_size": trunk.patch_embed.patch_size[0],
                "layer_norm_eps": trunk.norm.eps,
                "hidden_act": _gelu(block.mlp.act),
            },
        )
        return config
    width = int(vision.get("width", 768))
    tower = {
        "hidden_size": width,
        "intermediate_size": int(width * float(vision.get("mlp_ratio", 4.0))),
        "num_hidden_layers": vision.get("layers", 12),
        "num_attention_heads": width // int(vision.get("head_width", 64)),
        "image_size": model.preprocessing.size[0],
        "patch_size": vision.get("patch_size", 16),
        **_norm(vision),
        "hidden_act": _activation(model, vision),
    }
    if kind == "chinese_clip":
        bert = model.clip.text.config.to_dict()
        bert.pop("model_type", None)
        bert.pop("architectures", None)
        return transformers.ChineseCLIPConfig(
            text_config=bert, vision_config=tower, projection_dim=cfg["embed_dim"]
        )
    return transformers.CLIPConfig(
        text_config=_text_config(model, text), vision_config=tower, projection_dim=cfg["embed_dim"]
    )


def _text_config(model: ClipModel, text: Mapping[str, Any]) -> dict[str, Any]:
    width = int(text.get("width", 512))
    begin, end, pad = _marks(model, text)
    return {
        "hidden_size": width,
        "intermediate_size": int(width * float(text.get("mlp_ratio", 4.0))),
        "num_hidden_layers": text.get("layers", 12),
        "num_attention_heads": text.get("heads", 8),
        "vocab_size": text.get("vocab_size", 49408),
        "max_position_embeddings": model.context_length,
        **_norm(text),
        "hidden_act": _activation(model, text),
        "bos_token_id": begin,
        "eos_token_id": end,
        "pad_token_id": pad,
    }


def _marks(model: ClipModel, text: Mapping[str, Any]) -> tuple[int | None, int | None, int | None]:
    """The ids of the tokens for begin, end and padding."""
    if isinstance(model.tokenizer, SimpleTokenizer):
        return (
            model.tokenizer.sot_token_id,
            model.tokenizer.eot_token_id,
            model.tokenizer.eot_token_id,
        )
    inner = model.tokenizer.tokenizer  # type: ignore[attr-defined]
    end = text.get("eos_id") if text.get("pool_type") == "eos" else inner.eos_token_id
    return inner.bos_token_id, end, inner.pad_token_id


def _norm(tower: Mapping[str, Any]) -> dict[str, float]:
    return {"layer_norm_eps": float((tower.get("norm_kwargs") or {}).get("eps", 1e-5))}


def _activation(model: ClipModel, tower: Mapping[str, Any]) -> str:
    if model.model_cfg.get("quick_gelu"):
        return "quick_gelu"
    approximate = (tower.get("act_kwargs") or {}).get("approximate")
    return "gelu_pytorch_tanh" if approximate == "tanh" else "gelu"


def _gelu(module: nn.Module) -> str:
    is_exact = isinstance(module, nn.GELU) and module.approximate == "none"
    return "gelu" if is_exact else "gelu_pytorch_tanh"


def _image_processor(model: ClipModel, kind: str) -> Any:
    """How pictures are prepared, as theirs says it."""
    import transformers

    prepared = model.preprocessing
    height, width = prepared.size
    is_square = prepared.resize_mode == "squash"
    options: dict[str, Any] = {
        "size": {"height": height, "width": width} if is_square else {"shortest_edge": height},
        "resample": {"bilinear": 2, "bicubic": 3}[prepared.interpolation],
        "image_mean": list(prepared.mean),
        "image_std": list(prepared.std),
    }
    if kind != "siglip":
        options |= {
            "do_center_crop": not is_square,
            "crop_size": {"height": height, "width": width},
        }
    elif not is_square:
        raise BadInput(
            f"{model.name}: SigLIP's processor crops nothing, and this model's pictures are"
        )
    classes = {
        "clip": transformers.CLIPImageProcessor,
        "siglip": transformers.SiglipImageProcessor,
        "chinese_clip": transformers.ChineseCLIPImageProcessor,
    }
    return classes[kind](**options)


def _tokenizer(model: ClipModel) -> Any:
    from transformers import CLIPTokenizer

    if isinstance(model.tokenizer, HFTokenizer):
        inner = model.tokenizer.tokenizer
        if model.tokenizer.clean_fn is open_clip.tokenizer._clean_canonicalize:
            _canonicalize(inner)
    else:
        encoder = dict(model.tokenizer.encoder)  # type: ignore[attr-defined]
        marks = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
        inner = CLIPTokenizer(
            vocab={marks.get(token, token): i for token, i in encoder.items()},
            merges=list(model.tokenizer.bpe_ranks),  # type: ignore[attr-defined]
        )
    inner.model_max_length = model.context_length
    return inner


def _canonicalize(tokenizer: Any) -> None:
    """Have a tokenizer do by itself what open_clip does to texts before it (SigLIP's cleaning)."""
    from tokenizers import Regex, normalizers

    backend = tokenizer.backend_tokenizer
    steps = [
        normalizers.Replace("_", " "),
        normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), ""),
        normalizers.Lowercase(),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    backend.normalizer = normalizers.Sequence([*steps, *filter(None, [backend.normalizer])])
