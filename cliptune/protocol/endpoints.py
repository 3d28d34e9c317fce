"""The endpoints of both Flows, and their parameters: the one place where they are written down.

What gateway and clients do about an endpoint follows from its line here: routes and OpenAPI, what
gRPC requests are checked for, roles, metrics, what clip-as-service's clients may call. A new
endpoint is a line here, a method of an executor, and one of `Client`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Annotated, Generic, Literal, Self, TypeVar

import orjson
from docarray import BaseDoc
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from cliptune.documents import ClipDoc, QueryDoc, RankDoc, SearchResult
from cliptune.errors import BadInput
from cliptune.feedback.records import SEARCH_ID, Event
from cliptune.names import DATA_SET
from cliptune.protocol.documents import FileChunk, LogItem, Report, TrainRequest, TrainResult
from cliptune.protocol.status import FlowStatus

Permission = Literal["read", "write", "monitor", "admin"]
Method = Literal["GET", "POST"]
Filter = str | dict[str, JsonValue]
P = TypeVar("P", bound=BaseModel)
Given = TypeVar("Given", bound=BaseDoc, covariant=True)


class Parameters(BaseModel):
    """Parameters of an endpoint; unknown ones are errors, since they would have no effect."""

    model_config = ConfigDict(extra="forbid")


class NoParameters(Parameters):
    """For endpoints without parameters."""


class EncodeParameters(Parameters):
    """What is told of embedded texts besides."""

    include_tokens: bool = Field(
        False, description="Say of each text how many tokens the model reads: `tokens`."
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
        description="With `hybrid`, what meaning counts beside words, from 0 to 1. Without: "
        "reciprocal rank fusion.",
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

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.alpha is not None and not self.hybrid:
            raise ValueError(f"alpha is {self.alpha:g} without hybrid: it has no effect")
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
        told = item["msg"].removeprefix("Value error, ")
        parts.append(f"{place}: {told}, got {shown}")
    return "; ".join(parts)


class FilterWarnings(BaseModel):
    """The answer, with `warnings` beside it."""

    warnings: list[str] = Field(
        description="Sentences about what of the filter can never hold: tags that no document "
        "has, or never of the type compared with, with near matches. Or that the index is empty. "
        "Empty, if there is nothing to say."
    )


class ValueCount(BaseModel):
    """A value, and how many documents have it."""

    value: str | float | bool
    count: int


class RangeCount(BaseModel):
    """How many documents have a number of at least `from` and below `to`."""

    from_: float | None = Field(alias="from", description="Null: whatever is below `to`.")
    to: float | None = Field(description="Null: whatever is not below `from`.")
    count: int


class FacetAnswer(BaseModel):
    """How often the values of a tag occur in what the filter leaves, whatever is searched for."""

    documents: int = Field(description="Documents that have a value.")
    distinct: int = Field(description="Distinct values that they have.")
    values: list[ValueCount] | None = Field(
        None,
        description="The most frequent values, most frequent first. Texts of more than 200 "
        "characters are not listed.",
    )
    ranges: list[RangeCount] | None = Field(None, description="Of numbers, instead of values.")
    min: float | None = Field(None, description="The least number.")
    max: float | None = Field(None, description="The greatest number.")


class SearchAnswer(FilterWarnings):
    """The answer, with `warnings` beside it, and `facets` if they are asked for."""

    facets: dict[str, FacetAnswer] | None = Field(None, description="By tag.")


class TagAnswer(BaseModel):
    """A tag of the documents in the index."""

    name: str = Field(description="As filters have it: `size.width` is a tag in a tag.")
    types: list[Literal["number", "text", "boolean"]]
    documents: int = Field(description="How many documents, of those looked at, have it.")
    coverage: float = Field(description="Their share, 0 to 1.")
    distinct: int = Field(description="Distinct values that they have.")
    examples: list[ValueCount] = Field(description="The most frequent values, at most 5.")
    min: float | None = Field(None, description="The least number.")
    max: float | None = Field(None, description="The greatest number.")


class TagsAnswer(BaseModel):
    """The tags of the documents in the index, those that most documents have first."""

    documents: int = Field(description="How many documents the index holds.")
    looked_at: int = Field(
        description="Of how many of them this is told: of all, but in Milvus of 20,000."
    )
    left_out: int = Field(description="How many tags there are besides: 500 are told of.")
    tags: list[TagAnswer]


def _documents(docs: Sequence[BaseDoc]) -> object:
    return {"data": docs}


def _stored(docs: Sequence[BaseDoc]) -> object:
    return {"indexed": len(docs), "data": docs}


def _results(docs: Sequence[BaseDoc]) -> object:
    # All queries of a request have one filter; what is said of it is said once.
    said = [one for doc in docs if isinstance(doc, SearchResult) for one in doc.warnings]
    answer: dict[str, object] = {"data": docs, "warnings": list(dict.fromkeys(said))}
    counted = [one.facets for one in docs if isinstance(one, SearchResult) and one.facets]
    return answer | {"facets": counted[0]} if counted else answer


def _ids(docs: Sequence[BaseDoc]) -> object:
    return {"ids": [str(doc.id) for doc in docs]}


def _report(docs: Sequence[BaseDoc]) -> object:
    reports = [doc.values for doc in docs if isinstance(doc, Report)]
    return reports[-1] if reports else {}


def _status(docs: Sequence[BaseDoc]) -> object:
    return FlowStatus.of(doc for doc in docs if isinstance(doc, Report)).to_json()


def _result(docs: Sequence[BaseDoc]) -> object:
    return orjson.Fragment(docs[0].result) if isinstance(docs[0], TrainResult) else None


@dataclass(frozen=True)
class Endpoint(Generic[Given]):
    """One call of a Flow: what it takes and gives, who may make it, and who answers it."""

    path: str
    about: str
    """What it does, for the reference."""
    _: KW_ONLY
    needs: Permission
    """What a key must allow."""
    executors: tuple[str, ...]
    """Those that bind it, by their names in the Flow; the others are left out of its requests."""
    takes: type[BaseDoc] | None = None
    """The documents of its requests; None: what it does is said by the parameters alone."""
    gives: type[Given]
    """The documents of its answer."""
    answer: Callable[[Sequence[BaseDoc]], object] = _documents
    """From those documents to the JSON of HTTP, in which documents may stand."""
    parameters: type[Parameters] = NoParameters
    methods: tuple[Method, ...] = ("POST",)
    """Of HTTP; none: it is for gRPC alone. `GET` has the parameters in the address, and one text
    as `q` where it takes documents."""
    group: str = ""
    """Its heading in OpenAPI."""
    example: JsonValue = None
    """A body."""
    answers_with: type[BaseModel] | None = None
    """What the reference says of the answer."""
    streams: bool = False
    """Whether one request has many answers."""
    takes_forms: bool = False
    """Whether pictures may come as a form over HTTP too."""
    may_be_empty: bool = False
    """Whether its requests need no documents, though it takes some."""
    texts_skip_vision: bool = False
    """Whether requests of nothing but texts go past the vision encoder."""
    for_clip_service: bool = False
    """Whether clip-as-service's clients may call it."""

    @property
    def name(self) -> str:
        """As the client's method and messages have it."""
        return self.path.strip("/")


