"""What a request says beside its documents: each endpoint's parameters, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from cliptune.errors import BadInput
from cliptune.feedback.records import SEARCH_ID, Event
from cliptune.names import DATA_SET
from cliptune.quantization import OutputDtype

Filter = str | dict[str, JsonValue]
P = TypeVar("P", bound=BaseModel)
ALPHA = 0.3
"""What meaning counts beside words, where it isn't said: of what was tried, what finds most (see
`benchmarks/index/words.py`)."""


class Parameters(BaseModel):
    """Parameters of an endpoint; unknown ones are errors, since they would have no effect."""

    model_config = ConfigDict(extra="forbid")


class NoParameters(Parameters):
    """For endpoints without parameters."""


class RankParameters(Parameters):
    """What is told of embedded texts besides."""

    include_tokens: bool = Field(
        False, description="Say of each text how many tokens the model reads: `tokens`."
    )


class EncodeParameters(RankParameters):
    """Which embeddings are made, and what is told of texts besides."""

    dimensions: int | None = Field(
        None,
        ge=1,
        description="The first numbers of the embeddings, of unit length, by a model trained for "
        "so many (`matryoshka`).",
    )
    output_dtype: OutputDtype = Field(
        "float32",
        description="The type of the embeddings' numbers: `int8`, to be compared by cosine; or "
        "`ubinary`, signs, eight to a byte (uint8).",
    )


class IndexParameters(Parameters):
    """How documents are stored."""

    include_embedding: bool = Field(False, description="Return the embeddings too.")


class FacetParameters(Parameters):
    """How the values of a tag are counted."""

    limit: int | None = Field(
        None, description="At most so many values, the most frequent ones: 1 to 1000; 10 without."
    )
    ranges: int | list[float] | None = Field(
        None,
        description="Numbers as ranges: where one ends and the next begins, or how many ranges of "
        "about the same number of documents. Without, numbers are counted as 5 ranges where there "
        "are more of them than values are listed.",
    )


class SearchParameters(Parameters):
    """How a query is answered."""

    limit: int = Field(10, ge=1, le=1000, description="At most so many matches a query.")
    offset: int = Field(0, ge=0, le=9000, description="How many of the best to leave out.")
    filter: Filter | None = Field(
        None, description="Over tags, such as `price < 30 and brand == 'Nordvik'`."
    )
    score_threshold: float | None = Field(
        None, ge=-1, le=1, description="Only matches of at least this cosine similarity."
    )
    min_relevance: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Only matches that are relevant with at least this probability; of texts, with "
        "a calibrated model.",
    )
    hybrid: bool = Field(
        False,
        description="Let the query's words count too, in ids, titles and text tags; documents "
        "whose id or code it is come first. Not in Milvus.",
    )
    alpha: float | None = Field(
        None,
        ge=0,
        le=1,
        description="With `hybrid`, what meaning counts beside words, from 0 (words alone) to 1; "
        f"{ALPHA} where it isn't given.",
    )
    fusion: Literal["scores", "ranks"] = Field(
        "scores",
        description="With `hybrid`, by what the two rankings become one: `scores`, weighed by "
        "`alpha`, or `ranks` (reciprocal rank fusion).",
    )
    include_total: bool = Field(
        False, description="Say how many documents the filter leaves, as `total` of each result."
    )
    exact: bool = Field(False, description="Compare with every document, without the ANN index.")
    model: Literal["current", "previous", "next"] | None = Field(
        None, description="Of a swap: the model served (default), that before, or that prepared."
    )
    record: bool = Field(
        True, description="Whether it may be recorded, where the server records searches."
    )
    group_by: str | None = Field(
        None,
        description="A tag, such as a product's number: of all documents with one value the best "
        "is a match, whose `more` says how many more of them the filter leaves. Documents without "
        "the tag, or with several values, are each a match of their own.",
    )
    sort_by: str | None = Field(
        None,
        description="The candidates in the order of tags: `price`, or `rating desc, price`. "
        "Those without the tag come last.",
    )
    formula: str | None = Field(
        None,
        description="The candidates in the order of a new score, `formula_score`: numbers, "
        "`score`, tags, + - * /, and the functions abs, exp, log, log10, sqrt, min, max, pow and "
        "default, as in `score + 0.1 * log(1 + default(sales, 0))`. Those for which it has no "
        "value come last.",
    )
    diversity: float | None = Field(
        None,
        ge=0,
        le=1,
        description="The candidates in an order in which similar ones don't stand together "
        "(maximal marginal relevance): 0 leaves them as they are, 0.3 is a good beginning.",
    )
    candidates: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="How many of the nearest documents, or groups, `sort_by`, `formula` or "
        "`diversity` put in order; paging ends with them. 200, or `limit` if that is more; with "
        "`diversity` at most 1000.",
    )
    facets: list[str] | dict[str, FacetParameters] | None = Field(
        None,
        description="Tags whose values are counted in all documents that the filter leaves: "
        '`["brand"]`, or `{"brand": {"limit": 20}, "price": {"ranges": [20, 50]}}`. At '
        "most 32.",
    )

    @property
    def ranked(self) -> int:
        """How many matches of each query are asked for to be looked at."""
        return max(self.limit + self.offset, self.candidates or 0)

    @property
    def meaning_share(self) -> float | None:
        """What meaning counts beside words; None: the rankings become one by their ranks."""
        if self.fusion == "ranks":
            return None
        return ALPHA if self.alpha is None else self.alpha

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not self.hybrid and self.alpha is not None:
            raise ValueError(f"alpha is {self.alpha!r} without hybrid: it has no effect")
        if not self.hybrid and self.fusion == "ranks":  # GET says the default, too
            raise ValueError("fusion is 'ranks' without hybrid: it has no effect")
        if self.fusion == "ranks" and self.alpha is not None:
            raise ValueError(f"alpha is {self.alpha!r} with fusion 'ranks': it weighs scores")
        return self


class FeedbackParameters(Parameters):
    """What somebody did with documents that a search had shown."""

    search_id: str = Field(pattern=SEARCH_ID, description="That of the search's answer.")
    event: Event = Field(description="What was done with them.")
    ids: list[Annotated[str, Field(min_length=1, max_length=512)]] = Field(
        min_length=1, max_length=100, description="The documents."
    )


class DeleteParameters(Parameters):
    """Which documents to delete."""

    ids: list[str] | None = Field(None, max_length=10_000, description="Those with these ids.")
    filter: Filter | None = Field(None, description="Those that a filter holds for.")
    dry_run: bool = Field(False, description="Only tell how many there are: `matched`.")


class IdsParameters(Parameters):
    """Which page of the ids of stored documents."""

    after: str | None = Field(
        None, max_length=512, description="Those after this one; without: from the first on."
    )
    limit: int = Field(1000, ge=1, le=10_000, description="At most so many.")


class GetParameters(Parameters):
    """What of stored documents is wanted."""

    include_image: bool = Field(False, description="Return the stored pictures too.")
    include_embedding: bool = Field(False, description="Return the embeddings too.")


class RunParameters(Parameters):
    """Which run."""

    name: str = Field(description="The run.")
    experiment_name: str | None = None


class LogParameters(RunParameters):
    """Which lines of a run's log."""

    follow: bool = Field(False, description="Each line as it comes, until the run ends.")
    start: int = Field(0, ge=0, description="Leave out so many lines: those you have.")


