"""What the Trainer executor does: calls of the SDK on behalf of a client elsewhere.

A client names data sets, models and runs; it can't name files of the server.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.errors import AlreadyExists, BadInput
from cliptune.executors import client_names
from cliptune.files import make_folder, write_bytes
from cliptune.models.registry import BUILTIN
from cliptune.protocol import tags, wire_errors
from cliptune.protocol.documents import FileChunk, LogItem, TrainRequest, TrainResult
from cliptune.protocol.parameters import (
    LogParameters,
    PartParameters,
    RunParameters,
    read_parameters,
)
from cliptune.runs.session import Experiment

if TYPE_CHECKING:
    from cliptune.runs import Run

CHUNK = 1024 * 1024
RUN = set(RunParameters.model_fields)
"""The arguments that say which run."""
ABANDONED = 24 * 3600.0
"""Seconds after which an upload that stopped half-way is forgotten."""
_lock = threading.Lock()


def read_arguments(docs: DocList[TrainRequest], allowed: set[str] | None = None) -> dict[str, Any]:
    """The arguments of a call.

    Raises:
        BadInput: they are no JSON object, or one of them is unknown.
    """
    if len(docs) != 1:
        raise BadInput(f"expected one document, got {len(docs)}")
    return parse_arguments(docs[0].arguments, allowed)


def parse_arguments(text: str, allowed: set[str] | None = None) -> dict[str, Any]:
    """As `read_arguments`, from the JSON."""
    try:
        arguments = json.loads(text)
    except ValueError as error:
        raise BadInput(f"the arguments are not JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise BadInput(f"the arguments must be a JSON object, got {arguments!r:.100}")
    for name in arguments:
        if allowed is not None and name not in allowed:
            raise BadInput(f"{name} is unknown; there are {', '.join(sorted(allowed))}")
    return arguments


def answer(result: object) -> DocList[TrainResult]:
    """An answer of one document."""
    return DocList[TrainResult]([TrainResult(result=json.dumps(result))])


def fit(arguments: dict[str, Any], hub_models: Sequence[str] = ()) -> dict[str, object]:
    """Start a run; returns what `describe` returns. Of the hub, `hub_models` may be named."""
    from cliptune.sdk.local import LocalSession

    given = {name: value for name, value in arguments.items() if value is not None}
    given["model"] = client_names.model_name(given.get("model", BUILTIN), hub_models)
    if "model_artifact" in given:
        given["model_artifact"] = client_names.artifact_id(given["model_artifact"])
    for name in given:
        if name.endswith("_data"):  # whatever data there is: nothing of a client's becomes a path
            given[name] = client_names.data_set(given[name], name)
    if given.get("csv_options"):
        raise BadInput("csv_options: tables are read by the client, which sends the documents")
    if "callbacks" in given:
        given["callbacks"] = _checked_callbacks(given["callbacks"])
    _check_processes(given.get("num_processes"))
    try:
        return describe(LocalSession().fit(**given))
    except TypeError as error:
        raise BadInput(str(error).replace("LocalSession.fit() ", "fit: ")) from None


def _checked_callbacks(callbacks: object) -> list[object]:
    if not isinstance(callbacks, list):
        raise BadInput(f"callbacks is {callbacks!r:.200}: give a list")
    return [_checked_callback(one) if isinstance(one, dict) else one for one in callbacks]


def _checked_callback(callback: dict[str, object]) -> dict[str, object]:
    """Refuse a client's callback that reads, writes or sends where the operator has not said so."""
    checked = dict(callback)
    for name, value in callback.items():
        if name.endswith("_data") and value is not None:
            checked[name] = client_names.data_set(value, name)
        if name in ("logging_dir", "tracking_uri") and value is not None:
            raise BadInput(f"{name} is {value!r}: the server keeps what it tracks with its runs")
        if name == "offline" and value is not None and value is not True:
            raise BadInput(f"{name} is {value!r}: the server's own settings decide what leaves it")
    return checked


def _check_processes(count: object) -> None:
    most = os.cpu_count() or 1
    if count is None:
        return
    if not isinstance(count, int) or isinstance(count, bool):
        raise BadInput(f"num_processes is {count!r}: expected a whole number")
    if count > most:
        raise BadInput(f"num_processes is {count}: this server has {most} processors")


