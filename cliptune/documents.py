"""The typed documents that travel between users, executors and stores (DocArray 0.41)."""

from collections.abc import Iterable
from typing import Any, Self

from docarray import BaseDoc, DocList
from docarray.base_doc.mixins.io import _type_to_protobuf
from docarray.proto import DocProto
from docarray.typing import NdArray
from pydantic import ConfigDict, Field

MAX_DEPTH = 16
"""Levels of lists and objects in tags and parameters: protobuf reads about 30."""
EXACT = 2**53
"""The largest integer in tags: floats are exact up to it."""


class WireDoc(BaseDoc):
    """A document that is read from protobuf and made to it quickly."""

    def to_protobuf(self) -> Any:
        """As DocArray's, which takes eight times as long for tags."""
        message = DocProto()
        for name, value in self:
            _fill(message.data[name], value)
        return message

    @classmethod
    def from_protobuf(cls, pb_msg: Any) -> Self:
        """As DocArray's, several times as fast: that one makes a validator anew for each id."""
        fields = {}
        for name, node in pb_msg.data.items():
            if name not in cls.model_fields:
                continue
            kind = node.WhichOneof("content")
            if kind in ("text", "blob"):
                fields[name] = getattr(node, kind)
            elif kind is not None:
                fields[name] = cls._get_content_from_node_proto(node, name)
        return cls(**fields)


def _fill(node: Any, value: Any) -> None:
    """Write `value` into a `NodeProto` as DocArray would."""
    kind = type(value)
    if kind in _PLAIN:
        setattr(node, _PLAIN[kind], value)
    elif kind is dict:
        node.dict.SetInParent()
        for key, inner in value.items():
            _fill(node.dict.data[key], inner)
    elif kind is list:
        node.list.SetInParent()
        node.list.SetInParent()
        for inner in value:
            _fill(node.list.data.add(), inner)
    elif value is not None:
        node.CopyFrom(_type_to_protobuf(value))


_PLAIN = {str: "text", bool: "boolean", int: "integer", float: "float", bytes: "blob"}

HIGHEST_GRADE = 3
"""Grades are whole numbers from 0 to this, as in most collections of judged searches."""


class ClipDoc(WireDoc):
    """A text, a picture, or both.

    For training it is one title with one of its pictures; for evaluation a query (`text`)
    or an index document (`image`) with the `label` that says what counts as a right answer;
    for search a picture with what should be shown beside it.
    """

    # JSON has no bytes: pictures travel as base64 there (protobuf carries them as they are).
    model_config = ConfigDict(  # type: ignore[assignment] # DocArray adds a key of its own
        ser_json_bytes="base64", val_json_bytes="base64"
    )

    text: str | None = Field(None, description="A title or a query.")
    texts: dict[str, float] | None = Field(
        None,
        description="Several texts with their weights, of which training draws one each time; "
        "`text` is the first.",
    )
    image: bytes | None = Field(
        None, description="An encoded picture: JPEG, PNG, WebP, … (base64 in JSON)."
    )
    uri: str | None = Field(
        None, description="Where the picture is: a `data:` URI, or a path that the reader allows."
    )
    label: str | None = Field(
        None, description="Documents of one label are right answers to each other."
    )
    weight: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="How much the pair counts in training, beside others: its clicks, its sales, "
        "how sure it is; None is 1. Of queries, how often they are asked.",
    )
    grade: int | None = Field(
        None,
        ge=0,
        le=HIGHEST_GRADE,
        description="How right the picture is for the text: 3 fully, 0 not at all; None is 3.",
    )
    negatives: list[str] | None = Field(
        None,
        description="Ids of documents that are wrong answers to the text, though they look right.",
    )
    tags: dict[str, Any] = Field(
        default_factory=dict, description="Anything to filter by or to show: price, colour, …"
    )
    embedding: NdArray | None = Field(  # type: ignore[type-arg] # no shape is stated
        None, description="float32 [D], of unit length; by `output_dtype` int8, or uint8 of signs."
    )
    model_digest: str | None = Field(
        None, description="SHA-256 over the weights of the model that made the embedding."
    )
    image_digest: str | None = Field(
        None, description="SHA-256 of the picture's bytes, as hex; the index sets it."
    )
    tokens: int | None = Field(
        None, description="How many tokens of the text the model read; on request."
    )
    calibration: list[float] | None = Field(
        None,
        description="Within a server, of a query that is a text: slope and intercept of the "
        "logistic curve that says how relevant a cosine is.",
    )


