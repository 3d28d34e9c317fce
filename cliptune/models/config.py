"""What a model needs that its weights don't say: activation, preprocessing, context, tokenizer.

None of it shows in the weights themselves, and a wrong guess gives no error but poor embeddings.
So it is taken from where the weights' makers have written it down: open_clip's table of pretrained
tags, or the config that lies with the weights. An architecture's name says nothing of it:
`ViT-B-32` has weights that were trained with GELU and others with QuickGELU.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from cliptune.data.pictures.preprocessing import ImagePreprocessing
from cliptune.errors import BadInput
from cliptune.models.names import OpenClipName, listed_tags
from cliptune.models.openclip import OpenClipConfig, open_clip

_DEFAULT_CONTEXT = 77
_DEFAULT_SIZE = 224


@dataclass(frozen=True)
class ModelConfig:
    """What the network of some weights is built from, and how it is fed."""

    model_cfg: OpenClipConfig
    """open_clip's config, with `quick_gelu` as the weights need it."""
    preprocessing: ImagePreprocessing
    assumed: str = ""
    """What nobody has said of these weights and is only assumed; empty: all of it is known."""
    hf_text_config: Mapping[str, object] | None = None
    """Of a text tower of Hugging Face whose own config lies in no folder of its own."""

    @property
    def activation(self) -> str:
        """Of the transformers that open_clip itself builds: `QuickGELU` or `GELU`.

        Towers of timm and of Hugging Face have their own.
        """
        return "QuickGELU" if self.model_cfg.get("quick_gelu") else "GELU"

    @property
    def context_length(self) -> int:
        """How many tokens of a text are read."""
        return int(self.model_cfg["text_cfg"].get("context_length", _DEFAULT_CONTEXT))

    @cached_property
    def summary(self) -> str:
        """All of it in one line, for logs."""
        tokenizer = self.model_cfg["text_cfg"].get("hf_tokenizer_name") or "CLIP's tokenizer"
        return (
            f"{self.activation}; {self.preprocessing.summary}; "
            f"{self.context_length} tokens of {tokenizer}"
        )


def stated_config(stated: Mapping[str, Any]) -> ModelConfig:
    """What an `open_clip_config.json` says.

    Raises:
        BadInput: it is not usable.
    """
    try:
        model_cfg = two_towers(stated.get("model_cfg", stated))
        return ModelConfig(model_cfg, _preprocessing(model_cfg, stated.get("preprocess_cfg")))
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"its config can't be read: {error!r}") from error


def default_preprocessing(model_cfg: OpenClipConfig) -> ImagePreprocessing:
    """OpenAI's, of which most others come."""
    return _preprocessing(model_cfg, None)


def two_towers(model_cfg: Any) -> OpenClipConfig:
    """The config without a captioning model's decoder (CoCa): its two towers are a CLIP."""
    model_cfg = copy.deepcopy(model_cfg)
    if "multimodal_cfg" in model_cfg:
        del model_cfg["multimodal_cfg"]
        model_cfg["custom_text"] = True
        for tower in ("text_cfg", "vision_cfg"):
            model_cfg[tower].pop("output_tokens", None)
    config: OpenClipConfig = model_cfg
    return config


def listed_config(name: OpenClipName) -> ModelConfig:
    """What open_clip's tables say of the weights that `name` names."""
    model_cfg = two_towers(open_clip.get_model_config(name.architecture))
    if name.tag is None:
        shared = _shared_preprocessing(name.architecture)
        config = ModelConfig(model_cfg, _preprocessing(model_cfg, shared))
        return config if name.is_random else replace(config, assumed=_assumed(name, config))
    tag = open_clip.get_pretrained_cfg(name.architecture, name.tag)
    # A tag that says nothing of it was trained as the architecture's config says: roberta-ViT-B-32
    # is the one whose config has QuickGELU by itself, and its published results are made so.
    if "quick_gelu" in tag:
        model_cfg["quick_gelu"] = bool(tag["quick_gelu"])
    return ModelConfig(model_cfg, _preprocessing(model_cfg, tag))


def _preprocessing(
    model_cfg: OpenClipConfig, stated: Mapping[str, object] | None
) -> ImagePreprocessing:
    """What is `stated`, and open_clip's defaults for the rest; the size is the vision tower's."""
    merged = open_clip.transform.merge_preprocess_dict(
        open_clip.transform.PreprocessCfg(), stated or {}
    )
    merged["size"] = model_cfg["vision_cfg"].get("image_size", _DEFAULT_SIZE)
    return ImagePreprocessing.from_open_clip(merged)


def _shared_preprocessing(architecture: str) -> dict[str, object]:
    """The preprocessing that all listed weights of an architecture have; empty if they differ."""
    keys = ("mean", "std", "interpolation", "resize_mode")
    stated = [
        {key: tag[key] for key in keys}
        for tag in (
            open_clip.get_pretrained_cfg(architecture, t) for t in listed_tags(architecture)
        )
    ]
    return stated[0] if stated and all(one == stated[0] for one in stated) else {}


def _assumed(name: OpenClipName, config: ModelConfig) -> str:
    """What is said of a checkpoint whose tag isn't named."""
    words = (
        f"{name.architecture}::{name.file} says nothing of its weights: assumed {config.summary}"
    )
    if not (tags := listed_tags(name.architecture)):
        return words
    others = [
        tag for tag in tags if _differ(listed_config(OpenClipName(name.architecture, tag)), config)
    ]
    named = f"{name.architecture}::TAG::{name.file}"
    if others:
        words += f". Of {', '.join(others)}, or what was tuned from them, that is wrong"
    return f"{words}. Name the weights that it is of, or was tuned from: {named}"


def _differ(one: ModelConfig, other: ModelConfig) -> bool:
    return (one.activation, one.preprocessing) != (other.activation, other.preprocessing)
