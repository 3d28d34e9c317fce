"""`RemoteRun`: a run at a train Flow on another machine."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliptune.errors import BadArtifact, NotReady, Unavailable
from cliptune.files import make_folder, open_file
from cliptune.protocol.documents import Chunk, LogItem
from cliptune.runs.logs import Progress
from cliptune.runs.summary import RunSummary

if TYPE_CHECKING:
    from cliptune.client.remote import RemoteSession

ENDED = ("FINISHED", "FAILED", "CANCELLED")
PATIENCE = 120.0
"""Seconds that a followed log waits for a server that answered before."""


class RemoteRun:
    """A run at a train Flow: the calls of `cliptune.Run`."""

    def __init__(self, session: RemoteSession, described: dict[str, Any]) -> None:
        """Take what the server said of it."""
        self._session = session
        self.name: str = described["name"]
        self.experiment_name: str = described["experiment_name"]
        self.config: dict[str, Any] = described["config"]
        self.description: str | None = described["description"]

    def __repr__(self) -> str:
        """`RemoteRun('brave-otter-3f2a' at grpc://…)`."""
        return f"RemoteRun({self.name!r} at {self._session.address})"

    @property
    def artifact_id(self) -> str:
        """What the server's `fit(model_artifact=…)` finds the tuned model by."""
        return f"{self.experiment_name}/{self.name}"

    def status(self) -> dict[str, str]:
        """As `Run.status`."""
        found = self._described()
        return {"status": found["status"], "details": found["details"]}

    def progress(self) -> Progress | None:
        """As `Run.progress`."""
        found = self._described()["progress"]
        return Progress(**found) if found else None

    def history(self) -> list[dict[str, Any]]:
        """As `Run.history`."""
        return self._described()["history"]

    def summary(self) -> RunSummary:
        """As `Run.summary`."""
        return RunSummary(**self._described()["summary"])

    def logs(self) -> str:
        """As `Run.logs`."""
        return "\n".join(item.line for item in self._session.stream("/logs", self._id, LogItem))

    def stream_logs(self, interval: float = 5) -> Iterator[str]:
        """As `Run.stream_logs`: each line once, as it comes, until the run ends."""
        return (str(item) for item in self.follow(interval, bars=False))

    def follow(self, interval: float = 1, *, bars: bool = True) -> Iterator[str | Progress]:
        """As `Run.follow`: lines, and live progress in between.

        When the connection breaks, or the server is started anew, it goes on where it was.

        Raises:
            Unavailable: the server can't be reached, or not again within `PATIENCE` seconds.
        """
        arguments = {**self._id, "follow": True, "interval": interval, "bars": bars}
        seen, answered = 0, 0.0
        while True:
            try:
                for item in self._session.stream("/logs", {**arguments, "start": seen}, LogItem):
                    answered = time.monotonic()
                    if item.progress:
                        yield Progress(**json.loads(item.progress))
                    else:
                        seen += 1
                        yield item.line or ""
                # A server that is stopped in order ends its streams as a finished run does.
                if self.status()["status"] in ENDED:
                    return
                answered = time.monotonic()
            except Unavailable:
                if time.monotonic() - answered > PATIENCE or not answered:
                    raise
            time.sleep(1)

    def metrics(self) -> dict[str, dict[str, float]]:
        """As `Run.metrics`."""
        return self._session.call("/metrics", self._id)

    def evaluations(self) -> dict[str, dict[str, int]]:
        """As `Run.evaluations`."""
        return self._session.call("/metrics", {**self._id, "evaluations": True})

    def example_results(self) -> dict[str, Any]:
        """As `Run.example_results`."""
        return self._session.call("/metrics", {**self._id, "examples": True})

    def display_metrics(self) -> None:
        """As `Run.display_metrics`."""
        from rich.console import Console

        from cliptune.evaluation.tables import before_after_table, counted_lines

        metrics = self.metrics()
        if not metrics["after"]:
            raise NotReady(f"run {self.name!r} has no metrics: give it an EvaluationCallback")
        Console().print(before_after_table(metrics["before"], metrics["after"], title=self.name))
        for line in counted_lines(self.evaluations()):
            Console().print(line, highlight=False)

    def display_examples(self, k: int = 5) -> None:
        """The tables of `Run.display_examples`; the pictures are at the server."""
        from rich.console import Console

        from cliptune.runs.display import example_tables

        for table in example_tables(self.example_results(), k):
            Console().print(table)

    def save_artifact(self, directory: str | Path = "artifacts") -> Path:
        """Fetch the tuned model as `directory/<run name>.zip`; returns that path.

        Raises:
            NotReady: the run has not finished.
            RunFailed: it failed.
            BadArtifact: it did not arrive whole.
        """
        path = Path(directory) / f"{self.name}.zip"
        make_folder(path.parent)
        beside = path.with_name(f".{path.name}.{os.getpid()}.part")
        digest, expected = hashlib.sha256(), None
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            with os.fdopen(open_file(beside, flags), "wb") as file:
                for chunk in self._session.stream("/artifact", self._id, Chunk):
                    file.write(chunk.data or b"")
                    digest.update(chunk.data or b"")
                    expected = chunk.sha256
            if expected != digest.hexdigest():
                raise BadArtifact(f"the artifact of run {self.name!r} did not arrive whole")
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        return path

    def wait(self, timeout: float | None = None) -> dict[str, str]:
        """As `Run.wait`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.status())["status"] not in ENDED:
            if deadline is not None and time.monotonic() > deadline:
                raise NotReady(f"run {self.name!r} has not ended after {timeout:g} s")
            time.sleep(0.5)
        return status

    def cancel(self) -> dict[str, str]:
        """As `Run.cancel`."""
        return self._session.call("/cancel", self._id)

    def resume(self) -> RemoteRun:
        """As `Run.resume`."""
        self._session.call("/runs", {"action": "resume", **self._id})
        return self

    @property
    def _id(self) -> dict[str, Any]:
        return {"name": self.name, "experiment_name": self.experiment_name}

    def _described(self) -> dict[str, Any]:
        return self._session.call("/status", self._id)
