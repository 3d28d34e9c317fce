"""Folders of transformers: CLIP, SigLIP, SigLIP 2 and Chinese CLIP, as open_clip's towers.

Their configs say by other words what open_clip's say, and their weights have other names (see
`weight_names`); the networks are the same, to the last bit of the activation. A folder of
sentence-transformers is one of these with a list of modules beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cliptune.data.pictures.preprocessing import ImagePreprocessing
from cliptune.errors import BadInput
from cliptune.models.config import ModelConfig
from cliptune.models.formats import weight_names
from cliptune.models.formats.places import Place
from cliptune.models.formats.weight_names import Line
from cliptune.models.openclip import OpenClipConfig, TextConfig, VisionConfig

CONFIG = "config.json"
MODULES = "modules.json"
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
MODEL_TYPES = ("clip", "siglip", "siglip2", "chinese_clip")
"""`model_type` in the configs that are understood."""
_PREPROCESSING = ("preprocessor_config.json", "processor_config.json")
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
)
_OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALF = ((0.5,) * 3, (0.5,) * 3)
_RESAMPLE = {2: "bilinear", 3: "bicubic"}
_CLIP_TOKENS = 49408
_END_OF_TEXT = 49407
# What the libraries' classes take where a config says nothing.
_TEXT = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "vocab_size": _CLIP_TOKENS,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": _END_OF_TEXT,
}
_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "num_channels": 3,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_SIGLIP = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_SIGLIP_TEXT = {
    **_TEXT,
    **_SIGLIP,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "vocab_size": 32000,
    "max_position_embeddings": 64,
}
_SIGLIP_VISION = {**_VISION, **_SIGLIP, "patch_size": 16, "num_patches": 256}
_BERT = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
_SIGLIP_SIZES: dict[tuple[int, ...], str] = {
    (768, 12, 12, 3072): "base",
    (1024, 24, 16, 4096): "large",
    (1152, 27, 16, 4304): "so400m",
    (1536, 40, 16, 6144): "giantopt",
}
"""By width, layers, heads and width of the MLP, what timm calls a SigLIP's vision transformer."""


def inner_folder(place: Place) -> Place:
    """The folder of transformers in a folder of sentence-transformers.

    Raises:
        BadInput: it isn't a CLIP alone.
    """
    file = place.find(MODULES)
    modules = read_json(file) if file else []
    try:
        kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
        path = str(modules[0]["path"])
    except (TypeError, KeyError, IndexError) as error:
        raise BadInput(f"{MODULES} of {place} can't be read: {error!r}") from error
    more = [kind for kind in kinds[1:] if kind != "Normalize"]
    if kinds[0] not in ("CLIPModel", "Transformer") or more:
        raise BadInput(
            f"{place} is a model of sentence-transformers of {', '.join(kinds)}: a CLIP alone, "
            "text and pictures in one, can be read"
        )
    if path.startswith(("/", ".")) or "\\" in path or ".." in path:
        raise BadInput(f"{MODULES} of {place} names a folder outside of it: {path!r}")
    return place.below(path)


def read_folder(place: Place, config: Mapping[str, Any]) -> tuple[ModelConfig, Path | None]:
    """What the towers are built from, and where the tokenizer's files are; None: it is CLIP's own.

    Raises:
        BadInput: a model of another kind, or of a form that open_clip's towers don't have.
    """
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise BadInput(
            f"{place} is a model of the kind {kind!r}: those with a text and a vision tower can be "
            f"read, of the kinds {', '.join(MODEL_TYPES)}, and all of open_clip's"
        )
    read = {"clip": _clip, "chinese_clip": _chinese_clip}.get(kind, _siglip)
    model_cfg, text_config = read(place, config)
    size = model_cfg["vision_cfg"]["image_size"]
    assert isinstance(size, int)  # noqa: S101
    preprocessing = _preprocessing(place, kind, size)
    tokenizer = _tokenizer_folder(place, model_cfg["text_cfg"])
    if tokenizer:
        model_cfg["text_cfg"]["hf_tokenizer_name"] = str(place)
        if kind == "chinese_clip":
            _limit_context(model_cfg["text_cfg"], tokenizer)
    return ModelConfig(model_cfg, preprocessing, hf_text_config=text_config), tokenizer


