"""The process of one run: `python -m cliptune.runs.worker <run folder> <start>`.

Started by `torchrun`, the first of the processes keeps the record; the others only train.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cliptune.errors import CliptuneError, NotFound
from cliptune.files import guard_process
from cliptune.runs import liveness
from cliptune.runs.liveness import ProcessMark
from cliptune.runs.logs import FolderRunLogger
from cliptune.runs.record import Changes, Record, RunConfig, Status, now, read_record, update_record

if TYPE_CHECKING:
    from docarray import DocList

    from cliptune.documents import ClipDoc
    from cliptune.training import TrainingOptions
    from cliptune.training.callbacks import Callback

Role = Literal["train_data", "eval_data"]
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_OUT_OF_MEMORY = re.compile(
    r"out of memory|not enough memory|(can't|cannot|unable to) allocate|ALLOC_FAILED", re.IGNORECASE
)
_ONE_DNN = re.compile(r"could not (create|execute) a (primitive|memory object)$")
"""What torch's CPU kernels say of memory that they could not get, and not why."""
_RUST_CODE = re.compile(r"\(os error (\d+)\)")
"""How Rust's libraries, such as safetensors, tell the system's error number."""
_RESERVE = ".reserve"
_RESERVE_BYTES = 256 * 1024


def main(folder: Path, start: int) -> int:
    """Do the run in `folder`, if this is still its `start`-th process; returns the exit status."""
    cancelled = threading.Event()
    # First of all: a wish to stop must not be lost while the libraries are loading.
    signal.signal(signal.SIGTERM, lambda *_: cancelled.set())
    guard_process(folder)
    if rank := int(os.environ.get("RANK", "0")):
        return _assist(folder, FolderRunLogger(folder, cancelled), rank)
    mark = ProcessMark.of(os.getpid())
    liveness.beat(folder)
    begun: Changes = {"status": Status.STARTED, "details": "", "started": now(), "process": mark}
    record = _update(folder, start, begun)
    if record.starts != start:
        return 1
    if record.cancel_requested:
        cancelled.set()
    threading.Thread(target=_beat, args=(folder,), daemon=True).start()
    logger = FolderRunLogger(folder, cancelled)
    logger.status(Status.STARTED, "")
    try:
        status, details = _work(folder, record, logger)
    except BaseException as error:
        _give_back_reserve(folder)
        status, details = Status.FAILED, explain(error)
        with contextlib.suppress(OSError):  # the record below matters more than the log
            logger.close()
            logger.log("ERROR", f"FAILED: {details}")
            _log_origin(logger, error)
    with contextlib.suppress(OSError):
        logger.close()
        logger.status(status, details)
    _give_back_reserve(folder)  # the record needs some room, whatever has filled the disk
    with contextlib.suppress(NotFound):  # deleted meanwhile
        _update(folder, start, {"status": status, "details": details, "ended": now()})
    return 1 if status is Status.FAILED else 0


def _update(folder: Path, start: int, changes: Changes) -> Record:
    """Change the record, unless the run was resumed by somebody who thought us dead."""
    return update_record(folder, lambda record: changes if record.starts == start else None)


def _assist(folder: Path, logger: FolderRunLogger, rank: int) -> int:
    """Train as one of several processes, but not the first."""
    from cliptune.training import Cancelled

    try:
        _train(folder, read_record(folder), logger, is_first=False)
    except Cancelled:
        return 0
    except BaseException as error:
        logger.log("ERROR", f"process {rank} of the run: {explain(error)}")
        _log_origin(logger, error)
        return 1
    return 0


def _log_origin(logger: FolderRunLogger, error: BaseException) -> None:
    """Where `error` came from, unless it was raised for people to read."""
    if not isinstance(error, CliptuneError):
        logger.log("DEBUG", "".join(traceback.format_exception(error)).rstrip())


def _train(folder: Path, record: Record, logger: FolderRunLogger, *, is_first: bool = True) -> str:
    """Do what the record says; the first of several processes says what it is.

    Returns what went wrong without an error, or nothing.

    Raises:
        Cancelled: the run was asked to stop.
    """
    from cliptune.runs.documents import referred_documents
    from cliptune.settings import current
    from cliptune.training import TrainingOptions, train
    from cliptune.training.state import list_checkpoints

    config = record.config
    _check_cancelled(logger)
    options = TrainingOptions.parse(config["options"])
    train_docs = referred_documents(config["train_data"], folder)
    eval_docs = referred_documents(config["eval_data"], folder) if config["eval_data"] else None
    callbacks = [_callback(values, folder) for values in config["callbacks"]]
    if is_first and record.starts == 1:
        _say_what_was_understood(config, {"train_data": train_docs, "eval_data": eval_docs}, logger)
    _check_cancelled(logger)
    if config.get("tune"):
        return _tune(folder, config, options, train_docs, logger)
    checkpoints = list_checkpoints(folder / "checkpoints") if record.starts > 1 else []
    resume_from = checkpoints[-1] if checkpoints else None
    if record.starts > 1 and resume_from is None:
        logger.log("WARNING", "no checkpoint is left: the run begins again from its start")
    table = config.get("csv_options")
    outcome = train(
        options,
        train_docs,
        eval_docs,
        callbacks,
        folder,
        logger,
        resume_from,
        table,
        current().cache_dir / "pixels",
    )
    return outcome.warning


