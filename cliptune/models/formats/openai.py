"""A file of weights alone: OpenAI's TorchScript archives, whose towers their shapes tell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cliptune.errors import BadInput
from cliptune.models.config import ModelConfig, default_preprocessing
from cliptune.models.formats.checkpoints import State
from cliptune.models.openclip import OpenClipConfig, open_clip

SIZES = ("input_resolution", "context_length", "vocab_size")
"""What OpenAI's archives hold beside the weights."""
_NOT_WEIGHTS = "attn_mask"


def is_openai(state: State) -> bool:
    """Whether `state` is of one of OpenAI's files."""
    return all(name in state for name in SIZES)


def weights_of(state: State) -> State:
    """The weights among what such a file holds, in fp32."""
    return {
        name: value.float()
        for name, value in state.items()
        if name not in SIZES and not name.endswith(_NOT_WEIGHTS)
    }


def config_of(state: State, path: Path) -> ModelConfig:
    """What `state`, read from the file at `path`, is of.

    Raises:
        BadInput: it isn't OpenAI's: nothing in it says which activation, preprocessing and
            tokenizer its weights need.
    """
    if is_openai(state):
        model_cfg = _shapes(state)
        model_cfg["quick_gelu"] = True
        return ModelConfig(model_cfg, default_preprocessing(model_cfg))
    fitting = ", ".join(_fitting(state)) or "ARCH"
    raise BadInput(
        f"{path} doesn't say which activation, pictures and tokenizer its weights need: name the "
        f"weights that it is of, or was tuned from, ARCH::TAG::{path} (by its shapes, of "
        f"{fitting}), or put it into a folder with an open_clip_config.json"
    )


def _shapes(state: State) -> OpenClipConfig:
    """open_clip's config of the CLIP whose weights `state` are."""
    width = state["ln_final.weight"].shape[0]
    model_cfg: OpenClipConfig = {
        "embed_dim": state["text_projection"].shape[1],
        "text_cfg": {
            "context_length": state["positional_embedding"].shape[0],
            "vocab_size": state["token_embedding.weight"].shape[0],
            "width": width,
            "heads": width // 64,
            "layers": _count(state, "transformer.resblocks."),
        },
        "vision_cfg": {},
    }
    vision = model_cfg["vision_cfg"]
    if "visual.proj" in state:
        wide, _, _, patch = state["visual.conv1.weight"].shape
        grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
        vision["layers"] = _count(state, "visual.transformer.resblocks.")
        vision["width"], vision["patch_size"], vision["image_size"] = wide, patch, grid * patch
    else:
        grid = round((state["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
        vision["layers"] = [_count(state, f"visual.layer{i}.") for i in (1, 2, 3, 4)]
        vision["width"] = state["visual.layer1.0.conv1.weight"].shape[0]
        vision["image_size"] = grid * 32
    return model_cfg


def _count(state: State, prefix: str) -> int:
    return len({n.removeprefix(prefix).partition(".")[0] for n in state if n.startswith(prefix)})


def _fitting(state: State) -> Iterator[str]:
    """open_clip's architectures of the same sizes, the shortest names first."""
    try:
        shapes = _shapes(state)
    except (KeyError, ValueError, IndexError):
        return
    for name in sorted(open_clip.list_models(), key=len):
        listed = open_clip.get_model_config(name)
        parts = [
            (shapes["embed_dim"], listed["embed_dim"]),
            *(
                (value, listed["vision_cfg"].get(key))
                for key, value in shapes["vision_cfg"].items()
            ),
            *((value, listed["text_cfg"].get(key)) for key, value in shapes["text_cfg"].items()),
        ]
        if all(ours == theirs for ours, theirs in parts):
            yield name