def weight_lines(config: Mapping[str, Any], names: Sequence[str]) -> list[Line]:
    """The table for a model of `config`; `names` are its weights', for a tower that keeps them."""
    kind = config["model_type"]
    text, vision = _part(config, "text", _TEXT), _part(config, "vision", _VISION)
    layers, blocks = int(text["num_hidden_layers"]), int(vision["num_hidden_layers"])
    if kind == "clip":
        text_lines, vision_lines = weight_names.clip_text(layers), weight_names.clip_vision(blocks)
    elif kind == "chinese_clip":
        inner = [n.removeprefix("text_model.") for n in names if n.startswith("text_model.")]
        kept = [name for name in inner if not name.startswith("pooler.")]
        kept = [name for name in kept if not name.endswith("position_ids")]
        text_lines, vision_lines = (
            weight_names.bert_text(kept), weight_names.clip_vision(blocks)
        )  # fmt: skip
    else:
        text_lines = weight_names.siglip_text(layers)
        vision_lines = weight_names.siglip_vision(blocks, is_flat=kind == "siglip2")
    bias = ("logit_bias",) if kind.startswith("siglip") else ()
    return [*text_lines, *vision_lines, *weight_names.scalars("logit_scale", *bias)]


def read_json(path: Path) -> Any:
    """The JSON in a file.

    Raises:
        BadInput: there is none; the message names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path} is no JSON ({error}): download or copy it again") from error


def _part(config: Mapping[str, Any], tower: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A tower's part of a config; older ones say it twice, and the second wins."""
    stated = config.get(f"{tower}_config") or {}
    again = config.get(f"{tower}_config_dict") or {}
    return {**defaults, **stated, **again}


def _clip(place: Place, config: Mapping[str, Any]) -> tuple[OpenClipConfig, None]:
    text, vision = _part(config, "text", _TEXT), _part(config, "vision", _VISION)
    is_quick, more = _activation(place, text["hidden_act"], vision["hidden_act"])
    text_cfg = _transformer_text(text, more)
    end = text["eos_token_id"]
    # Theirs took the largest token for the last one, while configs said 2; now it is searched for.
    if end != 2 and not (end == _END_OF_TEXT and text["vocab_size"] == _CLIP_TOKENS):
        text_cfg |= {"pool_type": "eos", "eos_id": int(end)}
    model_cfg: OpenClipConfig = {
        "embed_dim": int(config.get("projection_dim", 512)),
        "vision_cfg": _transformer_vision(vision, more),
        "text_cfg": text_cfg,
        "quick_gelu": is_quick,
    }
    return model_cfg, None


def _chinese_clip(
    place: Place, config: Mapping[str, Any]
) -> tuple[OpenClipConfig, dict[str, object]]:
    text, vision = _part(config, "text", _BERT), _part(config, "vision", _VISION)
    is_quick, more = _activation(place, vision["hidden_act"], vision["hidden_act"])
    model_cfg: OpenClipConfig = {
        "embed_dim": int(config.get("projection_dim", 512)),
        "vision_cfg": _transformer_vision(vision, more),
        "text_cfg": {
            "hf_model_name": str(place),
            "hf_model_pretrained": False,
            "hf_proj_type": "linear",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": int(text["max_position_embeddings"]),
            "vocab_size": int(text["vocab_size"]),
        },
        "quick_gelu": is_quick,
    }
    bert = {name: text[name] for name in _BERT}
    return model_cfg, {"model_type": "bert", "architectures": ["BertModel"], **bert}


