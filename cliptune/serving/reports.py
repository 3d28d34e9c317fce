"""`Report` and `Chunk`: what endpoints answer that have no documents to answer with."""

from typing import Any

from docarray import BaseDoc
from pydantic import Field


class Report(BaseDoc):
    """What one executor did or is."""

    source: str = Field("", description="The executor: `text`, `vision`, `indexer`, …")
    values: dict[str, Any] = Field(default_factory=dict, description="What it reports.")


class Chunk(BaseDoc):
    """One piece of a stream: a line of a log, or some bytes of a file."""

    number: int = Field(0, description="The number of this piece, from 0.")
    total: int = Field(0, description="Bytes of the whole file; 0 for lines.")
    text: str = Field("", description="A line, without its end.")
    data: bytes = Field(b"", description="Bytes of a file.")
    error: str = Field("", description="Why there is no more, as `wire.to_text` has it.")
