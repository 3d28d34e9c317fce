"""From a name to a CLIP model: open_clip's models, local folders, artifacts, the built-in one."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cliptune.data.pictures.preprocessing import ImagePreprocessing
from cliptune.errors import BadInput, CliptuneError, Unavailable
from cliptune.models.artifact import Artifact, open_artifact
from cliptune.models.config import ModelConfig, read_config
from cliptune.models.digest import model_digest
from cliptune.models.modules import TextModule, VisionModule
from cliptune.models.names import (
    FOLDER_PREFIX,
    HUB_PREFIX,
    HubName,
    LocalName,
    ModelName,
    OpenClipName,
    absolute_name,
    artifact_path,
    check_exists,
    parse_model_name,
)
from cliptune.models.openclip import OpenClipConfig, needs_transformers, open_clip
from cliptune.models.tokenizers import Tokenizer, has_tokenizer, load_tokenizer

log = logging.getLogger("cliptune")


@dataclass
class ClipModel:
    """A CLIP in memory with all that its two towers need."""

    name: str
    """The name it was asked for by."""
    clip: Any
    """An open_clip `CLIP` or `CustomTextCLIP`, in evaluation mode when loaded."""
    tokenizer: Tokenizer
    preprocessing: ImagePreprocessing
    model_cfg: OpenClipConfig
    """The open_clip config that the model is built from."""
    folder: Path | None = None
    """Where its tokenizer's files are, if it has files of its own."""
    base: str = ""
    """For a fine-tuned model: the name of the model that it comes from."""
    _digest: tuple[int, str] | None = field(default=None, repr=False)

    @property
    def output_dim(self) -> int:
        """The number of dimensions D of its embeddings."""
        return int(self.model_cfg["embed_dim"])

    @property
    def config(self) -> ModelConfig:
        """What belongs to its weights."""
        return ModelConfig(self.model_cfg, self.preprocessing)

    @property
    def activation(self) -> str:
        """Of its transformers: `QuickGELU` or `GELU` (see `ModelConfig.activation`)."""
        return self.config.activation

    @property
    def context_length(self) -> int:
        """How many tokens of a text are read; the rest is cut."""
        return self.config.context_length

    @property
    def text_module(self) -> TextModule:
        """The text tower, sharing this model's weights."""
        return TextModule(self.clip)

    @property
    def vision_module(self) -> VisionModule:
        """The vision tower, sharing this model's weights."""
        return VisionModule(self.clip)

    @property
    def digest(self) -> str:
        """SHA-256 of the weights as they are now, and of their network (see `models.digest`)."""
        # Tensors count their in-place changes: the digest is made again only after one.
        state = self.clip.state_dict()
        version = sum(value._version for value in state.values())
        if self._digest is None or self._digest[0] != version:
            self._digest = (version, model_digest(state, self.model_cfg))
        return self._digest[1]


def load_model(
    name: str | Path, *, device: str = "cpu", tell: Callable[[str], None] | None = None
) -> ClipModel:
    """Load the model `name` in fp32, in evaluation mode, on `device`.

    `name` is one of
    `builtin` and the other short names of `describe_models()`;
    `ARCH::TAG` of open_clip (`ViT-B-32::openai`), or `ARCH::random` for untrained weights;
    `ARCH::TAG::FILE`: a checkpoint of those weights, or tuned from them; `ARCH::FILE`: one of
    which nothing more is known;
    `hf-hub:org/name`;
    the path of a folder with an `open_clip_config.json` of your own and its weights
    (safetensors, or a checkpoint that `torch.load(weights_only=True)` reads);
    the path of an artifact, as a folder or a zip.

    Activation, preprocessing, context and tokenizer are those of the weights, whatever the
    architecture is called (see `cliptune.models.config`). What had to be assumed, and that an
    artifact was made with another activation than its base model has, is told to `tell`; None
    logs it as a warning, once a process.

    Raises:
        NotFound: no such model; the message lists near names.
        Unavailable: its weights are on a hub that can't be reached from here.
        BadInput: its config or its weights are not usable.
    """
    if path := artifact_path(name):
        artifact = open_artifact(path)
        tell_outdated(artifact, tell)
        return load_artifact_model(artifact, device=device)
    parsed = parse_model_name(name)
    check_exists(parsed, name)
    try:
        config = read_config(parsed)
        needs_transformers(config.model_cfg)
        folder = _tokenizer_folder(parsed)
        tokenizer = load_tokenizer(config.model_cfg["text_cfg"], folder)
        clip = _create(parsed, config)
    except CliptuneError as error:
        error.args = (f"model {str(name)!r}: {error}",)
        raise
    except pickle.UnpicklingError as error:
        raise BadInput(
            f"model {str(name)!r}: its weights can't be read: neither safetensors nor a checkpoint "
            "of tensors alone (others can run code, and are not read)"
        ) from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise BadInput(
            f"model {str(name)!r}: its config or weights can't be read: {error}"
        ) from error
    except (RuntimeError, ValueError, OSError) as error:
        raise _loading_error(parsed, str(name), error) from error
    if config.assumed:
        (tell or _warn_once)(config.assumed)
    return ClipModel(
        name=str(name),
        clip=clip.to(device).eval(),
        tokenizer=tokenizer,
        preprocessing=config.preprocessing,
        model_cfg=config.model_cfg,
        folder=folder,
        base=absolute_name(name),
    )