def _siglip(place: Place, config: Mapping[str, Any]) -> tuple[OpenClipConfig, None]:
    text = _part(config, "text", _SIGLIP_TEXT)
    vision = _part(config, "vision", _SIGLIP_VISION)
    _, text_more = _activation(place, text["hidden_act"], text["hidden_act"])
    _, vision_more = _activation(place, vision["hidden_act"], vision["hidden_act"])
    patch = int(vision["patch_size"])
    size = int(vision["image_size"])
    if config["model_type"] == "siglip2":  # takes pictures of any form, of so many patches
        size = round(int(vision["num_patches"]) ** 0.5) * patch
    if not vision.get("vision_use_head", True):
        raise BadInput(f"{place} has no head that pools pictures, and so no embeddings of them")
    width = int(text.get("projection_size") or text["hidden_size"])
    if width != vision["hidden_size"]:
        raise BadInput(
            f"{place}: embeddings of texts have {width} numbers, and of pictures "
            f"{vision['hidden_size']}"
        )
    model_cfg: OpenClipConfig = {
        "embed_dim": int(vision["hidden_size"]),
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": size,
            "timm_model_name": _timm_name(place, vision, patch, size),
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
            **vision_more,  # type: ignore[typeddict-item]
        },
        "text_cfg": {
            **_transformer_text(text, text_more),
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
        },
    }
    return model_cfg, None


def _timm_name(place: Place, vision: Mapping[str, Any], patch: int, size: int) -> str:
    import timm

    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    sizes = tuple(int(vision[key]) for key in keys)
    called = _SIGLIP_SIZES.get(sizes)
    name = f"vit_{called}_patch{patch}_siglip_{size}"
    if called is None or not timm.is_model(name) or vision["layer_norm_eps"] != 1e-6:
        raise BadInput(
            f"{place}: a SigLIP whose vision transformer has {sizes[1]} layers of width "
            f"{sizes[0]}, patches of {patch} and pictures of {size} pixels is none of the "
            "published sizes, which are those that can be read"
        )
    return name


def _transformer_text(text: Mapping[str, Any], more: Mapping[str, Any]) -> TextConfig:
    text_cfg: TextConfig = {
        "context_length": int(text["max_position_embeddings"]),
        "vocab_size": int(text["vocab_size"]),
        "width": int(text["hidden_size"]),
        "heads": int(text["num_attention_heads"]),
        "layers": int(text["num_hidden_layers"]),
        "mlp_ratio": _ratio(text),
        **_norm(text),  # type: ignore[typeddict-item]
        **more,
    }
    return text_cfg


def _transformer_vision(vision: Mapping[str, Any], more: Mapping[str, Any]) -> VisionConfig:
    vision_cfg: VisionConfig = {
        "image_size": int(vision["image_size"]),
        "patch_size": int(vision["patch_size"]),
        "width": int(vision["hidden_size"]),
        "head_width": int(vision["hidden_size"]) // int(vision["num_attention_heads"]),
        "layers": int(vision["num_hidden_layers"]),
        "mlp_ratio": _ratio(vision),
        **_norm(vision),  # type: ignore[typeddict-item]
        **more,
    }
    return vision_cfg


def _ratio(tower: Mapping[str, Any]) -> float:
    """open_clip's `mlp_ratio`, by which it comes to the very width of the MLP."""
    width, inner = int(tower["hidden_size"]), int(tower["intermediate_size"])
    ratio = inner / width
    return ratio if int(width * ratio) == inner else (inner + 0.5) / width


def _norm(tower: Mapping[str, Any]) -> dict[str, object]:
    eps = float(tower["layer_norm_eps"])
    return {} if eps == 1e-5 else {"norm_kwargs": {"eps": eps}}


