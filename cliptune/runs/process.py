"""The process of a run: starting, stopping and watching it; saying why it died."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from cliptune.errors import NotReady
from cliptune.files import open_file
from cliptune.runs.liveness import ProcessMark
from cliptune.runs.logs import LOG_FILE, append_event, append_lines, log_lines, read_log
from cliptune.runs.record import Changes, Record, Status, now, read_record, update_record

_WORKER = ("-m", "cliptune.runs.worker")
_TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--max-restarts", "0")
_ZOMBIE_SECONDS = 2.0
_reapers: dict[int, threading.Thread] = {}
"""By process number: the threads that wait for the processes this one has started."""


def start(folder: Path) -> None:
    """Start the process of the run in `folder`; it goes on when this process ends.

    Raises:
        NotReady: it has one that runs, or it has finished.
    """
    settle(folder)
    record = update_record(folder, _to_be_started)
    (folder / "progress.json").unlink(missing_ok=True)
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        with os.fdopen(open_file(folder / LOG_FILE, flags), "ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, *_launcher(record), *_WORKER, str(folder), str(record.starts)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=_environment(_process_count(record)),
            )
    except BaseException as error:
        _end(folder, record, Status.FAILED, f"its process could not be started: {error}", None)
        raise
    mark = ProcessMark.of(process.pid)
    update_record(folder, lambda r: {"process": mark} if r.process is None else None)
    reaper = threading.Thread(
        target=_reap, args=(process, folder, mark), name=f"cliptune-{folder.name}", daemon=True
    )
    _reapers[process.pid] = reaper
    reaper.start()


def cancel(folder: Path, grace: float) -> Record:
    """Ask the run to stop with a checkpoint, and wait for it; after `grace` seconds kill it.

    Raises:
        NotReady: its process is on another machine.
    """
    record = settle(folder)
    if not record.status.ended and record.process is not None:
        _needs_local(record, record.process)
    record = update_record(folder, lambda r: None if r.status.ended else {"cancel_requested": True})
    if record.status.ended:
        return record
    if not record.starts:
        return _end(folder, record, Status.CANCELLED, "cancelled before it was started", None)
    _signal(record, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while not (record := settle(folder)).status.ended:
        if time.monotonic() > deadline:
            _signal(record, signal.SIGKILL)
            deadline += 5.0  # the system may need a moment to clear a large process
        time.sleep(0.05)
    return record


def kill(folder: Path) -> None:
    """End the run's process at once, if it has one on this machine, and wait until it is gone."""
    record = settle(folder)
    while record.starts and not record.status.ended:
        _signal(record, signal.SIGKILL)
        time.sleep(0.05)
        record = settle(folder)


def settle(folder: Path) -> Record:
    """The record of the run in `folder`, after looking whether its process still lives.

    A process that died without a word makes the run FAILED (or CANCELLED, if it was asked to
    stop), with the reason as far as it can be known, for this reader and all later ones.
    """
    record = read_record(folder)
    if record.status.ended or _lives(record, folder):
        return record
    mark = record.process
    if mark is not None and mark.pid in _reapers:
        # Our own child: the thread that waits for it knows its exit status.
        _reapers[mark.pid].join(timeout=10)
    elif mark is not None:
        # Its parent may be about to write down how it ended.
        deadline = time.monotonic() + _ZOMBIE_SECONDS
        while mark.is_zombie() and time.monotonic() < deadline:
            time.sleep(0.05)
    record = read_record(folder)
    if record.status.ended or record.process != mark or _lives(record, folder):
        return record
    return _end(folder, record, *_verdict(record, _why_gone(record)), exit_reason=None)


def _lives(record: Record, folder: Path) -> bool:
    mark = record.process or record.starter
    return mark is not None and mark.is_alive(folder)


def _to_be_started(record: Record) -> Changes:
    if not record.status.ended and record.starts:
        raise NotReady(f"run {record.name!r} is {record.status} already")
    if record.status is Status.FINISHED:
        raise NotReady(f"run {record.name!r} has finished: start another one with fit()")
    return {
        "status": Status.CREATED,
        "details": "its process is starting",
        "process": None,
        "starter": ProcessMark.of(os.getpid()),
        "starts": record.starts + 1,
        "cancel_requested": False,
        "ended": None,
        "exit": None,
    }


