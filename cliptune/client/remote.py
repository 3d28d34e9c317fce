"""`RemoteSession`: the SDK's calls at a train Flow on another machine, and its runs there."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from docarray import DocList
from typing_extensions import override

from cliptune.client.data_sets import DataSets
from cliptune.client.grpc_transport import GrpcTransport
from cliptune.client.inputs import plain
from cliptune.data.tables.options import CsvOptions
from cliptune.data.validation import ANSWER, PAIR, QUERY, Needs
from cliptune.errors import (
    BadArtifact,
    BadInput,
    Unavailable,
)
from cliptune.files import make_folder, open_file
from cliptune.protocol import endpoints, wire_errors
from cliptune.protocol.documents import FileChunk, LogItem, TrainRequest, TrainResult
from cliptune.runs.logs import Progress
from cliptune.runs.record import RunConfig, Status
from cliptune.runs.session import AnyRun, Experiment, Session
from cliptune.runs.summary import RunSummary
from cliptune.settings import MAX_DOCS

if TYPE_CHECKING:
    from cliptune.models.artifact import Epoch
    from cliptune.training.run_logger import RunExamples

log = logging.getLogger("cliptune")
S = TypeVar("S", LogItem, FileChunk)
PATIENCE = 120.0
"""Seconds that a followed log waits for a server that answered before."""


class _Described(TypedDict):
    """What the server says of a run."""

    name: str
    experiment_name: str
    description: str | None
    config: RunConfig
    history: list[Epoch]
    summary: dict[str, Any]
    progress: dict[str, Any] | None
    status: str
    details: str


class RemoteRun(AnyRun):
    """A run at a train Flow."""

    poll = 0.5

    def __init__(self, session: RemoteSession, described: _Described) -> None:
        """Take what the server said of it."""
        self._session = session
        self._begun = described
        self.name, self.experiment_name = described["name"], described["experiment_name"]

    def __repr__(self) -> str:
        """`RemoteRun('brave-otter-3f2a' at grpc://…)`."""
        return f"RemoteRun({self.name!r} at {self._session.address})"

    @property
    @override
    def config(self) -> RunConfig:
        return self._begun["config"]

    @property
    @override
    def description(self) -> str | None:
        return self._begun["description"]

    @override
    def status(self) -> dict[str, str]:
        described = self._described()
        return {"status": described["status"], "details": described["details"]}

    @override
    def progress(self) -> Progress | None:
        progress = self._described()["progress"]
        return Progress(**progress) if progress else None

    @override
    def history(self) -> list[Epoch]:
        return self._described()["history"]

    @override
    def summary(self) -> RunSummary:
        return RunSummary(**self._described()["summary"])

    @override
    def logs(self) -> str:
        return "\n".join(item.line or "" for item in self._session.stream(endpoints.LOGS, self._id))

    @override
    def follow(self, interval: float = 1, *, bars: bool = True) -> Iterator[str | Progress]:
        arguments = {**self._id, "follow": True, "interval": interval, "bars": bars}
        seen, answered = 0, 0.0
        while True:
            try:
                for item in self._session.stream(endpoints.LOGS, {**arguments, "start": seen}):
                    answered = time.monotonic()
                    if item.progress:
                        yield Progress(**json.loads(item.progress))
                    else:
                        seen += 1
                        yield item.line or ""
                # A server that is stopped in order ends its streams as a finished run does.
                if Status(self.status()["status"]).ended:
                    return
                answered = time.monotonic()
            except Unavailable:
                if time.monotonic() - answered > PATIENCE or not answered:
                    raise
            time.sleep(1)

    @override
    def metrics(self) -> dict[str, dict[str, float]]:
        metrics: dict[str, dict[str, float]] = self._session.call(endpoints.METRICS, self._id)
        return metrics

    @override
    def evaluations(self) -> dict[str, dict[str, int]]:
        arguments = {**self._id, "evaluations": True}
        evaluations: dict[str, dict[str, int]] = self._session.call(endpoints.METRICS, arguments)
        return evaluations

    @override
    def example_results(self) -> RunExamples:
        examples: RunExamples = self._session.call(
            endpoints.METRICS, {**self._id, "examples": True}
        )
        return examples

    @override
    def save_artifact(self, directory: str | Path = "artifacts") -> Path:
        path = Path(directory) / f"{self.name}.zip"
        make_folder(path.parent)
        beside = path.with_name(f".{path.name}.{os.getpid()}.part")
        digest, expected = hashlib.sha256(), None
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            with os.fdopen(open_file(beside, flags), "wb") as file:
                for chunk in self._session.stream(endpoints.ARTIFACT, self._id):
                    file.write(chunk.data or b"")
                    digest.update(chunk.data or b"")
                    expected = chunk.sha256
            if expected != digest.hexdigest():
                raise BadArtifact(f"the artifact of run {self.name!r} did not arrive whole")
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        return path

    @override
    def cancel(self) -> dict[str, str]:
        status: dict[str, str] = self._session.call(endpoints.CANCEL, self._id)
        return status

    @override
    def resume(self) -> RemoteRun:
        self._session.call(endpoints.RUNS, {"action": "resume", **self._id})
        return self

    @property
    def _id(self) -> dict[str, str]:
        return {"name": self.name, "experiment_name": self.experiment_name}

    def _described(self) -> _Described:
        described: _Described = self._session.call(endpoints.RUN_STATUS, self._id)
        return described


class RemoteSession(Session):
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
        *,
        max_docs: int = MAX_DOCS,
    ) -> None:
        """Take the train Flow at `address`, `grpc://host:port` (or `grpcs://`).

        `api_key`, `ca_file` and `max_docs` are as `Client`'s.

        Raises:
            BadInput: the address is of another form.
        """
        if not address.startswith(("grpc://", "grpcs://")):
            raise BadInput(f"address {address!r}: expected grpc://host:port of a train Flow")
        self.address = address
        self._transport = GrpcTransport(address, timeout, api_key, ca_file)
        self._data_sets = DataSets(self._transport, max_docs)

    def __repr__(self) -> str:
        """`RemoteSession('grpc://gpu-box:52000')`."""
        return f"RemoteSession({self.address!r})"

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    @override
    def fit(self, model: str = "builtin", train_data: object = None, **options: Any) -> RemoteRun:
        if train_data is None:
            raise BadInput("train_data is missing: documents, a path, or a data set's name")
        table = CsvOptions.parse(options.pop("csv_options", None))
        others = table.as_preference()
        given = {name: value for name, value in options.items() if value is not None}
        given["train_data"] = train_data
        for name, value in given.items():
            if name.endswith("_data"):
                options_of = table if name == "train_data" else others
                given[name] = self._data_sets.name_of(value, options_of, name, PAIR)
        if callbacks := given.get("callbacks"):
            given["callbacks"] = [self._callback(c, others) for c in callbacks]
        for name, value in given.items():
            if isinstance(value, Path):
                given[name] = str(value)
        return RemoteRun(self, self.call(endpoints.FIT, {"model": str(model), **given}))

    @override
    def get_run(self, name: str, experiment_name: str | None = None) -> RemoteRun:
        arguments = {"action": "get", "name": name, "experiment_name": experiment_name}
        return RemoteRun(self, self.call(endpoints.RUNS, arguments))

    @override
    def list_runs(
        self, experiment_name: str | None = None, page: int = 1, size: int = 50
    ) -> list[RemoteRun]:
        arguments = {"experiment_name": experiment_name, "page": page, "size": size}
        return [RemoteRun(self, described) for described in self.call(endpoints.RUNS, arguments)]

    @override
    def delete_run(self, name: str, experiment_name: str | None = None) -> None:
        arguments = {"action": "delete", "name": name, "experiment_name": experiment_name}
        self.call(endpoints.RUNS, arguments)

    @override
    def delete_runs(self, experiment_name: str | None = None) -> None:
        self.call(endpoints.RUNS, {"action": "delete_all", "experiment_name": experiment_name})

    @override
    def create_experiment(self, name: str = "default") -> Experiment:
        return self._experiment(self._ask("create", name))

    @override
    def get_experiment(self, name: str = "default") -> Experiment:
        return self._experiment(self._ask("get", name))

    @override
    def list_experiments(self) -> list[Experiment]:
        return [self._experiment(kept) for kept in self._ask("list")]

    @override
    def delete_experiment(self, name: str) -> None:
        self._ask("delete", name)

    @override
    def delete_experiments(self) -> None:
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
            k: self._data_sets.name_of(v, csv_options, k, needs[k])
            for k, v in data.items()
            if v is not None
        }
        arguments = {"model": model, "limit": limit, **named}
        metrics: dict[str, float] = self.call(endpoints.EVALUATE, arguments)
        return metrics

    def push(self, data: Any, name: str, csv_options: Any = None, *, replace: bool = False) -> None:
        """Store documents, a CSV file or a folder of pictures there under `name`.

        Raises:
            AlreadyExists: the name is in use there and `replace` is not given.
        """
        self._data_sets.push(data, name, csv_options, replace=replace)

    def call(
        self, endpoint: endpoints.Endpoint[TrainResult], arguments: Mapping[str, object]
    ) -> Any:
        """Call an endpoint of the Trainer; returns its result."""
        try:
            text = json.dumps({k: plain(v) for k, v in arguments.items() if v is not None})
        except TypeError as error:
            raise BadInput(f"arguments can't be sent: {error}") from None
        docs = DocList[TrainRequest]([TrainRequest(arguments=text)])
        return json.loads(self._transport.post(endpoint, docs)[0].result)

    def stream(
        self, endpoint: endpoints.Endpoint[S], arguments: Mapping[str, object]
    ) -> Iterator[S]:
        """Call a streaming endpoint; yields its documents."""
        given = {k: v for k, v in arguments.items() if v is not None}
        for item in self._transport.stream(endpoint, TrainRequest(arguments=json.dumps(given))):
            if item.error:
                raise wire_errors.from_text(item.error)
            yield item

    def _ask(self, action: str, name: str | None = None) -> Any:
        return self.call(endpoints.EXPERIMENTS, {"action": action, "name": name})

    def _experiment(self, kept: dict[str, str]) -> Experiment:
        return Experiment(kept["name"], kept["created"], self)

    def _callback(self, callback: Any, csv_options: Any) -> Any:
        if isinstance(callback, str):
            return callback
        values = dict(callback) if isinstance(callback, Mapping) else dict(callback.__dict__)
        for name, value in values.items():
            if name.endswith("_data") and value is not None:
                values[name] = self._data_sets.name_of(
                    value, csv_options, name, _needs(values, name)
                )
        return values


def _needs(callback: Mapping[str, Any], name: str) -> Needs:
    """What the documents of a callback's data must have."""
    from cliptune.training.callbacks import parse_callback

    return parse_callback(dict(callback)).needs(name)