def check_model(name: str) -> None:
    """Refuse a model that `load_model` would not find, without loading anything.

    Raises:
        NotFound: no such model; the message lists near names.
        BadArtifact: an artifact that is not whole.
        BadInput: the name is none, or of a model that writes captions (CoCa).
    """
    if path := artifact_path(name):
        open_artifact(path)
        return
    parsed = parse_model_name(name)
    check_exists(parsed, name)
    if isinstance(parsed, OpenClipName):
        read_config(parsed)


def check_same_model(name: str, artifact: Path) -> None:
    """Refuse to take `artifact` for a tuned form of the model `name` if their towers differ.

    Raises:
        BadInput: they differ.
    """
    parsed = parse_model_name(name)
    if isinstance(parsed, HubName) or artifact_path(name):
        return  # what an artifact is of is asked of its base; a hub may be out of reach
    check_exists(parsed, name)
    tuned = open_artifact(artifact)
    expected = read_config(parsed).model_cfg
    if outdated(tuned):  # it goes on as it was made, and says so when it is loaded
        expected["quick_gelu"] = False
    if _towers_config(expected) != _towers_config(tuned.model_cfg):
        raise BadInput(
            f"model is {name!r}, and the model_artifact {artifact} is a fine-tuned "
            f"{tuned.metadata['base_model']!r}, whose towers are others: give that as the model"
        )


def _towers_config(model_cfg: OpenClipConfig) -> list[object]:
    """What the towers of a model are built from, without where their files lie."""
    places = ("hf_model_name", "hf_tokenizer_name")
    text = {key: value for key, value in model_cfg["text_cfg"].items() if key not in places}
    is_quick = bool(model_cfg.get("quick_gelu"))
    return [model_cfg["embed_dim"], is_quick, model_cfg["vision_cfg"], text]


def outdated(artifact: Artifact) -> bool:
    """Whether `artifact` was made with GELU from weights that need QuickGELU.

    Earlier versions did that. It stays what it is: its weights are tuned to that network.
    """
    if artifact.model_cfg.get("quick_gelu"):
        return False
    try:
        base = parse_model_name(str(artifact.metadata.get("base_model")))
    except BadInput:
        return False
    if not isinstance(base, OpenClipName) or base.tag is None:
        return False
    stated = open_clip.get_pretrained_cfg(base.architecture, base.tag)
    return bool(stated.get("quick_gelu"))


def tell_outdated(artifact: Artifact, tell: Callable[[str], None] | None = None) -> None:
    """Say of an `outdated` artifact that it is one; None logs it as a warning, once a process."""
    if outdated(artifact):
        (tell or _warn_once)(
            f"{artifact.path} was made by an earlier version, with GELU from weights of "
            f"{artifact.metadata['base_model']} that were trained with QuickGELU. It works as it "
            "was measured; made again from the same data it should be better"
        )


_told: set[str] = set()


def _warn_once(words: str) -> None:
    if words not in _told:
        _told.add(words)
        log.warning("%s", words)


def _tokenizer_folder(parsed: ModelName) -> Path | None:
    """Where the tokenizer's files are if they lie with the weights."""
    if isinstance(parsed, LocalName):
        return parsed.path
    if isinstance(parsed, OpenClipName) and parsed.file is not None:
        beside = parsed.file.expanduser().absolute().parent
        return beside if has_tokenizer(beside) else None
    return None