def _reap(process: subprocess.Popen[bytes], folder: Path, mark: ProcessMark) -> None:
    """Wait for our child, so that no zombie stays, and write down an end that it could not."""
    code = process.wait()
    if code < 0:
        name = _signal_name(-code)
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        reason, exit_reason = f"killed by {name}{hint}", name
    else:
        exit_reason = f"exit status {code}"
        reason = f"its process ended with {exit_reason}: {_last_line(folder)}"

    def note(record: Record) -> Changes | None:
        return {"exit": exit_reason} if record.process == mark and record.status.ended else None

    try:
        record = read_record(folder)
        if record.process == mark and not record.status.ended:
            _end(folder, record, *_verdict(record, reason), exit_reason=exit_reason)
        else:
            update_record(folder, note)
    except LookupError:
        pass  # the run has been deleted meanwhile
    finally:
        _reapers.pop(process.pid, None)


def _last_line(folder: Path) -> str:
    """What a process wrote last that could say no more than that."""
    try:
        written = [line.strip() for line in read_log(folder).splitlines()]
    except OSError as error:
        return f"why is not known (its log can't be read: {error.strerror})"
    return next((line[:500] for line in reversed(written) if line), "it wrote nothing to its log")


def _verdict(record: Record, reason: str) -> tuple[Status, str]:
    if record.cancel_requested:
        return Status.CANCELLED, f"cancelled: {reason}"
    return Status.FAILED, reason


def _why_gone(record: Record) -> str:
    mark = record.process
    if mark is None:
        return "the process that created it ended before it could start it"
    if mark.before_reboot:
        return "the machine was restarted while it ran"
    if not mark.is_local:
        return f"its process on {mark.host} (pid {mark.pid}) gives no sign of life"
    before = "" if record.started else " before it could begin"
    return (
        f"its process (pid {mark.pid}) is gone{before}: killed by signal 9 (out of memory?) or "
        "otherwise from outside"
    )


def _end(
    folder: Path, seen: Record, status: Status, details: str, exit_reason: str | None
) -> Record:
    """End the run, unless it has changed since it was `seen`.

    Where the record can't be written, the disk being full or read-only, its reader is told so all
    the same.
    """
    end: Changes = {
        "status": status,
        "details": details,
        "ended": now(),
        "exit": exit_reason,
    }

    def change(record: Record) -> Changes | None:
        if record.status.ended or (record.process, record.starts) != (seen.process, seen.starts):
            return None
        # Under the lock and before the record: who sees the new status finds the line too.
        level = "ERROR" if status is Status.FAILED else "WARNING"
        with contextlib.suppress(OSError):  # the record matters more than the log
            clock = time.strftime("%H:%M:%S")
            append_lines(folder, log_lines(level, f"{status}: {details}", clock))
            append_event(folder, "status", status=status, details=details)
        return end

    try:
        return update_record(folder, change)
    except OSError:
        return replace(seen, **end)


def _signal(record: Record, number: signal.Signals) -> None:
    mark = record.process
    if mark is None:
        return  # between the record and the process: the worker sees the wish when it starts
    _needs_local(record, mark)
    # The mark is looked at again: its number may be another process's by now.
    if ProcessMark.of(mark.pid) == mark:
        with contextlib.suppress(ProcessLookupError):
            os.kill(mark.pid, number)


def _needs_local(record: Record, mark: ProcessMark) -> None:
    if not mark.is_local:
        raise NotReady(f"run {record.name!r} runs on {mark.host}: stop it there")


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def _process_count(record: Record) -> int:
    return int(record.config.get("options", {}).get("num_processes", 1))


def _launcher(record: Record) -> list[str]:
    """What comes before the worker's module where several processes share the run."""
    count = _process_count(record)
    return [*_TORCHRUN, "--nproc-per-node", str(count)] if count > 1 else []


def _environment(processes: int) -> dict[str, str]:
    """Ours, with cliptune importable where it is not installed."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    # Modules of the working directory must not shadow the library's.
    environment["PYTHONSAFEPATH"] = "1"
    if processes > 1:  # torchrun would give each process one thread only
        threads = max(1, (os.cpu_count() or 1) // processes)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    root = Path(__file__).resolve().parents[2]
    if root.name not in ("site-packages", "dist-packages"):
        paths = [str(root), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment
