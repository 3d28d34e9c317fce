"""open_clip as cliptune imports it: without the optional packages that it only looks for.

open_clip imports `transformers` with the generation code for CoCa's captions, and timm imports
`wandb`, wherever they are installed: some eight seconds at the start of every process for what
no CLIP needs. So both are out of sight while open_clip is imported, and a model whose text tower
is a Hugging Face model asks for `transformers` when it is built.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NotRequired, TypedDict

from cliptune.extras import need
from cliptune.settings import current

# Read once, where the hub's client is imported; it asks the hub about itself otherwise.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
if current().offline:
    os.environ["HF_HUB_OFFLINE"] = "1"


@contextmanager
def _out_of_sight(*packages: str) -> Iterator[None]:
    """Have `import package` fail meanwhile, for those that nobody has imported yet."""
    hidden = [name for name in packages if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # what makes an import fail
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


class TextConfig(TypedDict, total=False):
    """The text tower in an open_clip config: what is looked at here of it, or written."""

    context_length: int
    vocab_size: int
    width: int
    heads: int
    layers: int
    mlp_ratio: float
    norm_kwargs: dict[str, object]
    act_kwargs: dict[str, object]
    no_causal_mask: bool
    proj_bias: bool
    pool_type: str
    eos_id: int
    hf_model_name: str
    hf_model_pretrained: bool
    hf_proj_type: str
    hf_pooler_type: str
    hf_tokenizer_name: str
    tokenizer_kwargs: dict[str, object]
    tokenizer_mode: str


class VisionConfig(TypedDict, total=False):
    """The vision tower in an open_clip config, likewise."""

    image_size: int | list[int]
    patch_size: int
    width: int
    head_width: int
    layers: int | list[int]
    mlp_ratio: float
    norm_kwargs: dict[str, object]
    act_kwargs: dict[str, object]
    """Of a timm tower only what cliptune builds it by: open_clip passes it none."""
    timm_model_name: str
    timm_model_pretrained: bool
    timm_pool: str
    timm_proj: str


class OpenClipConfig(TypedDict):
    """open_clip's `model_cfg`: what a network is built from."""

    embed_dim: int
    text_cfg: TextConfig
    vision_cfg: VisionConfig
    quick_gelu: NotRequired[bool]
    custom_text: NotRequired[bool]
    init_logit_bias: NotRequired[float]


with _out_of_sight("transformers", "wandb"):
    import open_clip
    import open_clip.hf_model


def needs_transformers(model_cfg: OpenClipConfig) -> None:
    """Give open_clip its Hugging Face text towers, if the text tower of `model_cfg` is one.

    Raises:
        Unavailable: `cliptune[hf]` is not installed.
    """
    if not model_cfg["text_cfg"].get("hf_model_name"):
        return
    need("hf", "a Hugging Face text tower")
    if open_clip.hf_model.transformers is None:
        importlib.reload(open_clip.hf_model)
        open_clip.model.HFTextEncoder = open_clip.hf_model.HFTextEncoder


__all__ = ["OpenClipConfig", "TextConfig", "needs_transformers", "open_clip"]
