"""What `/status` of a search Flow tells: of each executor, and of the Flow as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from cliptune.errors import Unavailable
from cliptune.protocol.documents import Report
from cliptune.version import __version__


class _Status(BaseModel):
    """These fields and no others, where it is told and where it is read.

    Fields whose default is None are left out where they are None. What a newer server tells
    besides is left out where it is read.
    """

    model_config = ConfigDict(frozen=True)

    @model_serializer(mode="wrap")
    def _without_absent(self, dump: SerializerFunctionWrapHandler) -> dict[str, JsonValue]:
        told: dict[str, JsonValue] = dump(self)
        absent = self._optional() & {name for name, value in told.items() if value is None}
        return {name: value for name, value in told.items() if name not in absent}

    @classmethod
    def _optional(cls) -> set[str]:
        return {name for name, field in cls.model_fields.items() if field.default is None}


class _ExecutorStatus(_Status):
    """What one executor tells of itself."""

    def report(self, source: str) -> Report:
        """As it travels."""
        return Report(source=source, values=self.model_dump())


class TowerStatus(_ExecutorStatus):
    """Which model an encoder serves, and how."""

    model_digest: str
    output_dim: int
    lengths: list[int] = Field(default_factory=list)
    """To which embeddings may be cut at `/encode`: those that the model was trained for."""
    artifact: str
    """To the operator its path, to others its name."""
    place: str | None = None
    """The note of its path, for commands on the same machine."""
    engine: str | None = None
    """What runs it: `torch`, `onnx` or `openvino`; None: a server from before this was told."""
    chosen: bool | None = None
    """Whether that is because it was the quickest (`engine='auto'`)."""
    onnx: bool
    """Whether `engine` is `onnx`, for clients from before."""
    precision: str
    loaded: list[str]
    """The digests of all models that it has loaded."""
    not_loaded: dict[str, str] | None = None
    """The digests of those that it can't load, and why."""
    truncated_texts: int | None = None
    """Texts so far that were longer than the model reads; of the text encoder."""
    calibrated: bool | None = None
    """Whether `min_relevance` may be asked for; of the text encoder."""
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


class IndexStatus(_ExecutorStatus):
    """`index.IndexStatus` of the current generation, the generations, and where all of it is."""

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
    words: bool | None = None
    """Whether the words of a query can count (`hybrid`)."""
    place: str
    """The note of these places, for commands on the same machine."""
    index_uri: str | None = None
    """Of the index as a whole; `uri` is the current generation's."""
    generations_folder: str | None = None
    """Where the generations' pointer is, if there are any."""
    generations: dict[str, GenerationStatus] | None = None
    """By slot: `current`, `previous`, `next`."""
    swap: SwapStatus | None = None


class FlowStatus(BaseModel):
    """A search Flow as a whole; a part is None where the Flow has no such executor."""

    version: str
    model: TowerStatus | None
    """The text encoder's."""
    vision: TowerStatus | None
    index: IndexStatus | None
    searchable: bool
    """Whether the text encoder's model is one that the index has embeddings of."""
    documents: int

    @classmethod
    def of(cls, reports: Iterable[Report]) -> Self:
        """From what the executors report.

        Raises:
            Unavailable: two report under one name, or one reports what can't be understood.
        """
        values = by_source(reports)
        try:
            text, vision = (
                TowerStatus.model_validate(values[source]) if source in values else None
                for source in ("text", "vision")
            )
            index = IndexStatus.model_validate(values["indexer"]) if "indexer" in values else None
        except ValidationError as error:
            raise Unavailable(f"an executor's status can't be read: {error}") from None
        stamped = index.model_digest if index else None
        generations = (index.generations if index else None) or {}
        # Of the current one the index itself says it: it may have been cleared and filled anew.
        others = (one for slot, one in generations.items() if slot != "current")
        known = {stamped, *(one.model_digest for one in others)}
        return cls(
            version=__version__,
            model=text,
            vision=vision,
            index=index,
            searchable=stamped is None or (text is not None and text.model_digest in known),
            documents=index.rows if index else 0,
        )

    def to_json(self) -> dict[str, object]:
        """As HTTP answers, and `Client.status` returns; a part that there isn't is empty."""
        return {name: {} if value is None else value for name, value in self.model_dump().items()}


def by_source(reports: Iterable[Report]) -> dict[str, dict[str, object]]:
    """What each executor reports.

    Raises:
        Unavailable: two report under one name, so that one would hide the other.
    """
    values: dict[str, dict[str, object]] = {}
    for report in reports:
        if report.source in values:
            raise Unavailable(
                f"two executors answered as {report.source!r}: each must have a name of its own, "
                "and an index is not spread over several"
            )
        values[report.source] = report.values
    return values