def _tune(
    folder: Path,
    config: RunConfig,
    options: TrainingOptions,
    docs: DocList[ClipDoc],
    logger: FolderRunLogger,
) -> str:
    """Search for the options by trials; returns as `_train`."""
    from cliptune.runs.documents import referred_documents
    from cliptune.settings import current
    from cliptune.tuning.options import TuneOptions
    from cliptune.tuning.tune import tune

    robust = config.get("robust_data")
    return tune(
        options,
        TuneOptions.parse(config["tune"]),
        config["named"],
        docs,
        referred_documents(robust, folder) if robust else None,
        folder,
        logger,
        config.get("csv_options"),
        current().cache_dir / "pixels",
    )


def _work(folder: Path, record: Record, logger: FolderRunLogger) -> tuple[Status, str]:
    """Train and say how it ended."""
    from cliptune.training import Cancelled
    from cliptune.training.state import list_checkpoints, remove_unfinished

    try:
        remove_unfinished(folder)
        _keep_reserve(folder)
        warning = _train(folder, record, logger)
    except Cancelled:
        logger.close()
        where = "its last checkpoint" if list_checkpoints(folder / "checkpoints") else "the start"
        if (folder / "tune").is_dir():
            where = "the trial under way"
        details = f"cancelled; resume() goes on with it from {where}"
        logger.log("WARNING", f"CANCELLED: {details}")
        return Status.CANCELLED, details
    return Status.FINISHED, f"WARNING: {warning}" if warning else ""


def _keep_reserve(folder: Path) -> None:
    """Take some disk, so that a run that fills it can still say so."""
    (folder / _RESERVE).write_bytes(os.urandom(_RESERVE_BYTES))


def _give_back_reserve(folder: Path) -> None:
    with contextlib.suppress(OSError):
        (folder / _RESERVE).unlink(missing_ok=True)


def _say_what_was_understood(
    config: RunConfig, docs: dict[Role, DocList[ClipDoc] | None], logger: FolderRunLogger
) -> None:
    """Have each data set described in the log, as it was read or as it is found by its name."""
    from cliptune.data.source import read_documents
    from cliptune.data.validation import PAIR
    from cliptune.runs.documents import is_reference

    for role, given in docs.items():
        reference = config[role]
        if not given or not reference:
            continue
        if "summary" in reference:
            lines = reference["summary"]["lines"]
        else:
            summary = read_documents(given, role=role, needs=PAIR).summary
            summary.source = reference.get("name")
            lines = summary.lines()
        for level, line in lines:
            logger.log(level, line)
    for callback in config["callbacks"]:
        for value in callback.values():
            if is_reference(value) and "summary" in value:
                for level, line in value["summary"]["lines"]:
                    logger.log(level, line)


def _callback(values: Mapping[str, object], folder: Path) -> Callback:
    from cliptune.runs.documents import is_reference, referred_documents
    from cliptune.training.callbacks import parse_callback

    read = {
        name: referred_documents(value, folder) if is_reference(value) else value
        for name, value in values.items()
    }
    return parse_callback(read)


def _check_cancelled(logger: FolderRunLogger) -> None:
    from cliptune.training import Cancelled

    if logger.cancelled():
        raise Cancelled


def _beat(folder: Path) -> None:
    pause = threading.Event()
    while not pause.wait(liveness.HEARTBEAT_SECONDS):
        if not folder.is_dir():
            os._exit(1)  # the run was deleted on another machine
        liveness.beat(folder)


def explain(error: BaseException) -> str:
    """One line about `error`: what went wrong and, where it can be known, what to do."""
    words = " ".join(str(error).split())
    if isinstance(error, CliptuneError):
        return words  # it was written for people
    for each in _chain(error):
        code = _system_error(each)
        if code in _DISK_FULL:
            filename = getattr(each, "filename", None)
            where = f" for {filename}" if filename else ""
            return (
                f"the disk is full (no space left{where}): make room, then resume() goes on from "
                "the last checkpoint"
            )
        if code == errno.EFBIG:
            return (
                f"a file is larger than allowed ({words[:200]}): raise the limit (ulimit -f), then "
                "resume() goes on from the last checkpoint"
            )
        if code == errno.ENOMEM or _is_out_of_memory(each):
            return _without_memory(words[:200] or type(error).__name__)
        if _ONE_DNN.search(str(each)):
            return _without_memory(
                f"{words[:200]}; if there is memory left, a sandbox forbids executable memory"
            )
    return f"{type(error).__name__}: {words[:500]}"


def _without_memory(words: str) -> str:
    return (
        "out of memory: start again with a smaller micro_batch_size or batch_size, or resume() "
        f"once more memory is free ({words})"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and what led to it: torch hides the system's error behind one of its own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _system_error(error: BaseException) -> int | None:
    """The system's error number that `error` carries."""
    if isinstance(error, OSError):
        return error.errno
    code = _RUST_CODE.search(str(error))
    return int(code[1]) if code else None


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether it is Python's, NumPy's or torch's way to say so; torch's CPU part has no type."""
    if isinstance(error, RuntimeError):
        return _OUT_OF_MEMORY.search(str(error)) is not None
    return isinstance(error, MemoryError)


def run(folder: Path, start: int) -> int:
    """`main`, and where that itself fails (its folder can't be written, …) the reason as data.

    It goes into the record, or where that can't be written either, as the log's last line, which
    who started the process reads.
    """
    try:
        return main(folder, start)
    except Exception as error:
        details = explain(error)
        with contextlib.suppress(Exception):
            _log_origin(FolderRunLogger(folder), error)
        sys.stderr.write(f"FAILED: {details}\n")
        with contextlib.suppress(Exception):
            _update(folder, start, {"status": Status.FAILED, "details": details, "ended": now()})
        return 1


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), int(sys.argv[2])))