def find_run(arguments: Mapping[str, object]) -> Run:
    """The run that `name` and `experiment_name` say."""
    from cliptune import runs

    name = arguments.get("name")
    if not isinstance(name, str) or not name:
        raise BadInput(f"name is {name!r}: give the name of a run")
    return runs.get_run(name, _experiment(arguments))


def _experiment(arguments: Mapping[str, object]) -> str | None:
    name = arguments.get("experiment_name")
    if name is not None and not isinstance(name, str):
        raise BadInput(f"experiment_name is {name!r}: give the name of an experiment")
    return name


def describe(run: Run) -> dict[str, object]:
    """All that a client shows of a run."""
    progress = run.progress()
    return {
        "name": run.name,
        "experiment_name": run.experiment_name,
        "description": run.description,
        "config": run.config,
        "history": run.history(),
        "summary": asdict(run.summary()),
        "progress": asdict(progress) if progress else None,
        **run.status(),
    }


def manage(arguments: Mapping[str, object]) -> object:
    """`/runs`: list (the default), get, delete or resume one; delete_all."""
    from cliptune import runs

    action = arguments.get("action", "list")
    if action == "list":
        page, size = _integer(arguments, "page", 1), _integer(arguments, "size", 50)
        listed = runs.list_runs(_experiment(arguments), page, min(size, 1000))
        return [describe(run) for run in listed]
    if action == "delete_all":
        runs.delete_runs(_experiment(arguments))
        return {"deleted": _experiment(arguments)}
    run = find_run(arguments)
    if action == "get":
        return describe(run)
    if action == "resume":
        return describe(run.resume())
    if action == "delete":
        runs.delete_run(run.name, run.experiment_name)
        return {"deleted": run.name}
    raise BadInput(f"action is {action!r}: list, get, resume, delete or delete_all")


def _integer(arguments: Mapping[str, object], name: str, default: int) -> int:
    value = arguments.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadInput(f"{name} is {value!r}: expected an integer")
    return value


def manage_experiments(arguments: Mapping[str, object]) -> object:
    """`/experiments`: list (the default), create, get or delete one; delete_all."""
    from cliptune import runs

    action, name = arguments.get("action", "list"), arguments.get("name")
    if action == "list":
        return [_said(experiment) for experiment in runs.list_experiments()]
    if action == "delete_all":
        runs.delete_experiments()
        return {"deleted": None}
    if not isinstance(name, str) or not name:
        raise BadInput(f"name is {name!r}: give the name of an experiment")
    if action == "create":
        return _said(runs.create_experiment(name))
    if action == "get":
        return _said(runs.get_experiment(name))
    if action == "delete":
        runs.delete_experiment(name)
        return {"deleted": name}
    raise BadInput(f"action is {action!r}: list, create, get, delete or delete_all")


def _said(experiment: Experiment) -> dict[str, str]:
    return {"name": experiment.name, "created": experiment.created}


def evaluate(arguments: Mapping[str, object], hub_models: Sequence[str] = ()) -> dict[str, float]:
    """The metrics of a model, or of a run's artifact, over data sets of the server.

    With them come `n_queries`, `n_index` and `n_without_answers` (see `Evaluation`).
    """
    from cliptune.data.pictures.pixels import readable_only
    from cliptune.data.source import read_documents
    from cliptune.data.validation import ANSWER, QUERY
    from cliptune.evaluation.retrieval import evaluate as evaluate_towers
    from cliptune.inference import get_tower

    model = client_names.model_or_run(arguments.get("model") or BUILTIN, hub_models)
    query_data = client_names.data_set(arguments.get("query_data"), "query_data")
    index_data = query_data
    if arguments.get("index_data") is not None:
        index_data = client_names.data_set(arguments["index_data"], "index_data")
    limit = arguments.get("limit", 20)
    if not isinstance(limit, int) or not 1 <= limit <= 1000:
        raise BadInput(f"limit is {limit!r}: expected 1 to 1000")
    needs = QUERY if index_data != query_data else QUERY | ANSWER
    queries = index_docs = read_documents(query_data, role="queries", needs=needs).docs
    if index_data != query_data:
        index_docs = read_documents(index_data, role="index", needs=ANSWER).docs
    same = index_docs is queries
    index_docs = readable_only(index_docs)
    queries = index_docs if same else queries
    text, vision = get_tower(model, "clip-text"), get_tower(model, "clip-vision")
    evaluation = evaluate_towers(text, vision, queries, index_docs, limit=limit)
    return {**evaluation.metrics, **evaluation.counts()}


