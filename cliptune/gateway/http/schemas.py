"""HTTP bodies: read within limits, checked, and turned into documents; and the answers' JSON."""

import asyncio
import base64
import binascii
from typing import Literal, TypeVar

import numpy as np
import orjson
from docarray import DocList
from fastapi import Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect

from cliptune.data.pictures.images import png_of_pixels
from cliptune.documents import (
    ClipDoc,
    Match,
    QueryDoc,
    QueryPart,
    RankDoc,
    RankMatch,
    SearchResult,
)
from cliptune.errors import (
    BadImage,
    BadInput,
    BadJson,
    Timeout,
    TooLarge,
    UnsupportedCoding,
)
from cliptune.gateway.http import multipart
from cliptune.protocol.endpoints import DOCS, ROOT, SEARCH_FLOW
from cliptune.protocol.limits import TOGETHER, Limits
from cliptune.protocol.parameters import describe
from cliptune.protocol.queries import MAX_WEIGHT
from cliptune.settings import MAX_DOCS, LimitSettings

FORMS = [path for path, one in SEARCH_FLOW.items() if one.takes_forms and one.methods]
"""Where pictures may come as a form."""
_MOST = f"{MAX_DOCS} (`CLIPTUNE_MAX_DOCS`)"


class Content(BaseModel):
    """A text or a picture."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = Field(None, description="A query, or the title of a picture.")
    image: str | None = Field(None, description="A picture: base64, or a `data:` URI.")
    blob: str | None = Field(None, description="The same, as clip-as-service calls it.")
    uri: str | None = Field(
        None, description="A picture as a `data:` URI, or where the server is allowed to read it."
    )
    tensor: list[object] | None = Field(None, description="A picture: its pixels, uint8 [H, W, 3].")


class Item(Content):
    """A text, a picture, or a picture with its title."""

    id: str | None = Field(None, max_length=512, description="Made up if it is not given.")
    label: str | None = None
    tags: dict[str, object] = Field(default_factory=dict, description="To filter by and to show.")


EncodingFormat = Literal["float", "base64"]
"""How an answer has embeddings: numbers, or their bytes as base64, float32 little-endian, or of the
`embedding_dtype` beside them."""


class RankItem(Item):
    """A text or a picture, and what it is compared with."""

    matches: list[Item] = Field(description="Pictures or texts; they come back best first.")


class PartItem(Content):
    """A text, a picture, or a stored document, and how much it counts."""

    like: str | None = Field(None, description="The id of a stored document.")
    weight: float = Field(
        1.0,
        ge=-MAX_WEIGHT,
        le=MAX_WEIGHT,
        description="How much it counts; below 0: rather not like this.",
    )


class QueryItem(Item):
    """A text, a picture, or several of them in `parts`."""

    parts: list[PartItem] = Field(
        default_factory=list,
        description="Searched for together: texts, pictures and stored documents, with weights.",
    )


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    parameters: dict[str, object] = Field(default_factory=dict)
    encoding_format: EncodingFormat = Field(
        "float", description="Embeddings as numbers, or as base64 of little-endian float32."
    )


class DataBody(_Body):
    """`{"data": […]}`."""

    data: list[Item] = Field(description=f"1 to {_MOST} texts or pictures.")


class QueryBody(_Body):
    """`{"data": […]}` with queries."""

    data: list[QueryItem] = Field(description=f"1 to {_MOST} queries.")


class RankBody(_Body):
    """`{"data": […]}` with matches."""

    data: list[RankItem] = Field(description=f"1 to {_MOST} with their matches.")


class CallItem(BaseModel):
    """A document as DocArray 0.21 has it, with one content; further fields of its are let be."""

    id: str | None = None
    text: str | None = None
    blob: str | None = Field(None, description="A picture: base64.")
    tensor: list[object] | None = Field(None, description="A picture: its pixels, uint8 [H, W, 3].")
    uri: str | None = Field(None, description="A picture as a `data:` URI.")
    tags: dict[str, object] | None = None
    matches: list[dict[str, object]] | None = Field(None, description="More of them, for `/rank`.")


class CallBody(BaseModel):
    """What `/post` takes, for the reference: `clip_service.http` reads it."""

    data: list[CallItem] = Field(default_factory=list)
    exec_endpoint: str = Field(ROOT.path, alias="execEndpoint")
    parameters: dict[str, object] | None = None


B = TypeVar("B", bound=BaseModel)


async def read_bytes(request: Request, limits: LimitSettings) -> bytes:
    """The body, at most `max_body` bytes.

    Raises:
        TooLarge: it is longer; the rest is read and dropped, so that the client hears of it.
        Timeout: it stopped arriving.
    """
    chunks: list[bytes] = []
    size = 0
    stream = aiter(request.stream())
    deadline = asyncio.get_running_loop().time() + limits.body_timeout
    while True:
        left = deadline - asyncio.get_running_loop().time()
        try:
            chunk = await asyncio.wait_for(anext(stream), max(0.0, left))
        except StopAsyncIteration:
            break
        except TimeoutError:
            raise Timeout(f"the body did not arrive within {limits.body_timeout} s") from None
        except ClientDisconnect:
            raise BadJson("the connection ended within the body") from None
        size += len(chunk)
        if size <= limits.max_body:
            chunks.append(chunk)
        elif size > 4 * limits.max_body:
            break
        else:
            chunks.clear()
    if size > limits.max_body:
        raise TooLarge(f"the body is larger than the limit of {limits.max_body} bytes")
    return b"".join(chunks)


async def read_json(
    request: Request,
    limits: Limits,
    default: object = None,
    form: tuple[str, ...] | None = None,
) -> object:
    """The body's JSON; of an empty one `default`, if that is given.

    Args:
        request: whose body is read.
        limits: how much it may hold.
        default: see above.
        form: the parameters that may be fields of a form with pictures, which is read as the JSON
            that it stands for; None: there are no forms here.

    Raises:
        BadJson: it isn't JSON.
        UnsupportedCoding: it is of another media type.
    """
    kind = request.headers.get("content-type", "")
    is_picture = kind.startswith(("image/", "video/", "audio/", "application/octet-stream"))
    if is_picture or (multipart.is_form(kind) and form is None):
        raise UnsupportedCoding(
            f"Content-Type is {kind[:100]!r}: send JSON, with pictures as base64, or to "
            f"{', '.join(FORMS)} a form (multipart/form-data) with the picture as its field "
            "'image': curl -F image=@boots.jpg"
        )
    raw = await read_bytes(request, limits.bounds)
    if multipart.is_form(kind) and form is not None:
        return await asyncio.to_thread(multipart.read_form, raw, kind, form, limits)
    if not raw.strip():
        if default is None:
            raise BadJson(f"the body is empty, expected JSON: {DOCS} has examples")
        return default
    try:
        return await asyncio.to_thread(limits.parse_json, raw)
    except TooLarge:
        raise
    except ValueError as error:
        raise BadJson(f"the body is not JSON: {error}") from None


def fit(body: object, kind: type[B], limits: Limits, items_in: str = "data") -> B:
    """JSON as `kind`.

    Args:
        body: the JSON.
        kind: what it must fit.
        limits: how much it may hold.
        items_in: the field that holds a request's documents.

    Raises:
        BadInput: it doesn't fit; the message names the place and the value, `param` the field.
        TooLarge: it has too many documents, with their matches.
    """
    if not isinstance(body, dict):
        raise BadInput(f"the body must be a JSON object, got {body!r:.80}")
    # Before thousands of items are looked at one by one.
    if isinstance(items := body.get(items_in), list):
        limits.check_count(len(items))
        given = [item for item in items if isinstance(item, dict)]
        within = [item.get(name) for item in given for name in ("matches", "parts")]
        inside = sum(len(one) for one in within if isinstance(one, list))
        limits.check_count(len(items) + inside, TOGETHER)
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        refused = BadInput(f"body: {describe(error, list(kind.model_fields))}")
        refused.param = next((str(one["loc"][0]) for one in error.errors() if one["loc"]), None)
        raise refused from None


def to_docs(items: list[Item]) -> DocList[ClipDoc]:
    """The documents of a body.

    Raises:
        BadImage: a picture isn't base64, or no pixels; the message gives its position.
    """
    return DocList[ClipDoc](
        [ClipDoc(**_fields(item, f"document {i}")) for i, item in enumerate(items)]
    )


def to_rank_docs(items: list[RankItem]) -> DocList[RankDoc]:
    """The documents of a body, each with its matches; raises as `to_docs` does."""
    docs = DocList[RankDoc]()
    for position, item in enumerate(items):
        place = f"document {position}"
        matches = DocList[RankMatch](
            [RankMatch(**_fields(m, f"{place}: match {i}")) for i, m in enumerate(item.matches)]
        )
        docs.append(RankDoc(matches=matches, **_fields(item, place)))
    return docs


def to_query_docs(items: list[QueryItem]) -> DocList[QueryDoc]:
    """The queries of a body, each with its parts; raises as `to_docs` does."""
    docs = DocList[QueryDoc]()
    for position, item in enumerate(items):
        place = f"document {position}"
        parts = DocList[QueryPart](
            QueryPart(
                like=part.like, weight=part.weight, **_content(part, f"{place}: part {number}")
            )
            for number, part in enumerate(item.parts)
        )
        docs.append(QueryDoc(parts=parts, **_fields(item, place)))
    return docs


def _fields(item: Item, place: str) -> dict[str, object]:
    fields = _content(item, place) | {"label": item.label, "tags": item.tags}
    return fields if item.id is None else fields | {"id": item.id}


def _content(item: Content, place: str) -> dict[str, object]:
    uri, image = item.uri, None
    encoded = item.image if item.image is not None else item.blob
    if encoded is not None and encoded.startswith("data:"):
        uri = encoded
    elif encoded is not None:
        image = from_base64(encoded, place)
    elif item.tensor is not None:
        try:
            image = png_of_pixels(numbers_in(item.tensor, "tensor"))
        except BadInput as error:
            raise BadImage(f"{place}: {error}") from None
    return {"text": item.text, "image": image, "uri": uri}


def numbers_in(value: object, place: str) -> NDArray[np.generic]:
    """Lists in lists, all of one length, as an array of numbers.

    Raises:
        BadInput: they hold something else, or their lengths differ.
    """
    try:
        array = np.asarray(value)
    except ValueError:
        array = None
    if array is None or array.dtype.kind not in "iuf" or not array.ndim:
        raise BadInput(f"{place}: expected lists of numbers, all of one length")
    return array


def from_base64(text: str, what: str) -> bytes:
    """Bytes from standard or URL-safe base64, with or without padding and line breaks."""
    compact = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadImage(f"{what}: the picture is not base64: {error}") from None


def doc_fields(doc: ClipDoc) -> dict[str, object]:
    """A document as JSON has it: what is set."""
    fields: dict[str, object] = {"id": str(doc.id)}
    if doc.image is not None:
        fields["image"] = base64.b64encode(doc.image).decode()
    for name in ("text", "uri", "label", "model_digest", "image_digest", "tokens"):
        if (value := getattr(doc, name)) is not None:
            fields[name] = value
    if doc.tags:
        fields["tags"] = doc.tags
    if doc.embedding is not None:
        fields["embedding"] = np.ascontiguousarray(doc.embedding)
        if doc.embedding.dtype.kind != "f":
            fields["embedding_dtype"] = doc.embedding.dtype.name
    if isinstance(doc, RankMatch):
        fields["clip_score"], fields["clip_score_cosine"] = doc.clip_score, doc.clip_score_cosine
    if isinstance(doc, RankDoc):
        fields["matches"] = [doc_fields(match) for match in doc.matches]
    if isinstance(doc, SearchResult):
        fields["matches"] = [_match_fields(match) for match in doc.matches]
        for name in ("total", "groups", "search_id"):
            if (value := getattr(doc, name)) is not None:
                fields[name] = value
    return fields


_TOLD_IF_KNOWN = ("relevance", "fused_score", "formula_score", "more")


def _match_fields(match: Match) -> dict[str, object]:
    fields = {
        "id": str(match.id),
        "score": match.score,
        "text": match.text,
        "image_url": match.image_url,
        "uri": match.uri,
        "tags": match.tags,
    }
    known = {name: getattr(match, name) for name in _TOLD_IF_KNOWN}
    return fields | {name: value for name, value in known.items() if value is not None}


def json_response(
    content: object, status: int = 200, encoding_format: EncodingFormat = "float"
) -> Response:
    """An answer in JSON."""
    return Response(to_json(content, encoding_format), status, media_type="application/json")


def to_json(content: object, encoding_format: EncodingFormat = "float") -> bytes:
    """JSON by orjson: a hundred thousand floats take milliseconds, as base64 less than one."""
    options = orjson.OPT_NON_STR_KEYS
    if encoding_format == "float":
        options |= orjson.OPT_SERIALIZE_NUMPY
    return orjson.dumps(content, default=_for_json, option=options)


def _for_json(value: object) -> object:
    """Documents as `doc_fields` has them; arrays as base64 of bytes, or little-endian float32."""
    if isinstance(value, ClipDoc):
        return doc_fields(value)
    if isinstance(value, DocList):
        return list(value)
    if isinstance(value, np.ndarray):
        numbers = value.astype("<f4", copy=False) if value.dtype.kind == "f" else value
        return base64.b64encode(numbers.tobytes()).decode()
    raise TypeError(f"a {type(value).__name__} has no JSON")