_ENCODERS = ("text", "vision")
_ALL = ("text", "vision", "indexer")
_TEXTS: JsonValue = {"data": [{"text": "red rain boots"}]}
_PICTURE: JsonValue = {
    "data": [
        {
            "id": "1234",
            "text": "red rain boots",
            "image": "…base64…",
            "tags": {"price": 29.9, "brand": "Nordvik"},
        }
    ]
}
_COMPARED: JsonValue = {
    "data": [{"image": "…base64…", "matches": [{"text": "boots"}, {"text": "a hat"}]}]
}
_A_RUN: JsonValue = {"name": "brave-otter-3f2a"}

ENCODE = Endpoint(
    "/encode",
    "Embed texts and pictures, mixed as you like; answers in the order asked.",
    needs="read", executors=_ENCODERS, takes=ClipDoc, gives=ClipDoc,
    parameters=EncodeParameters, group="encode", example=_TEXTS,
    takes_forms=True, texts_skip_vision=True, for_clip_service=True,
)  # fmt: skip
ROOT = replace(ENCODE, path="/", methods=())
"""What clip-as-service calls `ENCODE`; over HTTP there is the search page."""
INDEX = Endpoint(
    "/index",
    "Embed pictures and store them with titles and tags; the same id replaces.",
    needs="write", executors=("vision", "indexer"), takes=ClipDoc, gives=ClipDoc, answer=_stored,
    parameters=IndexParameters, group="index", example=_PICTURE,
    takes_forms=True, for_clip_service=True,
)  # fmt: skip
INDEX_TEXTS = Endpoint(
    "/index_texts",
    "Embed texts and store them, to be found by pictures or texts.",
    needs="write", executors=("text", "indexer"), takes=ClipDoc, gives=ClipDoc, answer=_stored,
    parameters=IndexParameters, group="index", example=_TEXTS,
)  # fmt: skip
UPDATE = Endpoint(
    "/update",
    "Change stored documents: picture, title, label, or single tags (null removes one).",
    needs="write", executors=("vision", "indexer"), takes=ClipDoc, gives=Report, answer=_report,
    group="index", example={"data": [{"id": "1234", "tags": {"price": 19.9}}]},
    takes_forms=True, for_clip_service=True,
)  # fmt: skip
RANK = Endpoint(
    "/rank",
    "Compare each document with its own matches; they come back best first.",
    needs="read", executors=_ENCODERS, takes=RankDoc, gives=RankDoc,
    parameters=EncodeParameters, group="encode", example=_COMPARED, for_clip_service=True,
)  # fmt: skip
SEARCH = Endpoint(
    "/search",
    """The nearest pictures of texts, of pictures, or of `parts`: several with weights. Parameters:
see GET /search.

`parts` are texts, pictures, and stored documents by their ids (`like`); a weight below 0 means
"rather not like this". Sought is the sum of the parts' embeddings, each of unit length and times
its weight. Documents that are parts of a query are left out of its matches.

Candidates are the nearest documents that the filter leaves. `group_by` makes groups of them, then
`sort_by`, `formula` or `diversity` (one of them at most) puts them in order, then `offset` and
`limit` choose the page. `facets` are counted in all documents that the filter leaves.

`warnings` beside `data` are sentences about a filter that can never hold: tags that no
document has, or never of the type compared with.""",
    needs="read", executors=_ALL, takes=QueryDoc, gives=SearchResult, answer=_results,
    parameters=SearchParameters, methods=("POST", "GET"), group="search",
    example={"data": [{"text": "red rain boots"}], "parameters": {"limit": 5}},
    answers_with=SearchAnswer,
    takes_forms=True, texts_skip_vision=True, for_clip_service=True,
)  # fmt: skip
FEEDBACK = Endpoint(
    "/feedback",
    """What somebody chose of a search's answer: a `click`, what went into the `cart`, a `purchase`.

Recorded, where the server records searches, for pairs to train on (`cliptune feedback export`).
`recorded` says of how many documents. The same may be told again: it counts once.""",
    needs="read", executors=("indexer",), gives=Report, answer=_report,
    parameters=FeedbackParameters, group="search",
    example={"search_id": "0f" * 16, "event": "click", "ids": ["1234"]},
)  # fmt: skip
GET = Endpoint(
    "/get",
    "The stored documents with the ids given; those that aren't there are left out.",
    needs="read", executors=("indexer",), takes=ClipDoc, gives=ClipDoc,
    parameters=GetParameters, group="index", example={"data": [{"id": "1234"}]},
)  # fmt: skip
DELETE = Endpoint(
    "/delete",
    """Delete documents by `ids`, or those that a `filter` holds for: `deleted` says how many.

With `dry_run` nothing is deleted, and `matched` says how many would be. `warnings` are
sentences about a filter that can never hold.""",
    needs="write", executors=("indexer",), gives=Report, answer=_report,
    parameters=DeleteParameters, group="index", answers_with=FilterWarnings,
    for_clip_service=True,
)  # fmt: skip
IDS = Endpoint(
    "/ids",
    "The ids of the stored documents in ascending order, `limit` after the id `after`.",
    needs="read", executors=("indexer",), gives=ClipDoc, answer=_ids,
    parameters=IdsParameters, group="index",
)  # fmt: skip
TAGS = Endpoint(
    "/tags",
    "Which tags the stored documents have: their types, how many documents have each, examples.",
    needs="read", executors=("indexer",), gives=Report, answer=_report,
    methods=("GET", "POST"), group="search", answers_with=TagsAnswer,
)  # fmt: skip
CLEAR = Endpoint(
    "/clear",
    "Delete everything in the index.",
    needs="admin", executors=("indexer",), gives=Report, answer=_report,
    group="index", for_clip_service=True,
)  # fmt: skip
STATUS = Endpoint(
    "/status",
    "The model served, and the state of the index.",
    needs="read", executors=_ALL, gives=Report, answer=_status,
    methods=("GET", "POST"), group="health", for_clip_service=True,
)  # fmt: skip