def store_part(
    docs: DocList[ClipDoc], parameters: Mapping[str, object], uploads: Path
) -> dict[str, object]:
    """`/data`: keep one part of a data set; with the last one the set is there under its name.

    Without documents: whether there is a data set of that name. Parts are in `uploads` until then.

    Raises:
        AlreadyExists: there is one, and `replace` is not given.
    """
    from cliptune.data.store import dump_documents, list_pushed, parse_documents, push

    given = read_parameters(PartParameters, parameters)
    there = given.name in list_pushed()
    if not docs:
        return {"name": given.name, "stored": there}
    if given.part >= given.parts:
        raise BadInput(f"part is {given.part} of {given.parts} parts: count from 0")
    if there and not given.replace:
        raise AlreadyExists(f"a data set {given.name!r} is there already: give replace=True")
    for doc in docs:
        if doc.uri and not doc.uri.startswith("data:"):
            doc.uri = None  # a path of the client's machine means nothing here
    tags.unpack(docs)
    # Two uploads of one name may run at once: each has a folder of its own.
    folder = uploads / f"{given.name}-{given.upload}"
    with _lock:
        _forget_abandoned(uploads)
        make_folder(folder)
        write_bytes(folder / f"{given.part}.docs", dump_documents(docs))
        files = [folder / f"{number}.docs" for number in range(given.parts)]
        if not all(file.is_file() for file in files):
            return {"name": given.name, "stored": False}
        whole = DocList[ClipDoc]()
        for file in files:
            whole.extend(parse_documents(file.read_bytes(), file.name))
        try:
            push(whole, given.name, replace=given.replace)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return {"name": given.name, "stored": True}


def _forget_abandoned(uploads: Path) -> None:
    for folder in uploads.glob("*"):
        if time.time() - folder.stat().st_mtime > ABANDONED:
            shutil.rmtree(folder, ignore_errors=True)


def log_items(text: str) -> Iterator[LogItem]:
    """A run's log: all of it, or (`follow`) each line as it comes until the run ends."""
    try:
        arguments = parse_arguments(text, {*LogParameters.model_fields, "interval", "bars"})
        run = find_run(arguments)
        start = arguments.get("start", 0)
        if not isinstance(start, int) or start < 0:
            raise BadInput(f"start is {start!r}: the number of lines that you have")
        if not arguments.get("follow"):
            yield LogItem(line="\n".join(run.logs().split("\n")[start:]))
            return
        seen = 0
        interval = min(max(float(arguments.get("interval", 1)), 0.1), 60)
        for item in run.follow(interval, bars=bool(arguments.get("bars"))):
            if isinstance(item, str):
                seen += 1
                if seen > start:
                    yield LogItem(line=item)
            else:
                yield LogItem(progress=json.dumps(asdict(item)))
    except Exception as error:
        yield LogItem(error=_told(error))


def artifact_chunks(text: str) -> Iterator[FileChunk]:
    """A run's artifact as a zip, in parts."""
    try:
        run = find_run(parse_arguments(text, RUN))
        with tempfile.TemporaryDirectory(prefix="cliptune-artifact-") as folder:
            path = run.save_artifact(folder)
            size, digest = path.stat().st_size, hashlib.sha256()
            with path.open("rb") as file:
                while data := file.read(CHUNK):
                    digest.update(data)
                    last = file.tell() == size
                    yield FileChunk(
                        data=data, size=size, sha256=digest.hexdigest() if last else None
                    )
    except Exception as error:
        yield FileChunk(error=_told(error))


def _told(error: Exception) -> str:
    return wire_errors.to_text(wire_errors.from_exception(error))
