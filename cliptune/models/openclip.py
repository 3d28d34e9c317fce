"""open_clip as cliptune imports it: without the optional packages that it only looks for.

open_clip imports `transformers` with the generation code for CoCa's captions, and timm imports
`wandb`, wherever they are installed: some eight seconds at the start of every process for what
no CLIP needs. So both are out of sight while open_clip is imported, and a model whose text tower
is a Hugging Face model asks for `transformers` when it is built. Neither is torch's compiler
imported, as torchvision and timm would.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import NotRequired, ParamSpec, TypedDict, TypeVar

import torch

from cliptune.extras import hidden, need, stubbed
from cliptune.settings import current

# Read once, where the hub's client is imported; it asks the hub about itself otherwise.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
if current().offline:
    os.environ["HF_HUB_OFFLINE"] = "1"

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Have torch's compiler left alone until something is compiled: importing it takes 4 s.

    torchvision wants one function of it for RoI pooling, and timm two functions left uncompiled
    (of NaFlex towers): both get what imports the compiler when it is called.
    """
    if "torch._dynamo" in sys.modules:
        yield
        return

    def is_compile_supported(device_type: str) -> object:
        return importlib.import_module("torch._dynamo.utils").is_compile_supported(device_type)

    def disable_later(function: Callable[P, R], **options: bool) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            uncompiled: Callable[P, R] = disable(function, **options)  # type: ignore[no-untyped-call]
            return uncompiled(*args, **kwargs)

        return call

    with stubbed("torch._dynamo.utils", is_compile_supported=is_compile_supported):
        import torchvision  # noqa: F401
    disable = torch.compiler.disable
    vars(torch.compiler)["disable"] = disable_later
    try:
        yield
    finally:
        vars(torch.compiler)["disable"] = disable


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


with hidden("transformers", "wandb"), _without_compiler():
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
