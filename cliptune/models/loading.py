"""From a name to a CLIP model: open_clip's models, local folders, artifacts, the built-in one."""

from __future__ import annotations

import json
import logging
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cliptune.data.images import ImagePreprocessing
from cliptune.errors import BadInput, CliptuneError, NotFound, Unavailable, near_matches
from cliptune.models.artifact import Artifact, is_artifact, open_artifact
from cliptune.models.digest import model_digest
from cliptune.models.openclip import needs_transformers, open_clip
from cliptune.models.registry import RANDOM_WEIGHTS, SHORT_NAMES, known_models
from cliptune.models.tokenizers import Tokenizer, load_tokenizer
from cliptune.models.towers import TextModule, VisionModule

CONFIG_FILE = "open_clip_config.json"


@dataclass
class ClipModel:
    """A CLIP in memory with all that its two towers need."""

    name: str
    """The name it was asked for by."""
    clip: Any
    """An open_clip `CLIP` or `CustomTextCLIP`, in evaluation mode when loaded."""
    tokenizer: Tokenizer
    preprocessing: ImagePreprocessing
    model_cfg: dict[str, Any]
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
    def context_length(self) -> int:
        """How many tokens of a text are read; the rest is cut."""
        return int(self.model_cfg["text_cfg"].get("context_length", 77))

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
        """SHA-256 over the weights as they are now (see `cliptune.models.digest`)."""
        # Tensors count their in-place changes: the digest is made again only after one.
        state = self.clip.state_dict()
        version = sum(value._version for value in state.values())
        if self._digest is None or self._digest[0] != version:
            self._digest = (version, model_digest(state))
        return self._digest[1]


def load_model(name: str | Path, *, device: str = "cpu") -> ClipModel:
    """Load the model `name` in fp32, in evaluation mode, on `device`.

    `name` is one of
    `builtin` and the other short names of `describe_models()`;
    `architecture::tag` of open_clip (`ViT-B-32::openai`), where the tag may be the path of a
    checkpoint, or `random` for untrained weights;
    `hf-hub:org/name`;
    the path of a folder with an `open_clip_config.json` of your own and its weights
    (safetensors, or a checkpoint that `torch.load(weights_only=True)` reads);
    the path of an artifact, as a folder or a zip.

    Raises:
        NotFound: no such model; the message lists near names.
        Unavailable: its weights are on a hub that can't be reached from here.
        BadInput: its config or its weights are not usable.
    """
    name = str(name)
    if is_artifact(Path(name)):
        return load_artifact_model(open_artifact(name), device=device)
    source = model_source(name)
    try:
        clip, model_cfg = _create(source)
    except CliptuneError:
        raise
    except (pickle.UnpicklingError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise BadInput(f"model {name!r}: its config or weights can't be read: {error}") from error
    except (RuntimeError, ValueError, OSError) as error:
        raise _loading_error(name, error) from error
    folder = Path(source.removeprefix("local-dir:")) if source.startswith("local-dir:") else None
    return ClipModel(
        name=name,
        clip=clip.to(device).eval(),
        tokenizer=load_tokenizer(model_cfg["text_cfg"], folder),
        preprocessing=ImagePreprocessing.from_open_clip(clip.visual.preprocess_cfg),
        model_cfg=model_cfg,
        folder=folder,
        base=name,
    )


def check_model(name: str) -> None:
    """Refuse a model that `load_model` would not find, without loading anything.

    Raises:
        NotFound: no such model; the message lists near names.
        BadArtifact: an artifact that is not whole.
    """
    if is_artifact(Path(name)):
        open_artifact(name)
    else:
        model_source(name)


def check_same_model(name: str, artifact: Path) -> None:
    """Refuse to take `artifact` for a tuned form of the model `name` if their towers differ.

    Raises:
        BadInput: they differ.
    """
    source = "" if is_artifact(Path(name)) else model_source(name)
    if not source or source.startswith("hf-hub:"):
        return  # what an artifact is of is asked of its base; a hub may be out of reach
    tuned = open_artifact(artifact)
    expected = open_clip.get_model_config(source.partition("::")[0])
    if _towers_config(expected) != _towers_config(tuned.model_cfg):
        raise BadInput(
            f"model is {name!r}, and the model_artifact {artifact} is a fine-tuned "
            f"{tuned.metadata['base_model']!r}, whose towers are others: give that as the model"
        )


def _towers_config(model_cfg: dict[str, Any]) -> list[Any]:
    """What the towers of a model are built from, without where their files lie."""
    places = ("hf_model_name", "hf_tokenizer_name")
    text = {key: value for key, value in model_cfg["text_cfg"].items() if key not in places}
    return [model_cfg["embed_dim"], model_cfg["vision_cfg"], text]


def model_source(name: str) -> str:
    """What open_clip calls the model `name`, which is no artifact.

    Raises:
        NotFound: no such model; the message lists near names.
        BadInput: a tag where there can be none.
    """
    path = Path(name.removeprefix("local-dir:"))
    if (path / CONFIG_FILE).is_file():
        return f"local-dir:{path}"
    if name.startswith("local-dir:"):
        raise NotFound(f"no model config at {path / CONFIG_FILE}")
    source = SHORT_NAMES[name].source if name in SHORT_NAMES else name
    architecture, _, tag = source.partition("::")
    if architecture.startswith(("hf-hub:", "local-dir:")):
        if tag:
            raise BadInput(f"model {name!r}: a tag goes with an open_clip architecture only")
        return source
    if open_clip.get_model_config(architecture) is None:
        known = [model.name for model in known_models()]
        raise NotFound(
            f"unknown model {name!r}: {near_matches(name, known)} "
            "(a local model is given by its folder)"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not tag:
        raise NotFound(
            f"model {name!r} names no weights: write {architecture}::TAG with a tag of "
            f"{', '.join(tags) or 'none'}, the path of a checkpoint, or "
            f"{RANDOM_WEIGHTS!r} for untrained weights"
        )
    if tag not in (RANDOM_WEIGHTS, *tags) and not Path(tag).is_file():
        raise NotFound(
            f"model {name!r}: unknown weights {tag!r}, and no such checkpoint file; "
            f"{near_matches(tag, tags)}"
        )
    return source


def _create(source: str) -> tuple[Any, dict[str, Any]]:
    """Build `source` with its weights by open_clip; returns the module and its config."""
    architecture, _, tag = source.partition("::")
    model_cfg = open_clip.get_model_config(architecture)
    needs_transformers(model_cfg)
    with _quiet():
        if not tag:
            clip = open_clip.create_model(architecture, require_pretrained=True, weights_only=True)
        elif tag == RANDOM_WEIGHTS:
            # Without pretrained text and image bases too: nothing is fetched.
            clip = open_clip.create_model(architecture, pretrained_text=False)
        else:
            clip = open_clip.create_model(architecture, pretrained=tag, weights_only=True)
    return clip, model_cfg


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
    cfg = json.loads(json.dumps(artifact.model_cfg))
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


def _loading_error(name: str, error: Exception) -> CliptuneError:
    """What to tell the user about open_clip's `error`."""
    words = " ".join(str(error).split())
    network = ("huggingface", "connection", "offline", "resolve", "download", "hub", "urlopen")
    if isinstance(error, OSError) or any(word in words.lower() for word in network):
        return Unavailable(
            f"the weights of {name!r} can't be fetched from here ({words[:200]}). Fetch them on a "
            "machine that reaches the hub and give the checkpoint's path (architecture::FILE), "
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