class PartParameters(Parameters):
    """Which part of a data set: it comes in parts."""

    name: Annotated[str, AfterValidator(DATA_SET.check)] = Field(description="The data set.")
    upload: str = Field("one", pattern=r"^[A-Za-z0-9]{1,64}$", description="Made up by a client.")
    part: int = Field(0, ge=0, description="Which part this is, from 0.")
    parts: int = Field(1, ge=1, le=100_000, description="How many there are.")
    replace: bool = Field(False, description="In place of a data set of that name.")


def read_parameters(kind: type[P], parameters: Mapping[str, object] | None) -> P:
    """The parameters as `kind`.

    Numbers arrive as floats over gRPC (protobuf's Struct has no integers): 10.0 is taken as 10.

    Raises:
        BadInput: naming the parameter, what is wrong, and its value.
    """
    # Keys with a leading underscore are Jina's own.
    given = {k: v for k, v in (parameters or {}).items() if not k.startswith("_")}
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise BadInput(f"parameters: {describe(error, list(kind.model_fields))}") from None


def describe(error: ValidationError, known: Sequence[str] | None = None) -> str:
    """A validation error in one line: each place, what is wrong there, and the value.

    `known` are the names that an unknown one could have been, but for those deeper inside.
    """
    parts = []
    for item in error.errors(include_url=False)[:5]:
        place = ".".join(str(step) for step in item["loc"]) or "body"
        top = len(item["loc"]) == 1
        if item["type"] == "extra_forbidden" and known is not None and top:
            parts.append(f"{place} is unknown; there are {', '.join(known) or 'none'}")
            continue
        value = repr(item.get("input"))
        shown = value if len(value) <= 80 else value[:77] + "…"
        message = item["msg"].removeprefix("Value error, ")
        parts.append(f"{place}: {message}, got {shown}")
    return "; ".join(parts)
