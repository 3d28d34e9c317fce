"""The log of a run and its events: the form of their lines, writing and reading them."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cliptune.files import open_file, write_text
from cliptune.runs.record import now

if TYPE_CHECKING:
    from cliptune.models.artifact import RunMetrics
    from cliptune.training.run_logger import RunExamples

LOG_FILE = "run.log"
PROGRESS_FILE = "progress.json"
EVENTS_FILE = "events.jsonl"
METRICS_FILE = "metrics.json"
EXAMPLES_FILE = "examples.json"
_BETWEEN_BARS = 0.2
"""Seconds between two writings of a bar."""
_BAR = "━" * 20
_INDENT = " " * 11
"""The width of `[13:32:41] `, which is shown once a second like rich's handler does."""


@dataclass(frozen=True)
class Progress:
    """A bar: `done` of `total` steps of `description`."""

    description: str
    done: int
    total: int
    values: dict[str, float] = field(default_factory=dict)
    """The present values, such as loss and val_loss."""
    elapsed: float = 0.0
    """Seconds since its first step."""

    def summary(self) -> str:
        """In short, `Training [5/5] 17/195 • loss: 2.419`."""
        values = "".join(f" • {name}: {value:.3f}" for name, value in self.values.items())
        return f"{self.description} {self.done}/{self.total}{values}"

    def line(self) -> str:
        """As a line of the log, `  Training [5/5] ━━━━ 195/195 0:05:30 0:00:00 • loss: 2.419`."""
        filled = len(_BAR) if not self.total else round(len(_BAR) * self.done / self.total)
        left = self.elapsed / self.done * (self.total - self.done) if self.done else None
        bar = f"{_BAR[:filled]:<{len(_BAR)}}" if filled < len(_BAR) else _BAR
        parts = [f"  {self.description} {bar} {self.done}/{self.total}"]
        parts.append(f"{_duration(self.elapsed)} {_duration(left)}")
        values = "".join(f" • {name}: {value:.3f}" for name, value in self.values.items())
        return " ".join(parts) + values


def log_lines(level: str, message: str, clock: str | None) -> list[str]:
    """`message` as lines of the log; `clock` is HH:MM:SS, or None where the line above has it."""
    first, *rest = message.splitlines() or [""]
    head = f"[{clock}] " if clock else _INDENT
    return [f"{head}{level:<8} {first}", *(f"{_INDENT}{'':8} {line}" for line in rest)]


def append_lines(folder: Path, lines: list[str]) -> None:
    """Add whole `lines` to the log in one write, so that lines of two writers never mix."""
    _append(folder / LOG_FILE, lines)


