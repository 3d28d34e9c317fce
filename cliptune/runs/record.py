"""The record of a run, `run.json` in its folder: written whole or not at all, changed under a lock.

A run's folder, `CLIPTUNE_HOME/runs/<experiment>/<name>/`, holds::

    run.json        this record
    run.log         the log, a line at a time
    events.jsonl    the same for programs, and the metrics of each epoch
    progress.json   the bar of the step under way
    metrics.json    before, after, epochs
    examples.json   sample results of before and after
    data/           documents that were given in memory (protobuf)
    checkpoints/    to resume from
    tune/           trials and what they found, where options are searched for
    artifact/       the tuned model
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from cliptune.errors import BadData, NotFound
from cliptune.files import locked, write_text
from cliptune.runs.liveness import ProcessMark

if TYPE_CHECKING:
    from cliptune.data.summary import SummaryRecord

RECORD_FILE = "run.json"
_LOCK_FILE = ".lock"


class Status(StrEnum):
    """Where a run stands."""

    CREATED = "CREATED"
    STARTED = "STARTED"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens by itself."""
        return self not in (Status.CREATED, Status.STARTED)


class DataReference(TypedDict, total=False):
    """Documents of a run: a data set by its `name`, or those `stored` below the run's `data`."""

    name: str
    stored: str
    documents: int
    """How many are stored."""
    source: str | None
    """Where they came from."""
    summary: SummaryRecord
    """What was understood of them."""


class RunConfig(TypedDict, total=False):
    """All that a run was started with."""

    model: str
    model_artifact: str | None
    options: dict[str, Any]
    """The fields of `TrainingOptions`."""
    callbacks: list[dict[str, Any]]
    """Their JSON form; what is data is a `DataReference`."""
    train_data: DataReference
    eval_data: DataReference | None
    csv_options: dict[str, object]
    tune: dict[str, Any] | None
    """The fields of `TuneOptions`, where the options are found by trials."""
    named: list[str]
    """The fields of `options` that were given, and are not defaults: trials don't vary them."""
    robust_data: DataReference | None
    """What the tuned model should stay good at."""


class Changes(TypedDict, total=False):
    """What is to change in a record."""

    config: RunConfig
    status: Status
    details: str
    started: str | None
    ended: str | None
    exit: str | None
    process: ProcessMark | None
    starter: ProcessMark | None
    starts: int
    cancel_requested: bool


@dataclass(frozen=True)
class Record:
    """What is known about a run. Times are ISO 8601 in UTC."""

    name: str
    experiment: str
    config: RunConfig
    """All that `fit` was given; enough to start the run again."""
    created: str
    description: str | None = None
    status: Status = Status.CREATED
    details: str = ""
    """One line for people: how far it is, or why it failed."""
    started: str | None = None
    ended: str | None = None
    exit: str | None = None
    """How its process ended, such as `exit status 1` or `signal 9 (SIGKILL)`."""
    process: ProcessMark | None = None
    """The run's own process."""
    starter: ProcessMark | None = None
    """The process that created it; counts as long as the run has no process."""
    starts: int = 0
    """How often a process was started for it: resuming adds one."""
    cancel_requested: bool = False
    extra: dict[str, object] = field(default_factory=dict)
    """What a later version wrote that this one does not know."""

    def to_json(self) -> str:
        """The content of `run.json`."""
        values = asdict(self)
        return json.dumps({**values.pop("extra"), **values}, indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """From the content of `run.json`."""
        values = json.loads(text)
        known = {f.name for f in fields(cls)} - {"extra"}
        extra = {name: values.pop(name) for name in list(values) if name not in known}
        for name in ("process", "starter"):
            if values.get(name) is not None:
                values[name] = ProcessMark(**values[name])
        values["status"] = Status(values["status"])
        return cls(**values, extra=extra)


def now() -> str:
    """The present time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def read_record(folder: Path) -> Record:
    """The record of the run in `folder`.

    Raises:
        NotFound: there is no run (any more).
        BadData: the record can't be read.
    """
    path = folder / RECORD_FILE
    try:
        return Record.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(f"no run {folder.name!r} in experiment {folder.parent.name!r}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadData(
            f"{path} is damaged ({error}); what the run has made is beside it: its artifact, "
            "checkpoints and log"
        ) from error


def write_record(folder: Path, record: Record) -> None:
    """Write the first record of a run whose folder nobody else knows yet."""
    write_text(folder / RECORD_FILE, record.to_json())


def update_record(folder: Path, change: Callable[[Record], Changes | None]) -> Record:
    """Change the record in `folder`, seeing and writing it while no other process does.

    `change` gets the present record and returns the fields to replace, or None for no change.

    Raises:
        NotFound: the run was deleted.
    """
    with _locked(folder):
        record = read_record(folder)
        changes = change(record)
        if changes is not None:
            record = replace(record, **changes)
            write_text(folder / RECORD_FILE, record.to_json())
        return record


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`; where there are none (Windows) the last writer wins."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / _LOCK_FILE))
        except FileNotFoundError:
            raise NotFound(f"no run {folder.name!r} in experiment {folder.parent.name!r}") from None
        yield