class QueryPart(ClipDoc):
    """One of the parts of a `QueryDoc`: a text, a picture, or a stored document by its id."""

    like: str | None = Field(None, description="The id of a stored document.")
    weight: float = Field(
        1.0, description="How much it counts, from -100 to 100; below 0: rather not like this."
    )


class QueryDoc(ClipDoc):
    """What is searched for: a text or a picture, or a combination of `parts`.

    ::

        QueryDoc(parts=[
            QueryPart(text="in green"),
            QueryPart(like="1234"),                 # a stored document
            QueryPart(text="buttons", weight=-0.4),
        ])

    It is sought by the sum of its parts' embeddings, each of unit length and times its weight; the
    sum is brought to unit length again.
    """

    parts: DocList[QueryPart] = Field(default_factory=DocList[QueryPart])


class Match(WireDoc):
    """One answer to a query: an indexed document without its embedding, and how near it is."""

    text: str | None = None
    uri: str | None = Field(None, description="Its link; from a server, never a path.")
    image_url: str | None = Field(
        None, description="Where its picture is: a server's `/pictures/…`, or its link."
    )
    image_digest: str | None = Field(None, description="SHA-256 of the picture, if it has one.")
    tags: dict[str, Any] = Field(default_factory=dict)
    score: float = Field(0.0, description="Cosine similarity in [-1, 1], higher is nearer.")
    relevance: float | None = Field(
        None,
        description="The probability that it is relevant, of a picture found by a text with a "
        "calibrated model; else None.",
    )
    fused_score: float | None = Field(
        None,
        description="What it is ranked by where words count too; above 1: the query is its id, or "
        "a code among its tags.",
    )
    formula_score: float | None = Field(
        None,
        description="What `formula` made of the score; None: there was no formula, or it has no "
        "value here.",
    )
    more: int | None = Field(
        None,
        description="With `group_by`: how many more documents of its group the filter leaves.",
    )


class SearchResult(ClipDoc):
    """A query with its matches, best first."""

    matches: DocList[Match] = Field(default_factory=DocList[Match])
    warnings: list[str] = Field(
        default_factory=list,
        description="What of the filter can never hold (a tag that no document has, or never of "
        "that type), or that the index is empty.",
    )
    total: int | None = Field(
        None,
        description="How many documents the filter leaves, or without one how many there are; "
        "None: it was not asked for by `include_total`.",
    )
    search_id: str | None = Field(
        None,
        description="By which `/feedback` is told what was chosen; None: it was not recorded.",
    )
    groups: int | None = Field(
        None, description="With `group_by` and `include_total`: how many groups they make."
    )
    facets: dict[str, Any] | None = Field(
        None, description="How often the values of the `facets` asked for occur, by tag."
    )


class RankMatch(ClipDoc):
    """One of the documents that a `RankDoc` is compared with, and how well it fits."""

    clip_score: float = Field(
        0.0, description="Softmax over the matches of 100 times the cosine: they add up to 1."
    )
    clip_score_cosine: float = Field(0.0, description="Cosine similarity in [-1, 1].")


class RankDoc(ClipDoc):
    """A text or a picture with what it is compared with: pictures or texts, best first."""

    matches: DocList[RankMatch] = Field(default_factory=DocList[RankMatch])


def is_too_deep(value: object) -> bool:
    """Whether lists and objects are nested deeper than `MAX_DEPTH` levels."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH + 1):
        level = held_by(level)
        if not level:
            return False
    return True


def held_by(values: Iterable[object]) -> list[object]:
    """What the lists and objects among `values` hold."""
    return [
        inner
        for value in values
        if isinstance(value, dict | list | tuple)
        for inner in (value.values() if isinstance(value, dict) else value)
    ]
