"""The SDK: fine-tune, watch, fetch and use models. `import cliptune` offers all of this.

    import cliptune
    from cliptune.callback import EvaluationCallback

    run = cliptune.fit(
        model="builtin",
        train_data="catalogue-train",
        eval_data="catalogue-eval",
        epochs=5,
        callbacks=[EvaluationCallback(query_data="catalogue-queries",
                                      index_data="catalogue-index")],
    )
    for line in run.stream_logs():
        print(line)
    artifact = run.save_artifact()
    tower = cliptune.get_model(artifact, select_model="clip-text")
    cliptune.encode(tower, ["red summer dress"])        # float32 [1, D]

Everything happens on this machine. `connect(address)` offers the same calls at a train Flow;
with the environment variable CLIPTUNE_SERVER set to its address, the functions here use it.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliptune import runs
from cliptune.errors import BadInput, near_matches
from cliptune.runs import Experiment, Run

if TYPE_CHECKING:
    import numpy as np
    from docarray import DocList
    from numpy.typing import NDArray

    from cliptune.data.csv import CsvOptions
    from cliptune.documents import ClipDoc
    from cliptune.inference import TextTower, VisionTower
    from cliptune.serving.remote import RemoteSession
    from cliptune.training.callbacks import Callback

    Data = DocList[ClipDoc] | list[ClipDoc] | str | Path

SERVER_VARIABLE = "CLIPTUNE_SERVER"


def fit(
    model: str,
    train_data: Data,
    eval_data: Data | None = None,
    val_split: float = 0.0,
    model_artifact: str | Path | None = None,
    run_name: str | None = None,
    description: str | None = None,
    experiment_name: str | None = None,
    model_options: Mapping[str, Any] | None = None,
    loss: str = "CLIPLoss",
    miner: str | None = None,
    miner_options: Mapping[str, Any] | None = None,
    optimizer: str = "Adam",
    optimizer_options: Mapping[str, Any] | None = None,
    learning_rate: float | None = None,
    epochs: int = 5,
    batch_size: int | None = None,
    callbacks: Sequence[Callback | Mapping[str, Any] | str] | None = None,
    scheduler: str | None = None,
    scheduler_options: Mapping[str, Any] | None = None,
    freeze: bool | str = False,
    output_dim: int | None = None,
    device: str | None = None,
    num_workers: int = 4,
    to_onnx: bool = False,
    csv_options: CsvOptions | Mapping[str, Any] | None = None,
    num_items_per_class: int = 4,
    sampler: str = "auto",
    loss_optimizer: str | None = None,
    loss_optimizer_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Run:
    """Start fine-tuning a CLIP in a process of its own, and return at once.

    What can be checked is checked here, before anything is stored or started.

    Args:
        model: a name of `describe_models()`, `architecture::tag` of open_clip, `hf-hub:…`, or
            the path of a model's folder or of an artifact.
        train_data: pairs of a text and a picture: documents (`ClipDoc`), the name of a data set
            (`push`ed, or of the built-in catalogue), a CSV file, or a folder of pictures.
        eval_data: pairs for `val_loss`, given alike; overrides `val_split`.
        val_split: the part of the training data that is kept aside for `val_loss`, in [0, 1).
        model_artifact: go on from an earlier run's model: `Run.artifact_id`, or the path of an
            artifact. `model` then only says what it once came from.
        run_name: unique in its experiment; None makes one up, such as `brave-otter-3f2a`.
        description: anything to remember the run by.
        experiment_name: a group of runs; None is `default`. It is made if it is not there.
        model_options: none of the models here has options.
        loss: `CLIPLoss`, image-to-text and text-to-image cross entropy over the batch.
        miner: for metric learning; CLIPLoss has none.
        miner_options: see `miner`.
        optimizer: `Adam`, `AdamW`, `SGD`, … of `torch.optim`.
        optimizer_options: its arguments.
        learning_rate: the peak rate; None fits the model: 5e-4 for `builtin`, 1e-5 for others.
        epochs: how often all pairs are seen.
        batch_size: pairs a step; None is 128.
        callbacks: see `list_callbacks()`.
        scheduler: `linear`, `cosine`, `cosine_with_restarts`, `polynomial`, `constant` or
            `constant_with_warmup`; None is `cosine`.
        scheduler_options: `num_warmup_steps` and the schedule's own.
        freeze: `'vision'` or `'text'` trains the other tower only; True the projections only.
        output_dim: can't be changed for CLIP.
        device: `cpu`, `cuda`, `cuda:1`; None is the accelerator that is there.
        num_workers: threads that decode pictures.
        to_onnx: export both towers to ONNX too.
        csv_options: how CSV files are read: `{'text_column': 'title', …}` (see `CsvOptions`).
        num_items_per_class: of no effect with CLIPLoss.
        sampler: `auto` or `random`; CLIPLoss needs no sampling by class.
        loss_optimizer: for losses with weights of their own; CLIPLoss has none.
        loss_optimizer_options: see `loss_optimizer`.
        options: the further options of `TrainingOptions`: seed, precision, max_grad_norm, …

    Raises:
        BadInput: an option or a name is wrong; the message repeats it.
        NotFound: the model, a data set or a file is not there; the message lists near names.
        BadData: a data set can't be read or has nothing to train on.
        AlreadyExists: `run_name` is in use.
    """
    given = {name: value for name, value in locals().items() if name != "options"}
    if _server_address():
        defaults = inspect.signature(fit).parameters
        changed = {n: v for n, v in given.items() if v is not defaults[n].default}
        return _session().fit(**changed, **options)
    _refuse_metric_learning(given)
    from cliptune.runs.plan import make_plan

    names = ("val_split", "loss", "optimizer", "optimizer_options", "learning_rate", "epochs",
             "batch_size", "scheduler", "scheduler_options", "freeze", "device", "num_workers",
             "to_onnx")  # fmt: skip
    chosen = {name: given[name] for name in names if given[name] is not None}
    start = model if model_artifact is None else str(find_artifact(model_artifact))
    plan = make_plan(
        {**options, **chosen, "model": _absolute(start)},
        train_data,
        eval_data,
        callbacks,
        csv_options,
    )
    config = {"model": model, "model_artifact": _text(model_artifact), **plan.config}
    run = runs.create_run(config, plan.documents, run_name, experiment_name, description)
    run.start()
    return run


def connect(address: str) -> RemoteSession:
    """The calls of this module at a train Flow, such as `grpc://host:52000`."""
    from cliptune.serving.remote import RemoteSession

    return RemoteSession(address)


def get_run(name: str, experiment_name: str | None = None) -> Run:
    """The run `name`, whichever process started it.

    Without `experiment_name` it is looked for in all experiments, `default` first.

    Raises:
        NotFound: no such run; the message lists near names.
        BadInput: several experiments other than `default` have a run of that name.
    """
    return _runs("get_run")(name, experiment_name)


def list_runs(experiment_name: str | None = None, page: int = 1, size: int = 50) -> list[Run]:
    """The runs of an experiment, or of all: newest first, `size` on a page, pages from 1.

    Raises:
        NotFound: no such experiment.
        BadInput: `page` or `size` is below 1.
    """
    return _runs("list_runs")(experiment_name=experiment_name, page=page, size=size)


def delete_run(name: str, experiment_name: str | None = None) -> None:
    """Delete a run with all its files; one under way is stopped first.

    Raises:
        NotFound, BadInput: as `get_run`.
        NotReady: it runs on another machine.
    """
    _runs("delete_run")(name, experiment_name)


def delete_runs(experiment_name: str | None = None) -> None:
    """Delete all runs of an experiment, or without a name all runs there are."""
    _runs("delete_runs")(experiment_name)


def create_experiment(name: str = "default") -> Experiment:
    """Make a new group for runs (`fit(experiment_name=…)` makes one by itself).

    Raises:
        AlreadyExists: there is one of that name.
        BadInput: the name is not allowed.
    """
    return _runs("create_experiment")(name)


def get_experiment(name: str = "default") -> Experiment:
    """The experiment `name`.

    Raises:
        NotFound: there is none; the message lists near names.
    """
    return _runs("get_experiment")(name)


def list_experiments() -> list[Experiment]:
    """All experiments by name."""
    return _runs("list_experiments")()


def delete_experiment(name: str) -> None:
    """Delete an experiment with all its runs."""
    _runs("delete_experiment")(name)


def delete_experiments() -> None:
    """Delete all experiments with all their runs."""
    _runs("delete_experiments")()


def list_callbacks() -> dict[str, type[Callback]]:
    """The callbacks by name; their docstrings say what they do and take."""
    from cliptune.training.callbacks import CALLBACKS

    return dict(CALLBACKS)


def list_models() -> list[str]:
    """The names of all models that can be fine-tuned, and of open_clip's weights."""
    from cliptune.models.registry import known_models

    return [model.name for model in known_models()]