def _training(path: str, about: str, example: JsonValue = None) -> Endpoint[TrainResult]:
    return Endpoint(
        path, about, needs="admin", executors=("trainer",), takes=TrainRequest, gives=TrainResult,
        answer=_result, group="training", example=example,
    )  # fmt: skip


FIT = _training(
    "/fit",
    "Start a run; arguments as `cliptune.fit`.",
    {"model": "builtin", "epochs": 5, "train_data": "catalogue-train"},
)
RUNS = _training(
    "/runs",
    "`action`: list (the default), get, resume, delete, or delete_all (of `experiment_name`).",
    {"action": "list"},
)
EXPERIMENTS = _training(
    "/experiments",
    "`action`: list (the default), create, get, delete or delete_all.",
    {"action": "list"},
)
RUN_STATUS = _training("/status", "A run's status, progress and history.", _A_RUN)
METRICS = _training("/metrics", "A finished run's metrics before and after.", _A_RUN)
EVALUATE = _training(
    "/evaluate",
    "The metrics of a model or a run's artifact.",
    {"model": "builtin", "query_data": "catalogue-queries", "index_data": "catalogue-index"},
)
CANCEL = _training("/cancel", "Stop a run after a checkpoint.", _A_RUN)
LOGS = Endpoint(
    "/logs",
    "A run's log as text.",
    needs="admin", executors=("trainer",), takes=TrainRequest, gives=LogItem, streams=True,
    parameters=LogParameters, methods=("GET",), group="training",
)  # fmt: skip
ARTIFACT = Endpoint(
    "/artifact",
    "A finished run's tuned model, a zip.",
    needs="admin", executors=("trainer",), takes=TrainRequest, gives=FileChunk, streams=True,
    parameters=RunParameters, methods=("GET",), group="training",
)  # fmt: skip
DATA = replace(
    _training("/data", "Keep a part of a data set; without documents, say if it is there."),
    takes=ClipDoc, parameters=PartParameters, methods=(), may_be_empty=True,
)  # fmt: skip


