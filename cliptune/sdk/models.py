"""Models: which there are, and encoding with them before and after fine-tuning."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from cliptune import runs
from cliptune.errors import BadInput, NotFound, near_matches
from cliptune.extras import need
from cliptune.settings import asked_engine

if TYPE_CHECKING:
    from docarray import DocList
    from numpy.typing import NDArray

    from cliptune.data.pictures.images import Picture
    from cliptune.documents import ClipDoc
    from cliptune.inference import TextTower, VisionTower
    from cliptune.quantization import OutputDtype
    from cliptune.settings import EngineOrAuto
    from cliptune.training.callbacks import Callback


def list_models() -> list[str]:
    """The names of all models that can be fine-tuned, and of open_clip's weights."""
    from cliptune.models.registry import known_models

    return [model.name for model in known_models()]


def list_model_options() -> dict[str, list[dict[str, object]]]:
    """The options of each model by its name: none has any, so that all lists are empty."""
    return {name: [] for name in list_models()}


def describe_models(task: str | None = None) -> None:
    """Print a table of the models: name, task, output_dim, architecture, description.

    Raises:
        BadInput: no model is for `task`.
    """
    from rich.console import Console
    from rich.table import Table

    from cliptune.models.registry import known_models

    models = known_models()
    tasks = sorted({model.task for model in models})
    if task is not None and task not in tasks:
        raise BadInput(f"task is {task!r}: {near_matches(task, tasks)}")
    table = Table("name", "task", "output_dim", "architecture", "description")
    for model in models:
        if task in (None, model.task):
            cells = (model.task, str(model.output_dim), model.architecture, model.description)
            table.add_row(model.name, *cells)
    Console().print(table)


def list_callbacks() -> dict[str, type[Callback]]:
    """The callbacks by name; their docstrings say what they do and take."""
    from cliptune.training.callbacks import CALLBACKS

    return dict(CALLBACKS)


@dataclass(frozen=True)
class TwoTowers:
    """Both towers of one model: `encode` sends each text to the one, each picture to the other."""

    text: TextTower
    vision: VisionTower


def build_model(
    name: str,
    model_options: Mapping[str, object] | None = None,
    batch_size: int = 32,
    select_model: str | None = None,
    device: str | None = None,
    is_onnx: bool = False,
    engine: EngineOrAuto | None = None,
) -> TextTower | VisionTower | TwoTowers:
    """The model `name` as it is before fine-tuning (zero-shot).

    Args:
        name: as `fit(model=…)`.
        model_options: none of the models here has options.
        batch_size: how many texts or pictures go through a tower at once.
        select_model: `clip-text` or `clip-vision`; None gives both towers.
        device: `cpu`, `cuda`, …; None is the accelerator that is there.
        is_onnx: as `engine="onnx"`.
        engine: as `get_model`; only artifacts hold ONNX models: `onnx` and `openvino` are errors
            with any other name.

    Raises:
        NotFound: no such model; the message lists near names.
        Unavailable: its weights are on a hub that can't be reached.
        BadInput: an argument is wrong.
    """
    refuse_model_options(model_options)
    return _towers(name, batch_size, select_model, device, asked_engine(engine, is_onnx))


def get_model(
    artifact: str | Path,
    batch_size: int = 32,
    select_model: str | None = None,
    device: str | None = None,
    is_onnx: bool = False,
    engine: EngineOrAuto | None = None,
) -> TextTower | VisionTower | TwoTowers:
    """A fine-tuned model, ready to `encode`.

    Args:
        artifact: the path of an artifact's zip or folder, or `Run.artifact_id`.
        batch_size: how many texts or pictures go through a tower at once.
        select_model: `clip-text` or `clip-vision`; None gives both towers.
        device: `cpu`, `cuda`, …; None is the accelerator that is there.
        is_onnx: as `engine="onnx"`.
        engine: what runs it: `torch`; `onnx` (ONNX Runtime) or `openvino`, for which the run must
            have had `to_onnx=True`; or `auto`, the one that is quickest on this machine. None:
            `torch`.

    Raises:
        NotFound: there is no such artifact, or no ONNX model in it.
        BadArtifact: it is damaged or unsafe.
        BadInput: an argument is wrong.
        Unavailable: OpenVINO is asked for and not installed.
    """
    path = str(find_artifact(artifact))
    return _towers(path, batch_size, select_model, device, asked_engine(engine, is_onnx))


class _Form(TypedDict):
    """How embeddings come back."""

    dimensions: int | None
    output_dtype: OutputDtype