def list_model_options() -> dict[str, list[dict[str, Any]]]:
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


@dataclass(frozen=True)
class TwoTowers:
    """Both towers of one model: `encode` sends each text to the one, each picture to the other."""

    text: TextTower
    vision: VisionTower


def build_model(
    name: str,
    model_options: Mapping[str, Any] | None = None,
    batch_size: int = 32,
    select_model: str | None = None,
    device: str | None = None,
    is_onnx: bool = False,
) -> TextTower | VisionTower | TwoTowers:
    """The model `name` as it is before fine-tuning (zero-shot).

    Args:
        name: as `fit(model=…)`.
        model_options: none of the models here has options.
        batch_size: how many texts or pictures go through a tower at once.
        select_model: `clip-text` or `clip-vision`; None gives both towers.
        device: `cpu`, `cuda`, …; None is the accelerator that is there.
        is_onnx: only artifacts hold ONNX models: an error with any other name.

    Raises:
        NotFound: no such model; the message lists near names.
        Unavailable: its weights are on a hub that can't be reached.
        BadInput: an argument is wrong.
    """
    _no_model_options(model_options)
    return _towers(name, batch_size, select_model, device, is_onnx)


def get_model(
    artifact: str | Path,
    batch_size: int = 32,
    select_model: str | None = None,
    device: str | None = None,
    is_onnx: bool = False,
) -> TextTower | VisionTower | TwoTowers:
    """A fine-tuned model, ready to `encode`.

    Args:
        artifact: the path of an artifact's zip or folder, or `Run.artifact_id`.
        batch_size: how many texts or pictures go through a tower at once.
        select_model: `clip-text` or `clip-vision`; None gives both towers.
        device: `cpu`, `cuda`, …; None is the accelerator that is there.
        is_onnx: use ONNX Runtime; the run must have had `to_onnx=True`.

    Raises:
        NotFound: there is no such artifact, or no ONNX model in it.
        BadArtifact: it is damaged or unsafe.
        BadInput: an argument is wrong.
    """
    return _towers(str(find_artifact(artifact)), batch_size, select_model, device, is_onnx)


