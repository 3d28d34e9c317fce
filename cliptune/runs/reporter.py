"""What the run's process writes while it works: log, events, progress, metrics."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from cliptune.files import open_file, write_text
from cliptune.runs.logs import Progress, append_lines, log_lines, write_progress
from cliptune.runs.record import now

EVENTS_FILE = "events.jsonl"
METRICS_FILE = "metrics.json"
EXAMPLES_FILE = "examples.json"
_BETWEEN_BARS = 0.2


class RunReporter:
    """A `cliptune.training.run_logger.Reporter` that writes into the run's folder."""

    def __init__(self, folder: Path, cancelled: threading.Event | None = None) -> None:
        """Write into `folder`; the run is to stop when `cancelled` is set."""
        self.folder = folder
        self._cancelled = cancelled or threading.Event()
        self._lock = threading.Lock()  # decoding threads report too
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

    def metrics(self, metrics: dict[str, Any]) -> None:
        """The metrics so far: {'before': {...}, 'after': {...}, 'epochs': [...]}."""
        with self._lock:
            write_text(self.folder / METRICS_FILE, json.dumps(metrics, indent=2))
            epochs = metrics.get("epochs") or [None]
            last = {"before": metrics.get("before"), "after": metrics.get("after")}
            self._event("metrics", **last, epoch=epochs[-1])

    def examples(self, examples: dict[str, Any]) -> None:
        """Sample results {'before': ..., 'after': ...}."""
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

    def _event(self, event: str, **values: Any) -> None:
        append_event(self.folder, event, **values)


def append_event(folder: Path, event: str, **values: Any) -> None:
    """Add one event to `events.jsonl`."""
    line = json.dumps({"time": now(), "event": event, **values}, ensure_ascii=False)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    with os.fdopen(open_file(folder / EVENTS_FILE, flags), "a", encoding="utf-8") as file:
        file.write(line + "\n")