def _create(parsed: ModelName, config: ModelConfig) -> nn.Module:
    """Build the network of `config` with the weights of `parsed`, by open_clip."""
    is_quick = bool(config.model_cfg.get("quick_gelu"))
    options: dict[str, object] = {"require_pretrained": True, "weights_only": True}
    if isinstance(parsed, HubName):
        name = f"{HUB_PREFIX}{parsed.repository}"
    elif isinstance(parsed, LocalName):
        name = f"{FOLDER_PREFIX}{parsed.path}"
    else:
        name = parsed.architecture
        # Absolute, so that open_clip can't take a file's name for a tag.
        file = parsed.file and str(parsed.file.expanduser().absolute())
        options |= {
            "pretrained": file or parsed.tag,
            # Without pretrained text and image bases too: nothing more is fetched.
            "pretrained_text": False,
            "require_pretrained": not parsed.is_random,
            "quick_gelu": is_quick,
            "force_quick_gelu": is_quick,  # without a warning that it isn't in the config
        }
    with _quiet():
        clip: nn.Module = open_clip.create_model(name, **options)
    return clip


def load_artifact_model(artifact: Artifact, *, device: str = "cpu") -> ClipModel:
    """Both towers of an artifact as one model, to train it further or to evaluate it."""
    clip, tokenizer = build_empty(artifact)
    load_weights(clip, {**artifact.weights("clip-text"), **artifact.weights("clip-vision")})
    return ClipModel(
        name=str(artifact.path),
        clip=clip.to(device).eval(),
        tokenizer=tokenizer,
        preprocessing=artifact.preprocessing,
        model_cfg=artifact.model_cfg,
        folder=artifact.tokenizer_folder,
        base=artifact.metadata["base_model"],
    )


def build_empty(artifact: Artifact) -> tuple[nn.Module, Tokenizer]:
    """The artifact's architecture without its weights, and its tokenizer."""
    cfg = artifact.model_cfg
    if "timm_model_name" in cfg["vision_cfg"]:
        cfg["vision_cfg"]["timm_model_pretrained"] = False
    if cfg["text_cfg"].get("hf_model_name"):
        cfg["text_cfg"]["hf_model_pretrained"] = False
        folder = artifact.tokenizer_folder
        if folder and (folder / "config.json").is_file():
            cfg["text_cfg"]["hf_model_name"] = str(folder)
    needs_transformers(cfg)
    custom_text = cfg.pop("custom_text", False) or bool(cfg["text_cfg"].get("hf_model_name"))
    kind = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    clip = kind(**cfg)
    return clip.eval(), load_tokenizer(cfg["text_cfg"], artifact.tokenizer_folder)


def load_weights(module: nn.Module, state: dict[str, Tensor], *, partial: bool = False) -> None:
    """Copy `state` into `module`; names must fit exactly, or with `partial` be among its own."""
    missing, unexpected = module.load_state_dict(state, strict=False)
    if unexpected or (missing and not partial):
        raise BadInput(f"weights do not fit the model: missing {missing}, unknown {unexpected}")


def _loading_error(parsed: ModelName, name: str, error: Exception) -> CliptuneError:
    """What to tell the user about open_clip's `error`."""
    words = " ".join(str(error).split())
    network = ("huggingface", "connection", "offline", "resolve", "download", "hub", "urlopen")
    if isinstance(error, OSError) or any(word in words.lower() for word in network):
        listed = "ARCH::TAG"
        if isinstance(parsed, OpenClipName) and parsed.tag:
            listed = f"{parsed.architecture}::{parsed.tag}"
        return Unavailable(
            f"the weights of {name!r} can't be fetched from here ({words[:200]}). Fetch them on a "
            f"machine that reaches the hub and give the checkpoint's path ({listed}::FILE), "
            "or a folder with open_clip_config.json and its weights"
        )
    return BadInput(f"model {name!r} can't be loaded: {words[:400]}")


class _quiet:  # noqa: N801 - reads as a statement
    """Keep open_clip's own log lines about loading out of the user's log."""

    def __enter__(self) -> None:
        self._level = logging.root.level
        logging.root.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.root.setLevel(self._level)


def pick_device(device: str | None) -> torch.device:
    """`device`, or the accelerator that is there, else the CPU.

    Raises:
        BadInput: the named device is not on this machine.
    """
    if device in (None, "auto"):
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        picked = torch.device(str(device))
    except RuntimeError as error:
        raise BadInput(f"unknown device {device!r}: use cpu, cuda or cuda:N") from error
    if picked.type == "cuda" and not torch.cuda.is_available():
        raise BadInput(f"device {device!r} is not on this machine: use cpu")
    return picked
