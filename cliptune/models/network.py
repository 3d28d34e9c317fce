"""From a config to a network, and weights into it: the same for all that comes in."""

from __future__ import annotations

import copy
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cliptune.errors import BadInput, Unavailable
from cliptune.models.formats.weight_names import misfit
from cliptune.models.openclip import OpenClipConfig, needs_transformers, open_clip

_DECODER = "text_decoder."
"""Of a captioning model (CoCa): it writes, and is no part of the two towers."""


def build_network(
    model_cfg: OpenClipConfig, hf_text_config: Path | Mapping[str, object] | None = None
) -> nn.Module:
    """The network of `model_cfg` with random weights, in evaluation mode; nothing is fetched.

    Args:
        model_cfg: open_clip's config.
        hf_text_config: of a Hugging Face text tower, the folder with its `config.json`, or what is
            in it; None: where `model_cfg` says.

    Raises:
        Unavailable: the config of a Hugging Face text tower can't be had.
        BadInput: no network can be built of it.
    """
    cfg: dict[str, Any] = copy.deepcopy(dict(model_cfg))
    text_cfg, vision_cfg = cfg["text_cfg"], cfg["vision_cfg"]
    if "timm_model_name" in vision_cfg:
        vision_cfg["timm_model_pretrained"] = False
    is_hf = bool(text_cfg.get("hf_model_name"))
    if is_hf:
        text_cfg["hf_model_pretrained"] = False
    needs_transformers(model_cfg)
    kind = open_clip.CustomTextCLIP if cfg.pop("custom_text", False) or is_hf else open_clip.CLIP
    with _text_folder(hf_text_config if is_hf else None) as folder, _quiet():
        if folder:
            text_cfg["hf_model_name"] = str(folder)
        try:
            clip: nn.Module = kind(**cfg)
        except OSError as error:
            raise Unavailable(
                f"the config of the text tower {text_cfg.get('hf_model_name')!r} is not on this "
                "machine, and can't be fetched from here: put its config.json and its tokenizer "
                "into a folder, and name that as hf_model_name and hf_tokenizer_name"
            ) from error
        except (TypeError, RuntimeError, ValueError, AssertionError, AttributeError) as error:
            raise BadInput(f"no network can be built of its config: {error}") from error
    if approximate := (vision_cfg.get("act_kwargs") or {}).get("approximate"):
        _set_gelu(clip, approximate)
    return clip.eval()


def fit_weights(
    clip: nn.Module, state: dict[str, Tensor], tell: Callable[[str], None] | None = None
) -> None:
    """Put a whole model's weights into its network, each in its place.

    Weights of Apple's own MobileCLIP files are taken apart as open_clip does, and position
    embeddings of pictures of another size are resized as open_clip does; `tell` is told of that.

    Raises:
        BadInput: they are not those of the network; the message names what differs.
    """
    own = clip.state_dict()
    state = open_clip.convert.convert_state_dict(clip, dict(state))
    state = {n: v for n, v in state.items() if not n.startswith(_DECODER)}
    if "positional_embedding" in state and "positional_embedding" not in own:
        state = open_clip.model.convert_to_custom_text_state_dict(state)
    # Hugging Face's text towers had it as a weight once.
    state.pop("text.transformer.embeddings.position_ids", None)
    for name in ("logit_scale", "logit_bias"):
        if name in state and name in own and state[name].numel() == 1:
            state[name] = state[name].reshape(own[name].shape)
    if "logit_bias" in own and "logit_bias" not in state:
        state["logit_bias"] = torch.zeros_like(own["logit_bias"])  # as open_clip takes it
    positions = "visual.positional_embedding"
    if positions in state and positions in own and state[positions].shape != own[positions].shape:
        with _misfitting():
            open_clip.model.resize_pos_embed(state, clip)
        if tell:
            tell(
                "the weights are of pictures of another size than the config's: their position "
                "embeddings are resized"
            )
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unknown:
        raise BadInput(misfit(missing, unknown))
    for name, value in own.items():
        if state[name].shape != value.shape:
            raise BadInput(
                "the weights are not those of the network that the config describes: "
                f"{name} has the shape {tuple(state[name].shape)}, and the network's is "
                f"{tuple(value.shape)}"
            )
    clip.load_state_dict(state)


def fit_big_vision(clip: nn.Module, path: Path) -> None:
    """Put Google's own weights of a SigLIP (`.npz`) into its network.

    Raises:
        BadInput: they are not those of the network.
    """
    with _misfitting():
        open_clip.convert.load_big_vision_weights(clip, str(path))


@contextmanager
def _misfitting() -> Iterator[None]:
    try:
        yield
    except (KeyError, RuntimeError, ValueError, AssertionError, AttributeError, OSError) as error:
        raise BadInput(
            f"the weights are not those of the network that the config describes: {error}"
        ) from error


def _set_gelu(clip: nn.Module, approximate: str) -> None:
    """Have a timm tower's GELUs in one form: timm's SigLIPs differ in it from size to size."""
    trunk = getattr(clip.visual, "trunk", None)
    for module in trunk.modules() if trunk is not None else ():
        if isinstance(module, nn.GELU):
            module.approximate = approximate


@contextmanager
def _text_folder(config: Path | Mapping[str, object] | None) -> Iterator[Path | None]:
    """A folder with the config of a text tower; None: it is none, or has no config there."""
    if config is None or isinstance(config, Path):
        yield config if config and _is_text_config(config / "config.json") else None
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        yield Path(folder)


def _is_text_config(file: Path) -> bool:
    """Whether it is a text tower's own: a whole model's may lie beside its weights, too."""
    try:
        stated = json.loads(file.read_text(encoding="utf-8"))
        return stated.get("model_type") in open_clip.hf_configs.arch_dict
    except (OSError, ValueError, AttributeError):
        return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip's own log lines out of the user's log."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(level)
