"""Names that clients of a train Flow send, each looked up among those that they may name.

A name is taken apart first, by what takes it apart everywhere, and its parts are compared with
lists: open_clip's weights, hub models that the operator allows, this server's runs and data sets.
What comes back can't be taken for a path any more. Nothing here asks the disk about what a client
has sent, so no answer tells which files there are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from cliptune import runs
from cliptune.data.source import DataSetName, known_names
from cliptune.errors import BadInput, NotFound, near_matches
from cliptune.models.names import (
    HUB_PREFIX,
    HubName,
    LocalName,
    OpenClipName,
    listed_tags,
    parse_model_name,
)
from cliptune.models.registry import SHORT_NAMES, known_models
from cliptune.sdk.models import ArtifactId

MAX_NAME = 220
"""Characters of a name."""
_PATH = re.compile(r"[/\\:]|^[.~]|\.\.")
_NO_FILES = "paths of the server are not read"


def model_name(value: object, hub_models: Sequence[str] = (), what: str = "model") -> str:
    """`value` if clients may name that model: a short name, listed weights, or one of `hub_models`.

    Raises:
        BadInput: it is no name, or it names a file, or a hub model that isn't allowed.
        NotFound: there are no such weights; the message lists near names.
    """
    text = _text(value, what)
    parsed = parse_model_name(text, look=False)
    if text in SHORT_NAMES:
        return text
    if isinstance(parsed, HubName):
        return _hub_model(parsed, text, what, hub_models)
    if isinstance(parsed, LocalName):
        if _is_path(text):
            raise BadInput(f"{what} {text!r}: give a name; {_NO_FILES}")
        names = [model.name for model in known_models()]
        raise NotFound(f"{what}: the server has no model {text!r}: {near_matches(text, names)}")
    return _listed(parsed, text, what)


def artifact_id(value: object, what: str = "model_artifact") -> ArtifactId:
    """`value` if it is the `Run.artifact_id` of one of this server's runs.

    Raises:
        BadInput: it can't be one.
        NotFound: there is no such run; the message lists near names.
    """
    text = _text(value, what)
    experiment, slash, name = text.rpartition("/")
    if not name or bool(slash) != bool(experiment) or any(map(_is_path, (name, experiment))):
        raise BadInput(f"{what} {text!r}: give a run, EXPERIMENT/RUN; {_NO_FILES}")
    runs.get_run(name, experiment or None)
    return ArtifactId(text)


def model_or_run(value: object, hub_models: Sequence[str] = (), what: str = "model") -> str | Path:
    """A model's name, or the artifact folder of one of this server's runs.

    Raises:
        BadInput, NotFound: as `model_name` and `artifact_id`.
        NotReady, RunFailed: the run has no artifact (yet).
    """
    from cliptune.sdk.models import find_artifact

    text = _text(value, what)
    _, slash, name = text.rpartition("/")
    parsed = parse_model_name(text, look=False)
    bare = parsed if isinstance(parsed, HubName) and parsed.is_bare else None
    if not (isinstance(parsed, LocalName) or bare) or text in SHORT_NAMES:
        return model_name(text, hub_models, what)
    try:
        return find_artifact(artifact_id(text, what))
    except NotFound as error:
        if bare and _is_allowed(bare, hub_models):
            return model_name(text, hub_models, what)
        if slash:
            raise
        names = [model.name for model in known_models()]
        raise NotFound(f"{what}: {error}; of models: {near_matches(name, names)}") from None


def data_set(value: object, what: str) -> DataSetName:
    """`value` if it is the name of a built-in data set, or of one that was sent here.

    Raises:
        BadInput: it can't be one.
        NotFound: there is none; the message lists near names.
    """
    if not isinstance(value, str):
        raise BadInput(f"{what} is a {type(value).__name__}: give the name of a data set")
    text = _text(value, what)
    if _is_path(text):
        raise BadInput(f"{what} {text!r} must be a name: {_NO_FILES}")
    if text not in (known := known_names()):
        raise NotFound(f"{what}: the server has no data set {text!r}: {near_matches(text, known)}")
    return DataSetName(text)


def _listed(parsed: OpenClipName, text: str, what: str) -> str:
    architecture = parsed.architecture
    tags = listed_tags(architecture)
    if parsed.file is None and parsed.has_weights:
        return text
    if parsed.file is None:
        raise NotFound(
            f"{what} {text!r} names no weights: write {architecture}::TAG with a tag of "
            f"{', '.join(tags) or 'none'}"
        )
    file = str(parsed.file)
    if parsed.tag or _is_path(file):
        raise BadInput(
            f"{what} {text!r} names a file: {_NO_FILES}; give {architecture}::TAG with a tag of "
            f"{', '.join(tags) or 'none'}"
        )
    raise NotFound(f"{what} {text!r}: unknown weights {file!r}; {near_matches(file, tags)}")


def _is_allowed(parsed: HubName, hub_models: Sequence[str]) -> bool:
    # An organisation's name alone isn't the beginning of another's.
    return any(parsed.repository.startswith(one if "/" in one else f"{one}/") for one in hub_models)


def _hub_model(parsed: HubName, text: str, what: str, allowed: Sequence[str]) -> str:
    if _is_allowed(parsed, allowed):
        return f"{HUB_PREFIX}{parsed.repository}"  # no folder of the server stands in for it
    raise BadInput(
        f"{what} {text!r}: this server takes "
        f"{'models of ' + ', '.join(allowed) if allowed else 'no models'} of the hub; its operator "
        "can allow others by CLIPTUNE_HUB_MODELS"
    )


def _is_path(text: str) -> bool:
    return _PATH.search(text) is not None


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise BadInput(f"{what} is a {type(value).__name__}: give a name")
    if not value or len(value) > MAX_NAME or not value.isprintable():
        raise BadInput(f"{what} {value[:MAX_NAME]!r}: a name has 1 to {MAX_NAME} printable letters")
    return value