def encode(
    model: TextTower | VisionTower | TwoTowers,
    data: DocList[ClipDoc] | Sequence[ClipDoc] | Sequence[str] | Sequence[bytes],
    batch_size: int = 32,
) -> DocList[ClipDoc] | NDArray[np.float32]:
    """Embed `data`, by a tower of `get_model` or `build_model`, or by both.

    Documents (a DocList or a list) come back as the same objects in a DocList, with `embedding`
    (float32 [D], unit length) and `model_digest`; a list of texts, or of encoded pictures, gives
    an array float32 [N, D].
    Two towers embed a document's text if it has one, else its picture.

    Raises:
        BadInput: a document lacks what the tower reads; the message names it.
        BadImage: a picture can't be decoded.
    """
    from docarray import DocList

    from cliptune.documents import ClipDoc
    from cliptune.inference import encode as encode_by_tower

    items: Any = data
    first = items[0] if len(items) else None
    if not isinstance(items, DocList) and isinstance(first, ClipDoc):
        items = DocList[ClipDoc](items)
    if not isinstance(model, TwoTowers):
        return encode_by_tower(model, items, batch_size)
    if not isinstance(items, DocList):
        tower = model.vision if isinstance(first, bytes) else model.text
        return encode_by_tower(tower, items, batch_size)
    texts = DocList[ClipDoc]([doc for doc in items if doc.text])
    pictures = DocList[ClipDoc]([doc for doc in items if not doc.text])
    if texts:
        encode_by_tower(model.text, texts, batch_size)
    if pictures:
        encode_by_tower(model.vision, pictures, batch_size)
    return items


