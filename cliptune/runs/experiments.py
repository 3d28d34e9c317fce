"""Runs by name, and the experiments that group them: folders below `CLIPTUNE_HOME/runs`."""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cliptune.errors import AlreadyExists, BadData, BadInput, NotFound, near_matches
from cliptune.files import make_folder, new_folder, remove_folder, write_text
from cliptune.names import EXPERIMENT, RUN
from cliptune.runs import process
from cliptune.runs.liveness import ProcessMark
from cliptune.runs.record import RECORD_FILE, Record, RunConfig, now, read_record, write_record
from cliptune.runs.run import Run
from cliptune.runs.session import Experiment
from cliptune.settings import current

if TYPE_CHECKING:
    from docarray import DocList

    from cliptune.documents import ClipDoc

log = logging.getLogger("cliptune")
EXPERIMENT_FILE = "experiment.json"
DEFAULT_EXPERIMENT = "default"
_ADJECTIVES = (
    "able agile amber bold brave brisk bright calm clever cosy curious dapper deft eager early "
    "fair fleet fond gentle glad golden grand happy hardy honest humble keen kind lively loyal "
    "lucid lucky mellow merry mild neat nimble noble patient plucky polite proud quick quiet "
    "rapid ready robust serene sharp silver sleek smart snug solid spry steady sunny swift "
    "tidy tranquil trusty vivid warm wise witty zesty"
)
_ANIMALS = (
    "badger bee bison bunting buzzard condor crane curlew deer dove duck eagle egret elk falcon "
    "ferret finch fox gecko goose hare hawk heron ibex ibis jackdaw jay kestrel kite lark lemur "
    "lynx magpie marten merlin mole moose newt nuthatch osprey otter owl panda petrel pika plover "
    "puffin quail raven robin seal shrew siskin skylark sparrow stoat stork swallow swan swift "
    "tapir teal tern thrush toad trout turtle vole walrus warbler weasel whale wolf wren zebra"
)


def create_run(
    config: RunConfig,
    documents: Mapping[str, DocList[ClipDoc]],
    run_name: str | None = None,
    experiment_name: str | None = None,
    description: str | None = None,
) -> Run:
    """Make the folder of a new run, whole: its name is taken only once all is in it.

    Raises:
        AlreadyExists: the experiment has a run of that name.
        BadInput: a name is not allowed.
    """
    from cliptune.runs.documents import store_documents

    if run_name is not None:
        RUN.check(run_name, "run_name")
    experiment = _ensure_experiment(experiment_name or DEFAULT_EXPERIMENT)
    folder = experiment / (run_name or _free_name(experiment))
    _refuse_used(folder)
    record = Record(
        name=folder.name,
        experiment=experiment.name,
        config=config,
        created=now(),
        description=description,
        details="its process is starting",
        starter=ProcessMark.of(os.getpid()),
    )
    try:
        with new_folder(folder) as beside:
            for part, docs in documents.items():
                store_documents(docs, beside / "data" / part)
            write_record(beside, record)
    except OSError:
        _refuse_used(folder)  # two at once: the other's folder got the name first
        raise
    return Run(folder)


def get_run(name: str, experiment_name: str | None = None) -> Run:
    """As `cliptune.get_run`, of this machine."""
    RUN.look_up(name)
    if experiment_name is not None:
        experiments = [get_experiment(experiment_name).name]
    else:
        experiments = [DEFAULT_EXPERIMENT, *(e.name for e in list_experiments())]
    holders = [e for e in dict.fromkeys(experiments) if _has_run(e, name)]
    if not holders:
        known = [run.name for run in _all_runs(experiment_name)]
        where = f" in experiment {experiment_name!r}" if experiment_name else ""
        raise NotFound(f"no run {name!r}{where}: {near_matches(name, known)}")
    if len(holders) > 1 and holders[0] != DEFAULT_EXPERIMENT:
        raise BadInput(f"run {name!r} is in several experiments: name one of {', '.join(holders)}")
    return Run(_root() / holders[0] / name)


def list_runs(experiment_name: str | None = None, page: int = 1, size: int = 50) -> list[Run]:
    """As `cliptune.list_runs`, of this machine."""
    if page < 1 or size < 1:
        raise BadInput(f"page is {page} and size is {size}: use numbers from 1")
    return _all_runs(experiment_name)[(page - 1) * size : page * size]


def delete_run(name: str, experiment_name: str | None = None) -> None:
    """As `cliptune.delete_run`, of this machine."""
    _delete(get_run(name, experiment_name).folder)


def delete_runs(experiment_name: str | None = None) -> None:
    """As `cliptune.delete_runs`, of this machine."""
    for run in _all_runs(experiment_name):
        _delete(run.folder)


