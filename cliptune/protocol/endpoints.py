"""The endpoints of both Flows: the one place where they are written down.

What gateway and clients do about an endpoint follows from its line here: routes and OpenAPI, what
gRPC requests are checked for, roles, metrics, what clip-as-service's clients may call. A new
endpoint is a line here, a method of an executor, and one of `Client`; what it takes beside its
documents is a class of `parameters`, what the reference says of its JSON one of `answers`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Generic, Literal, TypeVar

from docarray import BaseDoc
from pydantic import BaseModel, JsonValue

from cliptune.documents import ClipDoc, QueryDoc, RankDoc, SearchResult
from cliptune.protocol import answers
from cliptune.protocol.answers import FilterWarnings, SearchAnswer, TagsAnswer
from cliptune.protocol.documents import FileChunk, LogItem, Report, TrainRequest, TrainResult
from cliptune.protocol.parameters import (
    DeleteParameters,
    EncodeParameters,
    FeedbackParameters,
    GetParameters,
    IdsParameters,
    IndexParameters,
    LogParameters,
    NoParameters,
    Parameters,
    PartParameters,
    RankParameters,
    RunParameters,
    SearchParameters,
)

Permission = Literal["read", "write", "monitor", "admin"]
Method = Literal["GET", "POST"]
Given = TypeVar("Given", bound=BaseDoc, covariant=True)


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
    answer: Callable[[Sequence[BaseDoc]], object] = answers.documents
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
    needs="write", executors=("vision", "indexer"), takes=ClipDoc, gives=ClipDoc,
    answer=answers.stored,
    parameters=IndexParameters, group="index", example=_PICTURE,
    takes_forms=True, for_clip_service=True,
)  # fmt: skip
INDEX_TEXTS = Endpoint(
    "/index_texts",
    "Embed texts and store them, to be found by pictures or texts.",
    needs="write", executors=("text", "indexer"), takes=ClipDoc, gives=ClipDoc,
    answer=answers.stored,
    parameters=IndexParameters, group="index", example=_TEXTS,
)  # fmt: skip
UPDATE = Endpoint(
    "/update",
    "Change stored documents: picture, title, label, or single tags (null removes one).",
    needs="write", executors=("vision", "indexer"), takes=ClipDoc, gives=Report,
    answer=answers.report,
    group="index", example={"data": [{"id": "1234", "tags": {"price": 19.9}}]},
    takes_forms=True, for_clip_service=True,
)  # fmt: skip
RANK = Endpoint(
    "/rank",
    "Compare each document with its own matches; they come back best first.",
    needs="read", executors=_ENCODERS, takes=RankDoc, gives=RankDoc,
    parameters=RankParameters, group="encode", example=_COMPARED, for_clip_service=True,
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
    needs="read", executors=_ALL, takes=QueryDoc, gives=SearchResult, answer=answers.results,
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
    needs="read", executors=("indexer",), gives=Report, answer=answers.report,
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
    needs="write", executors=("indexer",), gives=Report, answer=answers.report,
    parameters=DeleteParameters, group="index", answers_with=FilterWarnings,
    for_clip_service=True,
)  # fmt: skip
IDS = Endpoint(
    "/ids",
    "The ids of the stored documents in ascending order, `limit` after the id `after`.",
    needs="read", executors=("indexer",), gives=ClipDoc, answer=answers.ids,
    parameters=IdsParameters, group="index",
)  # fmt: skip
TAGS = Endpoint(
    "/tags",
    "Which tags the stored documents have: their types, how many documents have each, examples.",
    needs="read", executors=("indexer",), gives=Report, answer=answers.report,
    methods=("GET", "POST"), group="search", answers_with=TagsAnswer,
)  # fmt: skip
CLEAR = Endpoint(
    "/clear",
    "Delete everything in the index.",
    needs="admin", executors=("indexer",), gives=Report, answer=answers.report,
    group="index", for_clip_service=True,
)  # fmt: skip
STATUS = Endpoint(
    "/status",
    "The model served, and the state of the index.",
    needs="read", executors=_ALL, gives=Report, answer=answers.status,
    methods=("GET", "POST"), group="health", for_clip_service=True,
)  # fmt: skip


def _training(path: str, about: str, example: JsonValue = None) -> Endpoint[TrainResult]:
    return Endpoint(
        path, about, needs="admin", executors=("trainer",), takes=TrainRequest, gives=TrainResult,
        answer=answers.result, group="training", example=example,
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