def _activation(place: Place, text: object, vision: object) -> tuple[bool, dict[str, Any]]:
    """Whether it is QuickGELU, and open_clip's options of another GELU."""
    known = {
        "quick_gelu": (True, {}),
        "gelu": (False, {}),
        "gelu_pytorch_tanh": (False, {"act_kwargs": {"approximate": "tanh"}}),
    }
    if text != vision or not isinstance(text, str) or text not in known:
        raise BadInput(
            f"{place}: the activation is {text!r} for texts and {vision!r} for pictures: one of "
            f"{', '.join(known)} for both can be read"
        )
    return known[text]


def _preprocessing(place: Place, kind: str, size: int) -> ImagePreprocessing:
    """How its pictures are prepared, by the config of its processor, or its class's defaults."""
    file = place.find(*_PREPROCESSING)
    stated = read_json(file) if file else {}
    stated = stated.get("image_processor", stated)
    is_square = kind.startswith("siglip")
    mean, std = _HALF if is_square else _OPENAI
    if not stated.get("do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    if abs(stated.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise BadInput(f"{place}: pictures are scaled by {stated['rescale_factor']}, not by 1/255")
    resample = stated.get("resample", 2 if kind == "siglip2" else 3)
    if resample not in _RESAMPLE:
        raise BadInput(
            f"{place}: pictures are resized by the filter {resample}: 2 (bilinear) or 3 (bicubic) "
            "can be read"
        )
    shape = {"height": size, "width": size} if is_square else {"shortest_edge": size}
    resized = stated.get("size", shape)
    if isinstance(resized, int):
        resized = dict.fromkeys(shape, resized)
    wanted = resized
    if kind == "siglip2":
        resized = wanted = shape
    mode = "shortest" if "shortest_edge" in resized else "squash"
    if stated.get("do_center_crop", not is_square):
        crop = stated.get("crop_size", size)
        wanted = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    sides = set(resized.values()) | set(wanted.values())
    if sides != {size}:
        raise BadInput(
            f"{place}: pictures are resized to {resized} and cropped to {wanted}, and the network "
            f"takes {size} x {size}: one size for all three can be read"
        )
    return ImagePreprocessing(
        (size, size),
        tuple(stated.get("image_mean", mean)) if stated.get("do_normalize", True) else mean,
        tuple(stated.get("image_std", std)) if stated.get("do_normalize", True) else std,
        _RESAMPLE[resample],
        mode,
    )


def _tokenizer_folder(place: Place, text_cfg: TextConfig) -> Path | None:
    """Where the tokenizer's files are; None: it has CLIP's own vocabulary."""
    files = [file for name in _TOKENIZER if (file := place.find(name))]
    if not files:
        if text_cfg["vocab_size"] == _CLIP_TOKENS and "hf_model_name" not in text_cfg:
            return None
        raise BadInput(
            f"{place} has no tokenizer ({', '.join(_TOKENIZER[:2])}, …): save it there, by its "
            "processor's save_pretrained"
        )
    if text_cfg["vocab_size"] == _CLIP_TOKENS and _has_clips_vocabulary(files):
        return None
    return files[0].parent


def _has_clips_vocabulary(files: Sequence[Path]) -> bool:
    """CLIP's own tokenizer, which cleans texts as CLIPs are trained, is taken for it."""
    from cliptune.models.tokenizers import SimpleTokenizer

    by_name = {file.name: file for file in files}
    if file := by_name.get("tokenizer.json"):
        vocabulary = read_json(file).get("model", {}).get("vocab")
    elif file := by_name.get("vocab.json"):
        vocabulary = read_json(file)
    else:
        return False
    own = list(SimpleTokenizer().encoder.items())[:-2]  # the last two, its marks, have other names
    return isinstance(vocabulary, dict) and all(vocabulary.get(key) == i for key, i in own)


def _limit_context(text_cfg: TextConfig, tokenizer: Path) -> None:
    """No longer than the tokenizer says that texts may be."""
    file = tokenizer / "tokenizer_config.json"
    stated = read_json(file).get("model_max_length") if file.is_file() else None
    if isinstance(stated, int | float) and 0 < stated < text_cfg["context_length"]:
        text_cfg["context_length"] = int(stated)