def create_experiment(name: str = DEFAULT_EXPERIMENT) -> Experiment:
    """As `cliptune.create_experiment`, of this machine."""
    folder = _root() / EXPERIMENT.check(name, "the experiment's name")
    try:
        make_folder(folder.parent)
        make_folder(folder, exist_ok=False)
    except FileExistsError:
        raise AlreadyExists(f"there is an experiment {name!r} already") from None
    return _read_experiment(_ensure_experiment(name))


def get_experiment(name: str = DEFAULT_EXPERIMENT) -> Experiment:
    """As `cliptune.get_experiment`, of this machine."""
    EXPERIMENT.look_up(name)
    known = {experiment.name: experiment for experiment in list_experiments()}
    if name not in known:
        raise NotFound(f"no experiment {name!r}: {near_matches(name, known)}")
    return known[name]


def list_experiments() -> list[Experiment]:
    """As `cliptune.list_experiments`, of this machine."""
    if not _root().is_dir():
        return []
    folders = (f for f in _root().iterdir() if f.is_dir() and not f.name.startswith("."))
    return [_read_experiment(folder) for folder in sorted(folders)]


def delete_experiment(name: str) -> None:
    """As `cliptune.delete_experiment`, of this machine."""
    get_experiment(name)
    delete_runs(name)
    remove_folder(_root() / name)


def delete_experiments() -> None:
    """As `cliptune.delete_experiments`, of this machine."""
    for experiment in list_experiments():
        delete_experiment(experiment.name)


def make_name() -> str:
    """A readable name that is most likely free, such as `brave-otter-3f2a`."""
    adjective, animal = secrets.choice(_ADJECTIVES.split()), secrets.choice(_ANIMALS.split())
    return f"{adjective}-{animal}-{secrets.token_hex(2)}"


def _root() -> Path:
    """Absolute: a run's folder stays valid when the working directory changes."""
    return current().runs_dir.absolute()


def _ensure_experiment(name: str) -> Path:
    folder = _root() / EXPERIMENT.check(name, "experiment_name")
    make_folder(folder)
    if not (folder / EXPERIMENT_FILE).is_file():
        write_text(folder / EXPERIMENT_FILE, json.dumps({"name": name, "created": now()}))
    return folder


def _read_experiment(folder: Path) -> Experiment:
    try:
        kept = json.loads((folder / EXPERIMENT_FILE).read_text(encoding="utf-8"))
        return Experiment(folder.name, str(kept["created"]), _HERE)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        # Made at this very moment, or damaged: the folder knows when, about.
        changed = datetime.fromtimestamp(folder.stat().st_mtime, UTC)
        return Experiment(folder.name, changed.isoformat(timespec="microseconds"), _HERE)


def _all_runs(experiment_name: str | None) -> list[Run]:
    if experiment_name is not None:
        experiments = [get_experiment(experiment_name).name]
    else:
        experiments = [e.name for e in list_experiments()]
    created: list[tuple[str, Run]] = []
    for experiment in experiments:
        for folder in (_root() / experiment).iterdir():
            if folder.name.startswith(".") or not folder.is_dir():
                continue
            try:
                created.append((read_record(folder).created, Run(folder)))
            except NotFound:
                continue  # deleted meanwhile
            except BadData as error:
                log.warning("a run is left out: %s", error)
    return [run for _, run in sorted(created, key=lambda pair: pair[0], reverse=True)]


def _has_run(experiment: str, name: str) -> bool:
    return (_root() / experiment / name / RECORD_FILE).is_file()


def _free_name(experiment: Path) -> str:
    while (experiment / (name := make_name())).exists():
        pass
    return name


def _refuse_used(folder: Path) -> None:
    if folder.exists():
        raise AlreadyExists(
            f"experiment {folder.parent.name!r} has a run {folder.name!r} already: choose another "
            "run_name, or delete_run() it"
        )


def _delete(folder: Path) -> None:
    try:
        process.kill(folder)
    except NotFound:
        return
    remove_folder(folder)


class LocalRuns:
    """The calls for runs and experiments of this machine, as a session has them."""

    get_run = staticmethod(get_run)
    list_runs = staticmethod(list_runs)
    delete_run = staticmethod(delete_run)
    delete_runs = staticmethod(delete_runs)
    create_experiment = staticmethod(create_experiment)
    get_experiment = staticmethod(get_experiment)
    list_experiments = staticmethod(list_experiments)
    delete_experiment = staticmethod(delete_experiment)
    delete_experiments = staticmethod(delete_experiments)


_HERE = LocalRuns()