def _table(*endpoints: Endpoint[BaseDoc]) -> dict[str, Endpoint[BaseDoc]]:
    return {endpoint.path: endpoint for endpoint in endpoints}


SEARCH_FLOW = _table(
    ENCODE,
    INDEX,
    INDEX_TEXTS,
    UPDATE,
    RANK,
    SEARCH,
    FEEDBACK,
    GET,
    DELETE,
    IDS,
    TAGS,
    CLEAR,
    STATUS,
    ROOT,
)
"""The endpoints of a search Flow by their paths, in the order in which people read of them."""
TRAIN_FLOW = _table(
    FIT, RUNS, EXPERIMENTS, RUN_STATUS, METRICS, EVALUATE, CANCEL, LOGS, ARTIFACT, DATA
)
"""Those of a train Flow."""


def flow_of(executors: Collection[str]) -> dict[str, Endpoint[BaseDoc]]:
    """The endpoints of the Flow that has executors of these names."""
    return max((SEARCH_FLOW, TRAIN_FLOW), key=lambda flow: len(answered_by(executors, flow)))


def answered_by(
    executors: Collection[str], flow: Mapping[str, Endpoint[BaseDoc]]
) -> dict[str, Endpoint[BaseDoc]]:
    """Those of a Flow's endpoints that one of these executors binds, or several."""
    return {path: one for path, one in flow.items() if set(one.executors) & set(executors)}


# What HTTP offers besides: the paths of what is no endpoint.

HEALTHZ, READYZ, PROMETHEUS = "/healthz", "/readyz", "/metrics"
DOCS, OPENAPI = "/docs", "/openapi.json"
PICTURES = "/pictures/"
"""Below it are the stored documents' pictures; they need what `GET` needs."""
PAGE_FILES = "/page/"
"""Below it are the search page's scripts and styles."""
POST = "/post"
"""clip-as-service's form of a call: the body says what is asked."""
SOCKET = "/ws"
"""The same over a WebSocket."""
DRY_RUN = "/dry_run"
"""Whether it lives, as Jina's clients ask."""
EMBEDDINGS, MODELS = "/v1/embeddings", "/v1/models"
"""Of OpenAI's interface, as infinity and vLLM have it too."""
RERANK = ("/rerank", "/v1/rerank", "/v2/rerank")
"""Of Cohere's and Jina's interfaces."""
FOREIGN: dict[str, Endpoint[BaseDoc]] = {
    EMBEDDINGS: ENCODE,
    MODELS: STATUS,
    **dict.fromkeys(RERANK, RANK),
}
"""Calls in the form of others' interfaces, by their paths, and the endpoint that answers each."""
OPEN_PATHS = (ROOT.path, DOCS, OPENAPI, HEALTHZ, READYZ, DRY_RUN)
"""What needs no key: the search page itself (it asks its reader for one), the reference, health;
and all below `PAGE_FILES`."""


def answering(path: str) -> str:
    """The path of the endpoint that answers what is asked at a path of HTTP; else that path."""
    if path.startswith(PICTURES):
        return GET.path
    return FOREIGN[path].path if path in FOREIGN else path
