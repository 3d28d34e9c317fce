"""A model's name, taken apart in one place: which weights, of which architecture, from where.

Taking a name apart asks nobody, and the disk in one case alone: `ORG/NAME` is a repository of the
hub unless a file or folder is there by that path. Else a name means the same in every working
directory, a file can't stand in for weights that open_clip lists, and whoever is given names by
strangers can decide on the parts (see `cliptune.executors.client_names`).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from cliptune.errors import BadInput, NotFound, near_matches
from cliptune.models.registry import RANDOM_WEIGHTS, SHORT_NAMES, known_models

CONFIG_FILE = "open_clip_config.json"
HUB_PREFIX = "hf-hub:"
FOLDER_PREFIX = "local-dir:"
SEPARATOR = "::"
_BARE = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = (".zip", ".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz", ".csv", ".yml")


@dataclass(frozen=True)
class OpenClipName:
    """An architecture of open_clip with its weights: `ARCH::TAG`, `ARCH::FILE`, `ARCH::TAG::FILE`.

    All fields but the architecture are None or False where the name is the architecture alone.
    """

    architecture: str
    tag: str | None = None
    """Weights that open_clip lists, in its spelling: what they need is known."""
    file: Path | None = None
    """A checkpoint, of those weights or tuned from them where `tag` is given."""
    is_random: bool = False
    """`ARCH::random`: untrained weights."""

    @property
    def has_weights(self) -> bool:
        """Whether the name says which weights."""
        return self.is_random or self.tag is not None or self.file is not None


@dataclass(frozen=True)
class HubName:
    """`hf-hub:ORG/NAME`, or `ORG/NAME`: a repository of the Hugging Face hub."""

    repository: str
    is_bare: bool = False
    """Given without the prefix, as a run's name in its experiment is, too."""


@dataclass(frozen=True)
class LocalName:
    """Anything else: the path of a model's folder, or of an artifact's folder or zip."""

    path: Path

    @property
    def is_artifact(self) -> bool:
        """Whether an artifact is there (asks the disk)."""
        from cliptune.models.artifact import is_artifact

        return is_artifact(self.path)


ModelName = OpenClipName | HubName | LocalName


def parse_model_name(name: str | Path, *, look: bool = True) -> ModelName:
    """Take the name of a model apart; a `Path` is the path of a local one, whatever it is called.

    Short names of `describe_models()` come first, then the prefixes `hf-hub:` and `local-dir:`,
    then open_clip's architectures, then `ORG/NAME`. A local folder that is called like one of those
    before is given as `./NAME`. Without `look` the disk isn't asked whether one is there.

    Raises:
        BadInput: it is empty or has control characters, a tag stands where there can be none, or
            it can't be the name of a repository.
    """
    if isinstance(name, Path):
        return LocalName(name)
    if not name.strip() or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        raise BadInput(f"model {name!r}: a name is expected, without control characters")
    if name in SHORT_NAMES:
        return parse_model_name(SHORT_NAMES[name].source)
    if name.startswith(FOLDER_PREFIX):
        return LocalName(Path(name.removeprefix(FOLDER_PREFIX)))
    if name.startswith(HUB_PREFIX):
        return HubName(_repository(name))
    if _BARE.fullmatch(name) and not name.lower().endswith(_FILES):
        if look and os.path.exists(name):
            return LocalName(Path(name))
        return HubName(_repository(name), is_bare=True)
    return _parse_architecture(name)


def absolute_name(name: str | Path) -> str:
    """`name` with its path, if it has one, made absolute: for use in another working directory.

    A path at which there is nothing stays as it is, for the error to repeat it.
    """
    if isinstance(name, Path):
        return str(name.absolute())
    parsed = parse_model_name(name)
    if isinstance(parsed, HubName):
        return f"{HUB_PREFIX}{parsed.repository}"
    if isinstance(parsed, OpenClipName) and parsed.file is not None:
        parts = [parsed.architecture, parsed.tag, str(parsed.file.expanduser().absolute())]
        return SEPARATOR.join(part for part in parts if part)
    if isinstance(parsed, LocalName) and name not in SHORT_NAMES and os.path.exists(parsed.path):
        return str(parsed.path.absolute())
    return name


