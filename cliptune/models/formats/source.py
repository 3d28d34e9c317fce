"""What lies at a model's name: which format, its config, its weights and its tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cliptune.errors import BadInput, NotFound, Unavailable
from cliptune.models.config import ModelConfig, listed_config, stated_config
from cliptune.models.formats import huggingface, openai
from cliptune.models.formats.checkpoints import SUFFIXES, State, read_checkpoint
from cliptune.models.formats.places import Folder, Place, Repository, hub_file, out_of_reach
from cliptune.models.formats.weight_names import to_ours
from cliptune.models.names import CONFIG_FILE, HubName, ModelName, OpenClipName
from cliptune.models.openclip import open_clip
from cliptune.settings import current

OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
"""What open_clip calls the weights of a folder, in the order in which they are looked for."""


@dataclass(frozen=True)
class Source:
    """A model that isn't an artifact, before it is in memory."""

    config: ModelConfig
    weights: Callable[[], State | Path] | None
    """Reads or fetches them: by open_clip's names, or Google's own file of them. None: random."""
    tokenizer: Path | None = None
    """The folder of the tokenizer's files, if it has some."""


def find_source(name: ModelName) -> Source:
    """What lies at `name`, which isn't an artifact's.

    Raises:
        NotFound: nothing that can be read.
        Unavailable: the hub can't be reached.
        BadInput: it is of a format or a kind that can't be read, or damaged.
    """
    if isinstance(name, OpenClipName):
        return _listed(name)
    if isinstance(name, HubName):
        return _at(Repository(name.repository))
    path = name.path.expanduser()
    return _file(path) if path.is_file() else _at(Folder(path))


def read_config(name: ModelName) -> ModelConfig:
    """The config of the weights that `name` names; of an artifact's, the artifact says it itself.

    Raises:
        As `find_source`.
    """
    return find_source(name).config


def _listed(name: OpenClipName) -> Source:
    config = listed_config(name)
    if name.is_random:
        return Source(config, None)
    if name.file is None:
        return Source(config, partial(_fetch_listed, name))
    file = name.file.expanduser().absolute()
    has_files = (file.parent / "tokenizer_config.json").is_file()
    return Source(config, partial(_read, file), file.parent if has_files else None)


def _fetch_listed(name: OpenClipName) -> State | Path:
    """Weights that open_clip lists, from the hub or from their makers' address."""
    listed = open_clip.get_pretrained_cfg(name.architecture, name.tag)
    if "file" in listed:
        return _read(Path(listed["file"]))
    if repository := listed.get("hf_hub"):
        repository, _, file = repository.rpartition("/")
        names = [file] if file else list(OPEN_CLIP_WEIGHTS)
        if file.endswith((".bin", ".pth")):
            names.insert(0, file.rpartition(".")[0] + ".safetensors")
        for one in names:
            if file := hub_file(repository, one):
                return _read(file)
        raise out_of_reach(repository, FileNotFoundError(f"no {' or '.join(names)} in it"))
    url = listed.get("url", "")
    cached = Path("~/.cache/clip").expanduser() / url.rpartition("/")[2]
    if current().offline and not cached.is_file():
        raise out_of_reach(f"{name.architecture}::{name.tag}", FileNotFoundError(url))
    try:
        return _read(Path(open_clip.pretrained.download_pretrained_from_url(url)))
    except (OSError, RuntimeError) as error:
        raise out_of_reach(f"{name.architecture}::{name.tag}", error) from error


def _at(place: Place) -> Source:
    if config_file := place.find(CONFIG_FILE):
        config = stated_config(huggingface.read_json(config_file))
        files = _files(place, OPEN_CLIP_WEIGHTS) or _only_one(place)
        return Source(config, lambda: _read(files or _none(place)), config_file.parent)
    if place.find(huggingface.MODULES):
        return _transformers(huggingface.inner_folder(place))
    if place.find(huggingface.CONFIG):
        return _transformers(place)
    raise NotFound(
        f"{place}: no model is there that can be read: an {CONFIG_FILE} of open_clip, a "
        "config.json of transformers, a modules.json of sentence-transformers or an artifact's "
        "metadata.yml is expected"
    )


def _transformers(place: Place) -> Source:
    config_file = place.find(huggingface.CONFIG)
    if config_file is None:
        raise NotFound(f"{place} has no {huggingface.CONFIG}")
    stated = huggingface.read_json(config_file)
    if not isinstance(stated, dict):
        raise BadInput(f"{config_file} is no model's config")
    try:
        config, tokenizer = huggingface.read_folder(place, stated)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{config_file} can't be read: {error!r}") from error

    def weights() -> State:
        state = read_checkpoint(_files(place, huggingface.WEIGHTS) or _none(place))
        return to_ours(state, huggingface.weight_lines(stated, list(state)))

    return Source(config, weights, tokenizer)


def _file(path: Path) -> Source:
    """A file of weights that stands alone."""
    if path.suffix not in SUFFIXES:
        raise BadInput(f"{path} is none of the files that can be read: {', '.join(SUFFIXES)}")
    state = read_checkpoint(path)
    config = openai.config_of(state, path)
    return Source(config, lambda: openai.weights_of(state))


def _read(path: Path) -> State | Path:
    if path.suffix in (".npz", ".npy"):
        return path
    state = read_checkpoint(path)
    return openai.weights_of(state) if openai.is_openai(state) else state


def _files(place: Place, names: tuple[str, ...]) -> Path | None:
    """The file of the weights, or the index of several, which are then there too."""
    file = place.find(*names)
    if file and file.name.endswith(".index.json"):
        listed = huggingface.read_json(file).get("weight_map", {})
        for shard in sorted(set(map(str, listed.values()))):
            place.find(shard)  # fetched; what is missing is said when they are read
    return file


def _only_one(place: Place) -> Path | None:
    """The one file of weights in a folder, whatever it is called: a training program's, mostly."""
    if not isinstance(place, Folder):
        return None
    files = sorted(file for file in place.path.iterdir() if file.suffix in SUFFIXES)
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:4])
        raise BadInput(
            f"{place} holds {len(files)} files of weights ({names}): "
            f"call the one that counts {OPEN_CLIP_WEIGHTS[0]} or {OPEN_CLIP_WEIGHTS[1]}"
        )
    return files[0] if files else None


def _none(place: Place) -> Path:
    if isinstance(place, Repository):
        raise Unavailable(
            f"of {place} this machine has a config but no weights (one of "
            f"{', '.join(OPEN_CLIP_WEIGHTS)} is expected): it was downloaded in part, or the "
            f"repository has them in another form. `cliptune download {place.name}` fetches "
            "what is there"
        )
    raise BadInput(
        f"{place} has a config but no weights: one of {', '.join(OPEN_CLIP_WEIGHTS)} is expected"
    )
