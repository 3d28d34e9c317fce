"""`Report` and `Chunk`: what endpoints answer that have no documents to answer with."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from docarray import BaseDoc
from pydantic import BaseModel, ConfigDict, Field

from cliptune.errors import Unavailable
from cliptune.version import __version__


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


class _Status(BaseModel):
    """What an executor reports of itself: these fields and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    _left_out: ClassVar[tuple[str, ...]] = ()
    """Fields that are left out where they are None."""

    def report(self, source: str) -> Report:
        """As it travels."""
        absent = {name for name in self._left_out if getattr(self, name) is None}
        return Report(source=source, values=self.model_dump(exclude=absent))


class TowerStatus(_Status):
    """Which model an encoder serves, and how."""

    _left_out = ("not_loaded", "truncated_texts", "cache_hits", "place")

    model_digest: str
    output_dim: int
    artifact: str
    """To the operator its path, to others its name."""
    place: str | None = None
    """The note of its path, for commands on the same machine."""
    onnx: bool
    precision: str
    loaded: list[str]
    """The digests of all models that it has loaded."""
    not_loaded: dict[str, str] | None = None
    """The digests of those that it can't load, and why."""
    truncated_texts: int | None = None
    """Texts so far that were longer than the model reads; of the text encoder."""
    cache_hits: int | None = None
    """Texts so far that were embedded before; of the text encoder."""


class GenerationStatus(BaseModel):
    """One model of a swapped index."""

    number: int
    model_digest: str
    name: str | None = None
    """What people call the model: its artifact's, run's or own name; None: not noted."""
    created: str | None = None
    """When its artifact was written, ISO 8601."""
    documents: int
    complete: bool
    """Whether its index has all documents, or had when another became current."""


class SwapStatus(BaseModel):
    """How far a swap is."""

    phase: str
    done: int
    total: int


class IndexReport(_Status):
    """`index.IndexStatus` of the current generation, the generations, and where all of it is."""

    _left_out = ("generations", "swap", "uri", "index_uri", "generations_folder")

    rows: int
    dim: int | None
    model_digest: str | None
    state: Literal["flat", "building", "ready"]
    unindexed_rows: int
    optimize_due: bool
    uri: str | None = None
    """As all places, for the operator alone."""
    store: str
    storage: str
    place: str
    """The note of these places, for commands on the same machine."""
    index_uri: str | None = None
    """Of the index as a whole; `uri` is the current generation's."""
    generations_folder: str | None = None
    """Where the generations' pointer is, if there are any."""
    generations: dict[str, GenerationStatus] | None = None
    """By slot: `current`, `previous`, `next`."""
    swap: SwapStatus | None = None


def by_source(reports: Iterable[Report]) -> dict[str, dict[str, Any]]:
    """What each executor reports.

    Raises:
        Unavailable: two report under one name, so that one would hide the other.
    """
    found: dict[str, dict[str, Any]] = {}
    for report in reports:
        if report.source in found:
            raise Unavailable(
                f"two executors answered as {report.source!r}: each must have a name of its own, "
                "and an index is not spread over several"
            )
        found[report.source] = report.values
    return found


def status_of(reports: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The status of a search Flow from its executors' reports."""
    text, index = reports.get("text", {}), reports.get("indexer", {})
    digest, stamped = text.get("model_digest"), index.get("model_digest")
    generations = index.get("generations", {})
    known = {stamped, *(one["model_digest"] for one in generations.values())}
    return {
        "version": __version__,
        "model": text,
        "vision": reports.get("vision", {}),
        "index": index,
        "searchable": stamped is None or digest in known,
        "documents": index.get("rows", 0),
    }
