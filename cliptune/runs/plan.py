"""From what `fit` was given to a checked plan that a process can be started from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from docarray import DocList

from cliptune.data.source import DataSetName, read_documents
from cliptune.data.store import is_url, list_pushed
from cliptune.data.tables.opening import names_table
from cliptune.data.tables.options import CsvOptions
from cliptune.data.validation import PAIR, Needs
from cliptune.demo.catalogue import CATALOGUE_NAMES
from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadInput
from cliptune.extras import need
from cliptune.models.loading import check_model, pick_device
from cliptune.runs.record import DataReference, RunConfig
from cliptune.training.callbacks import CALLBACKS, Callback, Callbacks, parse_callback
from cliptune.training.optimization.optimizers import make_optimizer, make_schedule
from cliptune.training.options import TrainingOptions
from cliptune.tuning.options import TuneOptions

_DATA_FIELDS = ("query_data", "index_data")
"""The fields of callbacks that hold data."""


@dataclass(frozen=True)
class Plan:
    """A run that can be started."""

    config: RunConfig
    documents: dict[str, DocList[ClipDoc]] = field(default_factory=dict)
    """What is to be stored below `data`, by folder."""


def make_plan(
    options: Mapping[str, object],
    train_data: object,
    eval_data: object = None,
    callbacks: Sequence[Callback | Mapping[str, object] | str] | None = None,
    csv_options: CsvOptions | Mapping[str, object] | None = None,
    tune: object = None,
    robust_data: object = None,
) -> Plan:
    """Check everything that can be checked before a model is loaded.

    Args:
        options: the fields of `TrainingOptions`.
        train_data: documents, a name or a path.
        eval_data: likewise, or None.
        callbacks: callbacks, their JSON form, or the name of one that needs no parameters.
        csv_options: how CSV files among the data are read.
        tune: find options by trials: what `TuneOptions.parse` takes; None or False: don't.
        robust_data: with `tune`, pairs of another kind that the model should stay good at.

    Raises:
        BadInput: an option or a callback is unknown or has a bad value.
        NotFound: a model, file or data set is not there.
        BadData: a data set can't be read or has nothing to train on.
    """
    parsed = TrainingOptions.parse(options)
    check_model(parsed.model)
    pick_device(parsed.device)
    _check_optimization(parsed)
    if parsed.lora is not None:
        need("lora", "lora")
    asked = _tune_options(tune, parsed, eval_data, callbacks, robust_data)
    table = CsvOptions.parse(csv_options)
    documents: dict[str, DocList[ClipDoc]] = {}

    def refer(data: object, role: str, needs: Needs, called: str | None = None) -> DataReference:
        if isinstance(data, str) and _is_name(data):
            return {"name": str(data)}
        options = table if role == "train_data" else table.as_preference()
        read = read_documents(data, csv_options=options, role=called or role, needs=needs)
        documents[role] = read.docs
        return {
            "stored": role,
            "documents": len(read.docs),
            "source": str(data) if isinstance(data, str | Path) else None,
            "summary": read.summary.to_json(),
        }

    parsed_callbacks = _parsed(callbacks or [])
    Callbacks(parsed_callbacks).check(eval_data is not None or parsed.val_split > 0)
    callbacks_json = []
    for number, callback in enumerate(parsed_callbacks):
        given = {name: getattr(callback, name, None) for name in _DATA_FIELDS}
        data = {name: value for name, value in given.items() if value is not None}
        values = callback.model_dump(mode="json", exclude=set(data))
        for name, value in data.items():
            needs = callback.needs(name)
            values[name] = refer(value, f"callback-{number}-{name}", needs, name)
        callbacks_json.append(values)
    config: RunConfig = {
        "options": parsed.model_dump(mode="json"),
        "callbacks": callbacks_json,
        "train_data": refer(train_data, "train_data", PAIR),
        "eval_data": None if eval_data is None else refer(eval_data, "eval_data", PAIR),
        "csv_options": table.to_keep(),
    }
    if asked is not None:
        config["tune"] = asked.model_dump(mode="json")
        config["named"] = sorted(parsed.model_fields_set)
        robust = None if robust_data is None else refer(robust_data, "robust_data", PAIR)
        config["robust_data"] = robust
    if len(documents.get("train_data", (1, 2))) < 2:
        raise BadData("train_data has one document: contrastive training needs at least two")
    return Plan(config, documents)


def _tune_options(
    tune: object,
    options: TrainingOptions,
    eval_data: object,
    callbacks: Sequence[object] | None,
    robust_data: object,
) -> TuneOptions | None:
    """How options are to be searched for, if they are.

    Raises:
        BadInput: something was given that a search does by itself, or can't do.
    """
    if tune is None or tune is False:
        if robust_data is not None:
            raise BadInput("robust_data is for a search by trials: give it with tune")
        return None
    need("tune", "tune")
    asked = TuneOptions.parse(tune)
    if eval_data is not None or options.val_split:
        raise BadInput("eval_data and val_split: a search by trials holds out its own parts")
    if callbacks:
        raise BadInput(
            "callbacks: a search by trials measures, stops and mixes by itself; for callbacks, "
            "start a run with the options that it finds"
        )
    if options.num_processes > 1:
        raise BadInput(f"num_processes is {options.num_processes}: trials are made by one process")
    if options.epochs < 1:
        raise BadInput("epochs is 0: trials need at least one")
    return asked


def _parsed(callbacks: Sequence[Callback | Mapping[str, object] | str]) -> list[Callback]:
    if isinstance(callbacks, str | Mapping | Callback):
        raise BadInput(f"callbacks is {callbacks!r}: give a list")
    parsed = []
    for callback in callbacks:
        if isinstance(callback, str):
            callback = {"name": callback}
        if isinstance(callback, Mapping):
            callback = parse_callback(dict(callback))
        # A class that the run's process does not know could not travel there.
        if CALLBACKS.get(getattr(callback, "name", "")) is not type(callback):
            raise BadInput(
                f"{callback!r} is not a callback: use those of cliptune.callback "
                "(see list_callbacks())"
            )
        parsed.append(callback)
    return parsed


def _is_name(data: str) -> bool:
    """Whether `data` names a data set, which the run's process reads by itself."""
    if isinstance(data, DataSetName) or data in CATALOGUE_NAMES:
        return True
    return not names_table(data) and (is_url(data) or data in list_pushed())


def _check_optimization(options: TrainingOptions) -> None:
    """Have the optimizer and the schedule made for a toy, so that bad options show at once."""
    toy = torch.nn.Linear(2, 2)
    optimizer = make_optimizer(
        options.chosen_optimizer, options.optimizer_options, options.peak_learning_rate, toy
    )
    # How many steps there will be is not known here: more than any warm-up has.
    make_schedule(options.scheduler, options.scheduler_options, optimizer, 10**6, 10**6)
