"""What a request may hold: limits, and the parameters of each endpoint, checked in one place."""

from typing import Annotated, Any, Literal, TypeVar

from docarray import DocList
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from cliptune.documents import ClipDoc
from cliptune.errors import BadInput, TooLarge
from cliptune.names import DATA_SET
from cliptune.settings import current

MAX_DEPTH = 16
"""Levels of lists and objects in tags and parameters: protobuf reads about 30."""


def _check_filter(value: Any) -> None:
    most = current().max_filter
    if isinstance(value, str) and len(value) > most:
        raise TooLarge(f"a filter of {len(value)} characters, the limit is {most}")
    if isinstance(value, dict) and (count := count_inside(value)) > most // 10:
        raise TooLarge(f"a filter of {count} values, the limit is {most // 10}")


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

    name: Annotated[str, AfterValidator(DATA_SET.check)] = Field(description="The data set.")
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
    check_parameters(given)
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


def check_parameters(parameters: dict[str, Any]) -> None:
    """Refuse parameters that are nested too deeply, or too many, to be sent on.

    Raises:
        BadInput: one is nested deeper than `MAX_DEPTH` levels.
        TooLarge: they hold more than `max_parameters` values, or a filter is too long.
    """
    for key, value in parameters.items():
        check_depth(value, f"parameters: {key[:100]}")
    if (count := count_inside(parameters)) > (most := current().max_parameters):
        raise TooLarge(f"parameters: {count} values, the limit is {most}")
    _check_filter(parameters.get("filter"))


def count_inside(value: Any) -> int:
    """How many values lists and objects hold, and those in them; of other values 0."""
    count = 0
    level = [value]
    while level:
        level = [
            inner
            for held in level
            if isinstance(held, dict | list | tuple)
            for inner in (held.values() if isinstance(held, dict) else held)
        ]
        count += len(level)
    return count


class Tally:
    """What the documents of one request have together, one after the other."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.tags = self.characters = 0

    def add(self, text: str | None, tags: int, what: str) -> None:
        """Count one document's text, and its number of tags.

        Raises:
            TooLarge: it, or all of them together, exceed a limit; the message begins with `what`.
        """
        limits = current()
        length = len(text or "")
        if length > limits.max_text:
            raise TooLarge(f"{what}: text of {length} characters, the limit is {limits.max_text}")
        if tags > limits.max_tags:
            raise TooLarge(
                f"{what}: {tags} tags (those in lists and objects count), the limit is "
                f"{limits.max_tags}"
            )
        self.characters += length
        self.tags += tags
        if self.characters > limits.max_all_text:
            raise TooLarge(
                f"{what}: with those before it {self.characters} characters of text, the limit of "
                f"one request is {limits.max_all_text}: send fewer documents at once"
            )
        if self.tags > limits.max_all_tags:
            raise TooLarge(
                f"{what}: with those before it {self.tags} tags, the limit of one request is "
                f"{limits.max_all_tags}: send fewer documents at once"
            )


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


def check_count(count: int, what: str = "documents") -> None:
    """Refuse a request of too many documents.

    Raises:
        TooLarge: there are more than `max_docs`.
    """
    if count > (most := current().max_docs):
        raise TooLarge(f"{count} {what} in one request, the limit is {most}")


def check_docs(docs: DocList[ClipDoc], *, needs_docs: bool = True) -> None:
    """Refuse requests beyond the limits.

    Raises:
        BadInput: no documents.
        TooLarge: too many of them, or their texts or tags exceed a limit.
    """
    if not docs and needs_docs:
        raise BadInput("the request has no documents")
    check_count(len(docs))
    tally = Tally()
    for position, doc in enumerate(docs):
        tally.add(doc.text, count_inside(doc.tags), name(position, doc))


def check_matches(queries: int, parameters: SearchParameters) -> None:
    """Refuse a search that asks for too much.

    Raises:
        TooLarge: all queries together have more than `max_matches` matches, with those left out.
    """
    asked = queries * (parameters.limit + parameters.offset)
    if asked > (most := current().max_matches):
        raise TooLarge(
            f"{queries} queries with limit {parameters.limit} and offset {parameters.offset} are "
            f"{asked} matches, the limit of one request is {most}: send fewer queries at "
            "once, or ask for fewer matches"
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
