"""From a name to a CLIP model: open_clip's models, local folders, artifacts, the built-in one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cliptune.data.pictures.preprocessing import ImagePreprocessing
from cliptune.errors import BadInput, CliptuneError
from cliptune.models.artifact import Artifact, open_artifact
from cliptune.models.config import ModelConfig
from cliptune.models.context import stretch_context
from cliptune.models.digest import model_digest
from cliptune.models.formats.source import find_source, read_config
from cliptune.models.modules import TextModule, VisionModule
from cliptune.models.names import (
    HubName,
    OpenClipName,
    absolute_name,
    artifact_path,
    check_exists,
    parse_model_name,
)
from cliptune.models.network import build_network, fit_big_vision, fit_weights
from cliptune.models.openclip import OpenClipConfig, open_clip
from cliptune.models.tokenizers import Tokenizer, load_tokenizer

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
    name: str | Path,
    *,
    device: str = "cpu",
    context_length: int | None = None,
    tell: Callable[[str], None] | None = None,
) -> ClipModel:
    """Load the model `name` in fp32, in evaluation mode, on `device`.

    `name` is one of
    `builtin` and the other short names of `describe_models()`;
    `ARCH::TAG` of open_clip (`ViT-B-32::openai`), or `ARCH::random` for untrained weights;
    `ARCH::TAG::FILE`: a checkpoint of those weights, or tuned from them; `ARCH::FILE`: one of
    which nothing more is known;
    `org/name` or `hf-hub:org/name`: a repository of the hub, of open_clip, transformers or
    sentence-transformers (a folder of that name here comes first, without the prefix);
    the path of such a folder, or of one with an `open_clip_config.json` of your own and its weights
    (safetensors, or a checkpoint that `torch.load(weights_only=True)` reads);
    the path of one of OpenAI's `.pt` files;
    the path of an artifact, as a folder or a zip.

    Activation, preprocessing, context and tokenizer are those of the weights, whatever the
    architecture is called (see `cliptune.models.config`). What had to be assumed, and that an
    artifact was made with another activation than its base model has, is told to `tell`; None
    logs it as a warning, once a process. With `context_length` texts of more tokens are read than
    the weights were trained for (see `cliptune.models.context`).

    Raises:
        NotFound: no such model; the message lists near names.
        Unavailable: its weights are on a hub that can't be reached from here.
        BadInput: its config or its weights are not usable, or its context can't be so long.
    """
    tell = tell or _warn_once
    if path := artifact_path(name):
        artifact = open_artifact(path)
        tell_outdated(artifact, tell)
        model = load_artifact_model(artifact, device=device)
    else:
        try:
            model = _load_named(name, device, tell)
        except CliptuneError as error:
            error.args = (f"model {str(name)!r}: {error}",)
            raise
    if context_length is None or context_length == model.context_length:
        return model
    return replace(
        model,
        model_cfg=stretch_context(model.clip, model.model_cfg, context_length),
        _digest=None,
    )


def _load_named(name: str | Path, device: str, tell: Callable[[str], None]) -> ClipModel:
    parsed = parse_model_name(name)
    check_exists(parsed, name)
    source = find_source(parsed)
    config = source.config
    tokenizer = load_tokenizer(config.model_cfg["text_cfg"], source.tokenizer)
    clip = build_network(config.model_cfg, config.hf_text_config or source.tokenizer)
    if source.weights is not None:
        weights = source.weights()
        if isinstance(weights, Path):
            fit_big_vision(clip, weights)
        else:
            fit_weights(clip, weights, tell)
    if config.assumed:
        tell(config.assumed)
    return ClipModel(
        name=str(name),
        clip=clip.to(device),
        tokenizer=tokenizer,
        preprocessing=config.preprocessing,
        model_cfg=config.model_cfg,
        folder=source.tokenizer,
        base=absolute_name(name),
    )


def check_model(name: str) -> None:
    """Refuse a model that `load_model` would not find, without loading anything.

    Raises:
        NotFound: no such model; the message lists near names.
        BadArtifact: an artifact that is not whole.
        BadInput: the name is none, or a folder's config can't be read.
    """
    if path := artifact_path(name):
        open_artifact(path)
        return
    parsed = parse_model_name(name)
    check_exists(parsed, name)
    if not isinstance(parsed, HubName):
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
    """What towers are built from, without where their files lie, or how long texts may be."""
    others = ("hf_model_name", "hf_tokenizer_name", "context_length")  # a run may have stretched it
    text = {key: value for key, value in model_cfg["text_cfg"].items() if key not in others}
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
    folder, cfg = artifact.tokenizer_folder, artifact.model_cfg
    return build_network(cfg, folder), load_tokenizer(cfg["text_cfg"], folder)


def load_weights(module: nn.Module, state: dict[str, Tensor], *, partial: bool = False) -> None:
    """Copy `state` into `module`; names must fit exactly, or with `partial` be among its own."""
    missing, unexpected = module.load_state_dict(state, strict=False)
    if unexpected or (missing and not partial):
        raise BadInput(f"weights do not fit the model: missing {missing}, unknown {unexpected}")


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
