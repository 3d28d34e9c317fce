"""The lines of a log of searches: JSON, one object each, of two kinds.

`docs/search-log.md` tells people of them. Whoever reads them leaves out fields that they don't
know: new ones may come. What an old field means changes only with `FORMAT`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from cliptune.errors import BadData

FORMAT: Final = 1
MAX_TEXT = 1000
"""Characters that are kept of a query; a tower reads 77 tokens."""
SEARCH_ID: Final = "^[0-9a-f]{32}$"
"""What the id of a search looks like: 128 random bits, which nobody guesses."""

Event = Literal["click", "cart", "purchase"]
"""What somebody did with a document that a search had shown, the least first."""
EVENTS: tuple[Event, ...] = get_args(Event)
GRADE: dict[str, int] = {event: grade for grade, event in enumerate(EVENTS, 1)}
"""How well an event says that a document suits: 1 to 3; 0 is what was passed over."""


class _Line(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Asked(_Line):
    """A query, or a part of one: a text, a stored document, a picture of which nothing is kept."""

    text: str | None = Field(None, description="As it was typed, up to 1,000 characters.")
    picture: Literal[True] | None = Field(
        None, description="It was a picture: neither its bytes nor a digest nor its URI are kept."
    )
    like: str | None = Field(None, description="The id of a stored document.")
    weight: float | None = Field(None, description="Of a part: what it counts.")


class Shown(_Line):
    """A document of an answer."""

    rank: int = Field(ge=1, description="From 1; what `offset` left out counts.")
    id: str = Field(description="The document's.")
    score: float = Field(description="As the answer had it.")
    relevance: float | None = Field(None, description="Likewise, where the model is calibrated.")


class Search(_Line):
    """A search, and what it showed."""

    format: int = Field(FORMAT, description="Of the line.")
    kind: Literal["search"] = "search"
    id: str = Field(description="The search's: made by chance for it, `search_id` of its answer.")
    at: datetime = Field(description="When it was answered, UTC.")
    model: str = Field(description="The digest of the model that embedded the query.")
    query: list[Asked] = Field(description="Its parts.")
    parameters: dict[str, JsonValue] = Field(
        description="Those of `/search` that aren't as by default: filter, limit, offset, …"
    )
    shown: list[Shown] = Field(description="What the answer had, best first; maybe nothing.")


class Feedback(_Line):
    """What somebody did with documents of a search."""

    format: int = Field(FORMAT, description="Of the line.")
    kind: Literal["feedback"] = "feedback"
    search: str = Field(description="The search's id.")
    at: datetime = Field(description="When it was reported, UTC.")
    event: Event = Field(description="What was done.")
    ids: list[str] = Field(description="The documents.")


Record = Search | Feedback
_records: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


class _Format(_Line):
    format: int


def to_line(record: Record) -> bytes:
    """A record as a line, with its end."""
    return record.model_dump_json(exclude_none=True).encode() + b"\n"


def from_line(line: bytes) -> Record | None:
    """The record of a line; None: it is damaged, such as one that a crash has cut off.

    Raises:
        BadData: a newer version has written it.
    """
    try:
        version = _Format.model_validate_json(line).format
        if version > FORMAT:
            raise BadData(
                f"format {version} is newer than this cliptune reads ({FORMAT}): use the cliptune "
                "that has written it"
            )
        return _records.validate_json(line)
    except ValidationError:
        return None
