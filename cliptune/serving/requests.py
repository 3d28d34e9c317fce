"""What a request may hold: limits, and the parameters of each endpoint, checked in one place."""

from typing import Any, Literal, TypeVar

from docarray import DocList
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cliptune.documents import ClipDoc
from cliptune.errors import BadInput
from cliptune.limits import limit

MAX_DOCS = limit("CLIPTUNE_MAX_DOCS", 256)
"""Documents in one request."""
MAX_TEXT = limit("CLIPTUNE_MAX_TEXT", 100_000)
"""Characters of one text: the tower reads its first 77 tokens anyway."""
MAX_BODY = limit("CLIPTUNE_MAX_BODY", 64 * 1024 * 1024)
"""Bytes of one request."""


MAX_DEPTH = 16
"""Levels of lists and objects in tags and parameters: protobuf reads about 30."""


class TooLarge(BadInput):
    """A request exceeds a limit; the message names the limit."""

    http_status = 413


class Parameters(BaseModel):
    """Parameters of an endpoint; unknown ones are errors, since they would have no effect."""

    model_config = ConfigDict(extra="forbid")


class NoParameters(Parameters):
    """For endpoints without parameters."""


class IndexParameters(Parameters):
    """Parameters of `/index` and `/index_texts`."""

    include_embedding: bool = Field(False, description="Return the embeddings too.")


class SearchParameters(Parameters):
    """Parameters of `/search`."""

    limit: int = Field(10, ge=1, le=1000, description="At most so many matches a query.")
    offset: int = Field(0, ge=0, le=9000, description="How many of the best to leave out.")
    filter: str | dict[str, Any] | None = Field(
        None, description="Over tags, such as `price < 30 and brand == 'Nordvik'`."
    )
    score_threshold: float | None = Field(
        None, ge=-1, le=1, description="Only matches of at least this cosine similarity."
    )
    include_total: bool = Field(
        False, description="Say how many documents the filter leaves, as `total` of each result."
    )
    exact: bool = Field(False, description="Compare with every document, without the ANN index.")
    model: Literal["current", "previous", "next"] | None = Field(
        None, description="Of a swap: the model served (default), that before, or that prepared."
    )


class DeleteParameters(Parameters):
    """Parameters of `/delete`: which documents to delete."""

    ids: list[str] | None = Field(None, max_length=10_000, description="Those with these ids.")
    filter: str | dict[str, Any] | None = Field(None, description="Those that a filter holds for.")
    dry_run: bool = Field(False, description="Only tell how many there are: `matched`.")


class IdsParameters(Parameters):
    """Parameters of `/ids`: a page of the ids of stored documents."""

    after: str | None = Field(
        None, max_length=512, description="Those after this one; without: from the first on."
    )
    limit: int = Field(1000, ge=1, le=10_000, description="At most so many.")


class GetParameters(Parameters):
    """Parameters of `/get`."""

    include_image: bool = Field(False, description="Return the stored pictures too.")
    include_embedding: bool = Field(False, description="Return the embeddings too.")


class PartParameters(Parameters):
    """Parameters of a train Flow's `/data`: a data set comes in parts."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", description="The data set.")
    upload: str = Field("one", pattern=r"^[A-Za-z0-9]{1,64}$", description="Made up by a client.")
    part: int = Field(0, ge=0, description="Which part this is, from 0.")
    parts: int = Field(1, ge=1, le=100_000, description="How many there are.")
    replace: bool = Field(False, description="In place of a data set of that name.")


P = TypeVar("P", bound=BaseModel)


def read_parameters(kind: type[P], parameters: dict[str, Any] | None) -> P:
    """The parameters as `kind`.

    Numbers arrive as floats over gRPC (protobuf's Struct has no integers): 10.0 is taken as 10.

    Raises:
        BadInput: naming the parameter, what is wrong, and its value.
    """
    # Keys with a leading underscore are Jina's own.
    given = {k: v for k, v in (parameters or {}).items() if not k.startswith("_")}
    for key, value in given.items():
        check_depth(value, f"parameters: {key[:100]}")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise BadInput(f"parameters: {describe(error, list(kind.model_fields))}") from None


def check_depth(value: Any, place: str) -> None:
    """Refuse what is nested too deeply to be sent on, before anything recurses into it.

    Raises:
        BadInput: lists and objects are nested deeper than `MAX_DEPTH` levels.
    """
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for held in level
            if isinstance(held, dict | list | tuple)
            for inner in (held.values() if isinstance(held, dict) else held)
        ]
        if not level:
            return
    raise BadInput(f"{place} is nested deeper than {MAX_DEPTH} levels")


def describe(error: ValidationError, known: list[str] | None = None) -> str:
    """A validation error in one line: each place, what is wrong there, and the value."""
    parts = []
    for item in error.errors(include_url=False)[:5]:
        place = ".".join(str(step) for step in item["loc"]) or "body"
        if item["type"] == "extra_forbidden" and known is not None:
            parts.append(f"{place} is unknown; there are {', '.join(known) or 'none'}")
            continue
        value = repr(item.get("input"))
        shown = value if len(value) <= 80 else value[:77] + "…"
        parts.append(f"{place}: {item['msg']}, got {shown}")
    return "; ".join(parts)


def check_docs(docs: DocList[ClipDoc], *, needs_docs: bool = True) -> None:
    """Refuse requests beyond the limits.

    Raises:
        BadInput: no documents.
        TooLarge: too many of them, or a text is too long.
    """
    if not docs and needs_docs:
        raise BadInput("the request has no documents")
    if len(docs) > MAX_DOCS:
        raise TooLarge(f"{len(docs)} documents in one request, the limit is {MAX_DOCS}")
    for position, doc in enumerate(docs):
        if doc.text is not None and len(doc.text) > MAX_TEXT:
            raise TooLarge(
                f"{name(position, doc)}: text of {len(doc.text)} characters, "
                f"the limit is {MAX_TEXT}"
            )


def name(position: int, doc: ClipDoc) -> str:
    """How errors name a document."""
    return f"document {position} (id {str(doc.id)[:100]!r})"


def has_text(doc: ClipDoc) -> bool:
    """Whether the text tower embeds `doc`: a text wins over a picture, as in clip-as-service."""
    return bool(doc.text and doc.text.strip())


def has_image(doc: ClipDoc) -> bool:
    """Whether there is a picture, or what should be one."""
    return doc.image is not None or bool(doc.uri)
