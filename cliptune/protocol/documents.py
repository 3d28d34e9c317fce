"""The documents that travel between a gateway and its executors, besides those of `documents`."""

from docarray import BaseDoc
from pydantic import Field


class Report(BaseDoc):
    """What one executor did or is: the answer of endpoints that have no documents to give."""

    source: str = Field("", description="The executor: `text`, `vision`, `indexer`, …")
    values: dict[str, object] = Field(default_factory=dict, description="What it reports.")


class TrainRequest(BaseDoc):
    """A call of the SDK at the Trainer."""

    arguments: str = Field("{}", description="JSON: the call's arguments by name.")


class TrainResult(BaseDoc):
    """What a call at the Trainer returned."""

    result: str = Field("null", description="JSON.")


class LogItem(BaseDoc):
    """A line of a run's log, or a bar in between."""

    line: str | None = Field(None, description="A line, or the whole log.")
    progress: str | None = Field(None, description="JSON: the fields of `Progress`.")
    error: str | None = Field(None, description="Why nothing more comes: `wire_errors.to_text`.")


class FileChunk(BaseDoc):
    """A part of a file."""

    data: bytes | None = None
    size: int = Field(0, description="Bytes of the whole file.")
    sha256: str | None = Field(None, description="Of the whole file, with the last part.")
    error: str | None = Field(None, description="Why nothing more comes: `wire_errors.to_text`.")
