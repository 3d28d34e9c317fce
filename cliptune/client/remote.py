"""`RemoteSession`: the SDK's calls at a train Flow on another machine, and its runs there."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docarray import BaseDoc, DocList

from cliptune.client.inputs import MAX_BATCH_BYTES, plain
from cliptune.client.transport import GrpcTransport
from cliptune.data.pictures.images import image_bytes
from cliptune.data.tables.columns import CsvOptions
from cliptune.data.validation import ANSWER, PAIR, QUERY, Needs
from cliptune.documents import ClipDoc
from cliptune.errors import (
    AlreadyExists,
    BadArtifact,
    BadInput,
    CliptuneError,
    NotReady,
    Unavailable,
)
from cliptune.files import make_folder, open_file
from cliptune.protocol import wire_errors
from cliptune.protocol.documents import Answer, Ask, Chunk, LogItem
from cliptune.runs.logs import Progress
from cliptune.runs.summary import RunSummary
from cliptune.settings import current

log = logging.getLogger("cliptune")
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


@dataclass(frozen=True)
class RemoteExperiment:
    """A group of runs at a train Flow: the calls of `cliptune.Experiment`."""

    name: str
    created: str
    """ISO 8601, UTC."""
    session: RemoteSession = field(repr=False, compare=False)
    """Where it is."""

    def list_runs(self, page: int = 1, size: int = 50) -> list[RemoteRun]:
        """Its runs, newest first."""
        return self.session.list_runs(self.name, page, size)

    def get_run(self, name: str) -> RemoteRun:
        """Its run `name`."""
        return self.session.get_run(name, self.name)

    def delete_run(self, name: str) -> None:
        """Delete its run `name`."""
        self.session.delete_run(name, self.name)

    def delete_runs(self) -> None:
        """Delete all its runs."""
        self.session.delete_runs(self.name)


class RemoteSession:
    """`fit`, `push`, and the calls for runs and experiments, at a train Flow.

    ::

        session = cliptune.connect("grpc://gpu-box:52000")
        run = session.fit(model="builtin", train_data="products.csv", epochs=5)
        for line in run.stream_logs():
            print(line)
        run.save_artifact("artifacts")

    Documents, CSV files and folders given here are read here and sent there; names are data
    sets of the server. All calls raise the classes of `cliptune.errors` that the server raised.
    """

    def __init__(
        self,
        address: str,
        timeout: float = 3600.0,
        api_key: str | None = None,
        ca_file: str | None = None,
    ) -> None:
        """Take the train Flow at `address`, `grpc://host:port` (or `grpcs://`).

        `api_key` and `ca_file` are as `Client`'s.

        Raises:
            BadInput: the address is of another form.
        """
        if not address.startswith(("grpc://", "grpcs://")):
            raise BadInput(f"address {address!r}: expected grpc://host:port of a train Flow")
        self.address = address
        self._transport = GrpcTransport(address, timeout, api_key, ca_file)

    def __repr__(self) -> str:
        """`RemoteSession('grpc://gpu-box:52000')`."""
        return f"RemoteSession({self.address!r})"

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def fit(self, model: str = "builtin", train_data: Any = None, **options: Any) -> RemoteRun:
        """Start a run there; arguments as `cliptune.fit`."""
        if train_data is None:
            raise BadInput("train_data is missing: documents, a path, or a data set's name")
        table = CsvOptions.parse(options.pop("csv_options", None))
        others = table.as_preference()
        given = {name: value for name, value in options.items() if value is not None}
        for name, value in (
            ("train_data", train_data),
            ("eval_data", given.pop("eval_data", None)),
        ):
            if value is not None:
                options_of = table if name == "train_data" else others
                given[name] = self._data(value, options_of, name, PAIR)
        if callbacks := given.get("callbacks"):
            given["callbacks"] = [self._callback(c, others) for c in callbacks]
        for name, value in given.items():
            if isinstance(value, Path):
                given[name] = str(value)
        return RemoteRun(self, self.call("/fit", {"model": str(model), **given}))

    def get_run(self, name: str, experiment_name: str | None = None) -> RemoteRun:
        """The run `name`, as `cliptune.get_run`."""
        arguments = {"action": "get", "name": name, "experiment_name": experiment_name}
        return RemoteRun(self, self.call("/runs", arguments))

    def list_runs(
        self, experiment_name: str | None = None, page: int = 1, size: int = 50
    ) -> list[RemoteRun]:
        """The runs there, as `cliptune.list_runs`."""
        arguments = {"experiment_name": experiment_name, "page": page, "size": size}
        return [RemoteRun(self, found) for found in self.call("/runs", arguments)]

    def delete_run(self, name: str, experiment_name: str | None = None) -> None:
        """Delete a run there, as `cliptune.delete_run`."""
        arguments = {"action": "delete", "name": name, "experiment_name": experiment_name}
        self.call("/runs", arguments)

    def delete_runs(self, experiment_name: str | None = None) -> None:
        """Delete all runs of an experiment there, or all runs, as `cliptune.delete_runs`."""
        self.call("/runs", {"action": "delete_all", "experiment_name": experiment_name})

    def create_experiment(self, name: str = "default") -> RemoteExperiment:
        """Make a group for runs there, as `cliptune.create_experiment`."""
        return self._experiment(self._ask("create", name))

    def get_experiment(self, name: str = "default") -> RemoteExperiment:
        """The experiment `name` there, as `cliptune.get_experiment`."""
        return self._experiment(self._ask("get", name))

    def list_experiments(self) -> list[RemoteExperiment]:
        """All experiments there by name, as `cliptune.list_experiments`."""
        return [self._experiment(found) for found in self._ask("list")]

    def delete_experiment(self, name: str) -> None:
        """Delete an experiment there with all its runs, as `cliptune.delete_experiment`."""
        self._ask("delete", name)

    def delete_experiments(self) -> None:
        """Delete all experiments there with all their runs, as `cliptune.delete_experiments`."""
        self._ask("delete_all")

    def evaluate(
        self,
        model: str,
        query_data: Any,
        index_data: Any = None,
        limit: int = 20,
        csv_options: Any = None,
    ) -> dict[str, float]:
        """The metrics of a model there, or of a run's artifact (`Run.artifact_id`)."""
        data = {"query_data": query_data, "index_data": index_data}
        needs = {
            "query_data": QUERY if index_data is not None else QUERY | ANSWER,
            "index_data": ANSWER,
        }
        named = {
            k: self._data(v, csv_options, k, needs[k]) for k, v in data.items() if v is not None
        }
        return self.call("/evaluate", {"model": model, "limit": limit, **named})

    def push(self, data: Any, name: str, csv_options: Any = None, *, replace: bool = False) -> None:
        """Store documents, a CSV file or a folder of pictures there under `name`.

        Raises:
            AlreadyExists: the name is in use there and `replace` is not given.
        """
        from cliptune.data.source import load_documents

        if not replace and self._is_there(name):
            raise AlreadyExists(f"a data set {name!r} is there already: give replace=True")
        docs = load_documents(data, csv_options=csv_options, role="data")
        sent = DocList[ClipDoc](
            ClipDoc(id=d.id, text=d.text, image=_picture(d), label=d.label, tags=d.tags)
            for d in docs
        )
        self._upload(sent, name, replace=replace)

    def call(self, endpoint: str, arguments: dict[str, Any]) -> Any:
        """Call an endpoint of the Trainer; returns its result."""
        try:
            text = json.dumps({k: plain(v) for k, v in arguments.items() if v is not None})
        except TypeError as error:
            raise BadInput(f"arguments can't be sent: {error}") from None
        docs = DocList[Ask]([Ask(arguments=text)])
        return json.loads(self._transport.post(endpoint, docs, None, Answer)[0].result)

    def stream(
        self, endpoint: str, arguments: dict[str, Any], kind: type[BaseDoc] = LogItem
    ) -> Iterator[Any]:
        """Call a streaming endpoint; yields its documents."""
        given = {k: v for k, v in arguments.items() if v is not None}
        for item in self._transport.stream(endpoint, Ask(arguments=json.dumps(given)), kind):
            if item.error:
                raise wire_errors.from_text(item.error)
            yield item

    def _ask(self, action: str, name: str | None = None) -> Any:
        return self.call("/experiments", {"action": action, "name": name})

    def _experiment(self, found: dict[str, str]) -> RemoteExperiment:
        return RemoteExperiment(found["name"], found["created"], self)

    def _data(self, data: Any, csv_options: Any, role: str, needs: Needs) -> str:
        """The name that the server knows `data` by, after sending what it doesn't have.

        Documents that lack something of `needs` stay here, and are named in the log.
        """
        from cliptune.data.source import read_documents
        from cliptune.data.store import list_pushed

        if isinstance(data, str) and not os.path.exists(data) and data not in list_pushed():
            return data
        read = read_documents(data, csv_options=csv_options, role=role, needs=needs)
        for level, line in read.summary.lines():
            log.log(logging.getLevelName(level), "%s", line)
        digest = hashlib.sha256()
        sent = DocList[ClipDoc]()
        for doc in read.docs:
            picture = _picture(doc)
            for part in (doc.text, doc.label, picture):
                encoded = part if isinstance(part, bytes) else repr(part).encode()
                digest.update(len(encoded).to_bytes(8, "big") + encoded)
            sent.append(
                ClipDoc(id=doc.id, text=doc.text, image=picture, label=doc.label, tags=doc.tags)
            )
        name = f"upload-{digest.hexdigest()[:24]}"
        if not self._is_there(name):
            with suppress(AlreadyExists):  # another client sent the same meanwhile
                self._upload(sent, name)
        return name

    def _is_there(self, name: str) -> bool:
        return self._send(DocList[ClipDoc](), {"name": name})["stored"]

    def _upload(self, docs: DocList[ClipDoc], name: str, *, replace: bool = False) -> None:
        batches = list(_batches(docs))
        # Parts of one upload never meet those of another of the same name.
        upload = {"name": name, "upload": uuid.uuid4().hex, "parts": len(batches)}
        for part, batch in enumerate(batches):
            self._send(batch, {**upload, "part": part, "replace": replace})

    def _send(self, docs: DocList[ClipDoc], parameters: dict[str, Any]) -> Any:
        return json.loads(self._transport.post("/data", docs, parameters, Answer)[0].result)

    def _callback(self, callback: Any, csv_options: Any) -> Any:
        if isinstance(callback, str):
            return callback
        values = dict(callback) if isinstance(callback, Mapping) else dict(callback.__dict__)
        for name, value in values.items():
            if name.endswith("_data") and value is not None:
                values[name] = self._data(value, csv_options, name, _needs(values, name))
        return values


def _needs(callback: Mapping[str, Any], name: str) -> Needs:
    """What the documents of a callback's data must have."""
    from cliptune.training.callbacks import parse_callback

    return parse_callback(dict(callback)).needs(name)


def _picture(doc: ClipDoc) -> bytes | None:
    if doc.image is None and not doc.uri:
        return None
    try:
        return image_bytes(doc, allow_files=True)
    except CliptuneError:
        return b""  # the run counts it among the pictures that can't be read


def _batches(docs: DocList[ClipDoc]) -> Iterator[DocList[ClipDoc]]:
    batch, size = DocList[ClipDoc](), 0
    for doc in docs:
        weight = len(doc.image or b"")
        if batch and (len(batch) == current().max_docs or size + weight > MAX_BATCH_BYTES):
            yield batch
            batch, size = DocList[ClipDoc](), 0
        batch.append(doc)
        size += weight
    if batch:
        yield batch