def push(data: Data, name: str, *, replace: bool = False) -> None:
    """Store documents, a CSV file or a folder of pictures as the data set `name`.

    Raises:
        AlreadyExists: the name is in use and `replace` is not given.
        BadInput: the name is not allowed.
        BadData: `data` can't be read.
    """
    from cliptune.data.source import load_documents
    from cliptune.data.store import push as store

    store(load_documents(data, role="data"), name, replace=replace)


def pull(name: str) -> DocList[ClipDoc]:
    """The data set `name`: one that was `push`ed, or of the built-in catalogue.

    Raises:
        NotFound: there is none; the message lists near names.
    """
    from cliptune.data.source import load_documents

    return load_documents(name, role="data")


def find_artifact(artifact: str | Path) -> Path:
    """The artifact at a path, or of the run whose `artifact_id` is given.

    Raises:
        NotFound: neither is there.
        NotReady, RunFailed: the run has no artifact (yet).
    """
    path = Path(artifact)
    if path.exists():
        return path
    experiment, slash, name = str(artifact).partition("/")
    try:
        run = runs.get_run(name, experiment) if slash else runs.get_run(experiment)
    except LookupError:
        from cliptune.errors import NotFound

        raise NotFound(f"no artifact at {path}, and no run of that name") from None
    return run.artifact_folder


def _towers(
    model: str, batch_size: int, select_model: str | None, device: str | None, is_onnx: bool
) -> TextTower | VisionTower | TwoTowers:
    from cliptune.inference import get_tower

    def tower(which: Any) -> Any:
        return get_tower(model, which, is_onnx=is_onnx, device=device, batch_size=batch_size)

    if select_model is None:
        return TwoTowers(tower("clip-text"), tower("clip-vision"))
    return tower(select_model)


def _refuse_metric_learning(given: Mapping[str, Any]) -> None:
    """Say of options for other losses and models that they would have no effect."""
    _no_model_options(given["model_options"])
    for name in ("miner", "miner_options", "loss_optimizer", "loss_optimizer_options"):
        if given[name]:
            raise BadInput(
                f"{name} is {given[name]!r}: it is for metric-learning losses; with CLIPLoss all "
                "other pairs of the batch are the negatives, and it has no weights of its own"
            )
    if given["output_dim"] is not None:
        raise BadInput(
            f"output_dim is {given['output_dim']!r}: CLIP's is fixed by its model "
            "(see describe_models())"
        )
    if given["sampler"] not in ("auto", "random"):
        raise BadInput(
            f"sampler is {given['sampler']!r}: use 'auto' or 'random'; CLIPLoss needs no sampling "
            "by class"
        )


def _no_model_options(model_options: Mapping[str, Any] | None) -> None:
    if model_options:
        raise BadInput(f"model_options is {dict(model_options)!r}: no model here has options")


def _absolute(model: str) -> str:
    """A path among models as an absolute one: the run may go on in another working directory."""
    prefix = "local-dir:" if model.startswith("local-dir:") else ""
    path = Path(model.removeprefix(prefix))
    return f"{prefix}{path.absolute()}" if path.exists() and "::" not in model else model


def _text(value: str | Path | None) -> str | None:
    return None if value is None else str(value)


def _server_address() -> str | None:
    return os.environ.get(SERVER_VARIABLE) or None


def _session() -> Any:
    return connect(str(_server_address()))


def _runs(call: str) -> Any:
    """The function `call` for runs of this machine, or of the server in CLIPTUNE_SERVER."""
    if not _server_address():
        return getattr(runs, call)
    try:
        return getattr(_session(), call)
    except AttributeError:
        # Doing it here instead would be to the wrong runs.
        raise BadInput(
            f"{call} is not offered by the server in {SERVER_VARIABLE} ({_server_address()}): "
            "call it on the server's machine"
        ) from None