def _append(path: Path, lines: list[str]) -> None:
    handle = open_file(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        data = "".join(f"{line}\n" for line in lines).encode()
        while data:
            data = data[os.write(handle, data) :]
    finally:
        os.close(handle)


def write_progress(folder: Path, progress: Progress) -> None:
    """Make `progress` the bar that readers see; cheap enough for every step."""
    beside = folder / f".{PROGRESS_FILE}"
    beside.write_text(json.dumps(asdict(progress)))
    os.replace(beside, folder / PROGRESS_FILE)


class FolderRunLogger:
    """A `cliptune.training.run_logger.RunLogger` that writes into the run's folder."""

    def __init__(self, folder: Path, cancelled: threading.Event | None = None) -> None:
        """Write into `folder`; the run is to stop when `cancelled` is set."""
        self.folder = folder
        self._cancelled = cancelled or threading.Event()
        self._lock = threading.Lock()  # decoding threads tell too
        self._clock = ""
        self._description: str | None = None
        self._began = 0.0
        self._bar: Progress | None = None
        self._bar_written = 0.0

    def log(self, level: str, message: str) -> None:
        """One message of the log; `level` is DEBUG, INFO, WARNING or ERROR."""
        with self._lock:
            clock = time.strftime("%H:%M:%S")
            lines = log_lines(level, message, None if clock == self._clock else clock)
            self._clock = clock
            append_lines(self.folder, lines)
            self._event("log", level=level, message=message)

    def progress(self, description: str, done: int, total: int, **values: float) -> None:
        """`done` of `total` steps of `description`; a full bar becomes a line of the log."""
        with self._lock:
            present = time.monotonic()
            if description != self._description:
                self._close_bar()
                self._description, self._began = description, present
            elif self._bar is None and done >= total:
                return  # said already
            bar = Progress(description, done, total, dict(values), present - self._began)
            self._bar = bar
            if done >= total:
                write_progress(self.folder, bar)
                self._close_bar()
            elif present - self._bar_written >= _BETWEEN_BARS:
                write_progress(self.folder, bar)
                self._bar_written = present

    def metrics(self, metrics: RunMetrics) -> None:
        """The figures so far."""
        with self._lock:
            write_text(self.folder / METRICS_FILE, json.dumps(metrics, indent=2))
            last = {"before": metrics.get("before"), "after": metrics.get("after")}
            epochs = metrics.get("epochs")
            self._event("metrics", **last, epoch=epochs[-1] if epochs else None)

    def examples(self, examples: RunExamples) -> None:
        """Sample results of callbacks that gather them."""
        with self._lock:
            write_text(self.folder / EXAMPLES_FILE, json.dumps(examples, ensure_ascii=False))

    def cancelled(self) -> bool:
        """Whether the run has been asked to stop."""
        return self._cancelled.is_set()

    def close(self) -> None:
        """Leave the bar of an unfinished step in the log as it stands."""
        with self._lock:
            self._close_bar()

    def status(self, status: str, details: str) -> None:
        """Note a change of the run's status among the events."""
        with self._lock:
            self._event("status", status=status, details=details)

    def _close_bar(self) -> None:
        bar, self._bar, self._bar_written = self._bar, None, 0.0
        if bar is not None:
            append_lines(self.folder, [bar.line()])
            self._event(
                "progress",
                description=bar.description,
                done=bar.done,
                total=bar.total,
                values=bar.values,
                seconds=round(bar.elapsed, 3),
            )

    def _event(self, event: str, **values: object) -> None:
        append_event(self.folder, event, **values)


def append_event(folder: Path, event: str, **values: object) -> None:
    """Add one event to `events.jsonl`."""
    line = json.dumps({"time": now(), "event": event, **values}, ensure_ascii=False)
    _append(folder / EVENTS_FILE, [line])


def read_progress(folder: Path) -> Progress | None:
    """The bar of the step under way, or None before the first.

    It is not flushed to the disk at every step, so a power cut may have emptied it: None as well.
    """
    try:
        return Progress(**json.loads((folder / PROGRESS_FILE).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def read_log(folder: Path) -> str:
    """The whole log so far."""
    reader = LogReader(folder)
    return "\n".join([*reader.lines(), *reader.rest()])


class LogReader:
    """Reads each line of a growing log once."""

    def __init__(self, folder: Path) -> None:
        """Read the log in `folder` from its start."""
        self._path = folder / LOG_FILE
        self._offset = 0

    def lines(self) -> list[str]:
        """The whole lines since the last call."""
        data = self._read()
        end = data.rfind(b"\n") + 1
        self._offset += end
        return [_shown(line) for line in data[:end].split(b"\n")[:-1]]

    def rest(self) -> list[str]:
        """What follows the last whole line, when nothing more will come."""
        data = self._read()
        self._offset += len(data)
        return [_shown(line) for line in data.split(b"\n") if line]

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                return file.read()
        except FileNotFoundError:
            return b""


def follow(
    folder: Path, ended: Callable[[], bool], interval: float, *, bars: bool = False
) -> Iterator[str | Progress]:
    """Every line of the log once, in order, as it comes; with `bars` changed bars in between.

    Looks every `interval` seconds, returns after the last line once `ended()`.
    """
    reader = LogReader(folder)
    shown: Progress | None = None
    while True:
        over = ended()  # asked before reading: what was written up to the end is read below
        yield from reader.lines()
        progress = read_progress(folder) if bars else None
        if progress is not None and progress != shown:
            shown = progress
            yield progress
        if over:
            yield from reader.rest()
            return
        wake = time.monotonic() + interval
        while time.monotonic() < wake and not ended():
            time.sleep(min(0.2, interval))


def _shown(line: bytes) -> str:
    """A line as a terminal would leave it: carriage returns begin it anew."""
    return line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-:--:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
