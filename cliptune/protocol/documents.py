"""The documents that travel to and from the Trainer."""

from docarray import BaseDoc
from pydantic import Field


class Ask(BaseDoc):
    """A call of the SDK."""

    arguments: str = Field("{}", description="JSON: the call's arguments by name.")


class Answer(BaseDoc):
    """What a call returned."""

    result: str = Field("null", description="JSON.")


class LogItem(BaseDoc):
    """A line of a run's log, or a bar in between."""

    line: str | None = Field(None, description="A line, or the whole log.")
    progress: str | None = Field(None, description="JSON: the fields of `Progress`.")
    error: str | None = Field(None, description="Why nothing more comes.")


class Chunk(BaseDoc):
    """A part of a file."""

    data: bytes | None = None
    size: int = Field(0, description="Bytes of the whole file.")
    sha256: str | None = Field(None, description="Of the whole file, with the last part.")
    error: str | None = Field(None, description="Why nothing more comes.")
