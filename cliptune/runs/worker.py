"""The process of one run: `python -m cliptune.runs.worker <run folder> <start>`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliptune.errors import CliptuneError, NotFound
from cliptune.runs import liveness
from cliptune.runs.liveness import ProcessMark
from cliptune.runs.record import Record, Status, now, update_record
from cliptune.runs.reporter import RunReporter

if TYPE_CHECKING:
    from docarray import DocList

    from cliptune.documents import ClipDoc


def main(folder: Path, start: int) -> int:
    """Do the run in `folder`, if this is still its `start`-th process; returns the exit status."""
    cancelled = threading.Event()
    # First of all: a wish to stop must not be lost while the libraries are loading.
    signal.signal(signal.SIGTERM, lambda *_: cancelled.set())
    mark = ProcessMark.of(os.getpid())
    liveness.beat(folder)

    def begin(record: Record) -> dict[str, Any] | None:
        if record.starts != start:
            return None  # it was resumed by somebody who thought us dead
        return {"status": Status.STARTED, "details": "", "started": now(), "process": mark}

    record = update_record(folder, begin)
    if record.starts != start:
        return 1
    if record.cancel_requested:
        cancelled.set()
    threading.Thread(target=_beat, args=(folder,), daemon=True).start()
    reporter = RunReporter(folder, cancelled)
    reporter.status(Status.STARTED, "")
    try:
        status, details = _work(folder, record, reporter)
    except BaseException as error:
        status, details = Status.FAILED, explain(error)
        reporter.close()
        reporter.log("ERROR", f"FAILED: {details}")
        reporter.log("DEBUG", "".join(traceback.format_exception(error)).rstrip())
    reporter.close()
    with contextlib.suppress(NotFound):  # deleted meanwhile
        reporter.status(status, details)
        update_record(folder, lambda r: {"status": status, "details": details, "ended": now()})
    return 1 if status is Status.FAILED else 0


def _work(folder: Path, record: Record, reporter: RunReporter) -> tuple[Status, str]:
    from cliptune.training import Cancelled, TrainingOptions, train
    from cliptune.training.checkpoint import list_checkpoints

    config = record.config
    try:
        _check_cancelled(reporter)
        options = TrainingOptions.parse(config["options"])
        train_docs = _documents(config["train_data"], folder)
        eval_docs = _documents(config["eval_data"], folder) if config["eval_data"] else None
        callbacks = [_callback(values, folder) for values in config["callbacks"]]
        checkpoints = list_checkpoints(folder / "checkpoints") if record.starts > 1 else []
        _check_cancelled(reporter)
        resume_from = checkpoints[-1] if checkpoints else None
        train(options, train_docs, eval_docs, callbacks, folder, reporter, resume_from)
    except Cancelled:
        reporter.close()
        kept = bool(list_checkpoints(folder / "checkpoints"))
        details = "cancelled; resume() goes on with it" + (
            " from its last checkpoint" if kept else " from the start"
        )
        reporter.log("WARNING", f"CANCELLED: {details}")
        return Status.CANCELLED, details
    return Status.FINISHED, ""


def explain(error: BaseException) -> str:
    """One line for people about what ended the run."""
    words = " ".join(str(error).split())
    if isinstance(error, CliptuneError):
        return words
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory: try a smaller batch_size ({words[:200]})"
    return f"{type(error).__name__}: {words[:500]}"


def _documents(reference: dict[str, Any], folder: Path) -> DocList[ClipDoc]:
    """The documents that a reference in the record stands for (see `cliptune.runs.plan`)."""
    from cliptune.data.source import load_documents
    from cliptune.runs.documents import stored_documents

    if "stored" in reference:
        return stored_documents(folder / "data" / reference["stored"], reference["documents"])
    return load_documents(reference["name"])


def _callback(values: dict[str, Any], folder: Path) -> Any:
    from cliptune.training.callbacks import parse_callback

    read = {
        name: _documents(value, folder)
        if isinstance(value, dict) and ("stored" in value or "name" in value)
        else value
        for name, value in values.items()
    }
    return parse_callback(read)


def _check_cancelled(reporter: RunReporter) -> None:
    from cliptune.training import Cancelled

    if reporter.cancelled():
        raise Cancelled


def _beat(folder: Path) -> None:
    pause = threading.Event()
    while not pause.wait(liveness.HEARTBEAT_SECONDS):
        if not folder.is_dir():
            os._exit(1)  # the run was deleted on another machine
        liveness.beat(folder)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