def artifact_path(model: str | Path) -> Path | None:
    """The path of the artifact that `model` is; None: it is a model's name, or another path."""
    parsed = parse_model_name(model)
    return parsed.path if isinstance(parsed, LocalName) and parsed.is_artifact else None


def check_exists(parsed: ModelName, name: str | Path) -> None:
    """Refuse a name (`parsed` from `name`) of which it is known here that nothing answers to it.

    Whether a hub has what is asked of it isn't known.

    Raises:
        NotFound: an architecture without weights, a file or a folder that is not there, or nothing
            of that name; the message lists near names.
    """
    if isinstance(parsed, LocalName):
        if not os.path.exists(parsed.path.expanduser()):
            raise NotFound(_nothing_at(parsed, str(name)))
    elif isinstance(parsed, OpenClipName):
        if not parsed.has_weights:
            raise NotFound(
                f"model {str(name)!r} names no weights: write {parsed.architecture}::TAG with a "
                f"tag of {', '.join(listed_tags(parsed.architecture)) or 'none'}, "
                f"{parsed.architecture}::TAG::FILE for a checkpoint of such weights or tuned from "
                f"them, or {RANDOM_WEIGHTS!r} for untrained weights "
                f"(a folder of that name: ./{parsed.architecture})"
            )
        if parsed.file is not None and not os.path.isfile(parsed.file.expanduser()):
            raise NotFound(no_weights(parsed, name))


def no_weights(parsed: OpenClipName, name: str | Path) -> str:
    """Words for weights that are neither listed nor a checkpoint's file."""
    unknown = str(parsed.file)
    if parsed.tag:
        return f"model {str(name)!r}: no checkpoint file {unknown!r}"
    tags = listed_tags(parsed.architecture)
    return (
        f"model {str(name)!r}: unknown weights {unknown!r}, and no such checkpoint file; "
        f"{near_matches(unknown, tags)}"
    )


def listed_tags(architecture: str) -> list[str]:
    """The weights that open_clip lists for an architecture."""
    from cliptune.models.openclip import open_clip

    tags: list[str] = open_clip.list_pretrained_tags_by_model(architecture)
    return tags


def _parse_architecture(name: str) -> ModelName:
    architecture, separator, weights = name.partition(SEPARATOR)
    if "/" in architecture:  # known without open_clip, which takes a second to import
        return LocalName(Path(name))
    from cliptune.models.openclip import open_clip

    if architecture not in open_clip.list_models():
        return LocalName(Path(name))
    if not separator:
        return OpenClipName(architecture)
    if not weights:
        raise BadInput(f"model {name!r}: a tag or a checkpoint's path is missing after '::'")
    if weights == RANDOM_WEIGHTS:
        return OpenClipName(architecture, is_random=True)
    tag, separator, file = weights.partition(SEPARATOR)
    if not open_clip.is_pretrained_cfg(architecture, tag):
        return OpenClipName(architecture, file=Path(weights))
    if separator and not file:
        raise BadInput(f"model {name!r}: a checkpoint's path is missing after the second '::'")
    spelled = tag.lower().replace("-", "_")  # as open_clip takes it
    return OpenClipName(architecture, spelled, Path(file) if file else None)


def _repository(name: str) -> str:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    repository = name.removeprefix(HUB_PREFIX)
    if SEPARATOR in repository:
        raise BadInput(f"model {name!r}: a tag goes with an open_clip architecture only")
    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise BadInput(
            f"model {name!r}: not the name of a repository: write {HUB_PREFIX}ORGANISATION/NAME"
        ) from None
    return repository


def _nothing_at(parsed: LocalName, name: str) -> str:
    if name.startswith((FOLDER_PREFIX, "/", ".", "~")):
        return f"model {name!r}: there is no folder and no file at {parsed.path}"
    near = near_matches(name, [model.name for model in known_models()])
    return f"unknown model {name!r}: {near} (a local model is given by its folder)"