def encode(
    model: TextTower | VisionTower | TwoTowers,
    data: DocList[ClipDoc] | Sequence[ClipDoc] | Sequence[str] | Sequence[Picture],
    batch_size: int = 32,
    *,
    fetch: bool = True,
    dimensions: int | None = None,
    output_dtype: OutputDtype = "float32",
) -> DocList[ClipDoc] | NDArray[Any]:
    """Embed `data`, by a tower of `get_model` or `build_model`, or by both.

    Documents (a DocList or a list) come back as the same objects in a DocList, with `embedding`
    (float32 [D], unit length) and `model_digest`; a list of texts, or of encoded pictures, gives
    an array float32 [N, D].
    Pictures are the documents' `image`, or what their `uri` names: a `data:` URI, a local path, or
    an `http(s)` URL, which is fetched unless `fetch=False` or `CLIPTUNE_FETCH=0` forbid it (within
    limits of size and time, see `data.pictures.download`). A list of pictures may hold bytes,
    paths, open files, PIL images and arrays.
    Two towers embed a document's text if it has one, else its picture.
    With `dimensions`, the embeddings are their first numbers, of unit length: for models that were
    trained so (`matryoshka`). With `output_dtype` they take less room: `int8` or `ubinary`, as
    `quantize_embeddings` makes them.

    Raises:
        BadInput: a document lacks what the tower reads; the message names it. Or the model was not
            trained for so many `dimensions`, or there is no such type.
        BadImage: a picture can't be decoded.
    """
    from docarray import DocList

    from cliptune.documents import ClipDoc
    from cliptune.inference import encode as encode_by_tower

    form: _Form = {"dimensions": dimensions, "output_dtype": output_dtype}
    first = data[0] if len(data) else None
    if not isinstance(data, DocList) and not isinstance(first, ClipDoc):
        if isinstance(model, TwoTowers):
            model = model.text if isinstance(first, str) else model.vision
        items = cast("Sequence[str]", data)
        return encode_by_tower(model, items, batch_size, fetch=fetch, **form)
    docs = data if isinstance(data, DocList) else DocList[ClipDoc](cast("Sequence[ClipDoc]", data))
    if not isinstance(model, TwoTowers):
        return encode_by_tower(model, docs, batch_size, fetch=fetch, **form)
    texts = DocList[ClipDoc]([doc for doc in docs if doc.text])
    pictures = DocList[ClipDoc]([doc for doc in docs if not doc.text])
    if texts:
        encode_by_tower(model.text, texts, batch_size, **form)
    if pictures:
        encode_by_tower(model.vision, pictures, batch_size, fetch=fetch, **form)
    return docs


class ArtifactId(str):
    """`Run.artifact_id` as a type of its own: `find_artifact` takes it for no path."""


def find_artifact(artifact: str | Path) -> Path:
    """The artifact at a path, or of the run whose `artifact_id` is given.

    Raises:
        NotFound: neither is there.
        NotReady, RunFailed: the run has no artifact (yet).
    """
    path = Path(artifact)
    # `os.path`: False for what can be no path, too.
    if not isinstance(artifact, ArtifactId) and os.path.exists(artifact):
        return path
    experiment, slash, name = str(artifact).partition("/")
    try:
        run = runs.get_run(name, experiment) if slash else runs.get_run(experiment)
    except LookupError:
        raise NotFound(f"no artifact at {str(artifact)[:200]!r}, and no run of that name") from None
    return run.artifact_folder


def locate_model(model: str | Path) -> str:
    """A model's name, or the absolute path of an artifact, a run's or a folder's model.

    A process in another working directory finds the same by it.

    Raises:
        NotFound: a zip that isn't there.
        NotReady, RunFailed: the run has no artifact (yet).
    """
    from cliptune.models.names import HubName, LocalName, absolute_name, parse_model_name
    from cliptune.models.registry import SHORT_NAMES

    if isinstance(model, Path) and not model.exists():
        model = str(model)  # a run's name, perhaps
    parsed = parse_model_name(model)
    if isinstance(parsed, HubName) and parsed.is_bare:  # or a run of that name
        try:
            return str(find_artifact(model).absolute())
        except NotFound:
            return absolute_name(model)
    name = absolute_name(model)
    is_local = isinstance(parse_model_name(name), LocalName) and name not in SHORT_NAMES
    if not is_local or os.path.exists(name):
        return name
    try:
        return str(find_artifact(name).absolute())
    except NotFound:
        if name.endswith(".zip"):
            raise
        return name  # whoever loads it says what is wrong with it


def refuse_model_options(model_options: Mapping[str, object] | None) -> None:
    """Say that no model has options, if some are given."""
    if model_options:
        raise BadInput(f"model_options is {dict(model_options)!r}: no model here has options")


def _towers(
    model: str,
    batch_size: int,
    select_model: str | None,
    device: str | None,
    engine: EngineOrAuto | None,
) -> TextTower | VisionTower | TwoTowers:
    need("train", "a model")
    from cliptune.inference.engines import both_towers, get_tower

    if select_model is not None:
        return get_tower(model, select_model, engine=engine, device=device, batch_size=batch_size)
    return TwoTowers(*both_towers(model, engine=engine, device=device, batch_size=batch_size))
