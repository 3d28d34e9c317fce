"""`encode`: documents or texts through one tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from docarray import DocList
from numpy.typing import NDArray

from cliptune.data.pictures.download import fetch_all, is_url
from cliptune.data.pictures.images import Picture, image_bytes
from cliptune.data.validation import texts_of
from cliptune.documents import ClipDoc
from cliptune.errors import BadImage, BadInput
from cliptune.inference.towers import TextTower, VisionTower, check_length
from cliptune.quantization import OutputDtype, check_output_dtype, quantize_embeddings

Tower = TextTower | VisionTower


@overload
def encode(
    model: Tower,
    data: DocList[ClipDoc],
    batch_size: int = ...,
    *,
    fetch: bool = ...,
    dimensions: int | None = ...,
    output_dtype: OutputDtype = ...,
) -> DocList[ClipDoc]: ...
@overload
def encode(
    model: Tower,
    data: Sequence[str] | Sequence[Picture],
    batch_size: int = ...,
    *,
    fetch: bool = ...,
    dimensions: int | None = ...,
    output_dtype: OutputDtype = ...,
) -> NDArray[Any]: ...
def encode(
    model: Tower,
    data: DocList[ClipDoc] | Sequence[str] | Sequence[Picture],
    batch_size: int = 32,
    *,
    fetch: bool = False,
    dimensions: int | None = None,
    output_dtype: OutputDtype = "float32",
) -> DocList[ClipDoc] | NDArray[Any]:
    """Encode `data` with the tower `model`.

    Documents come back with `embedding` (float32 [D], unit length) and `model_digest` set: from
    their `text` by a text tower, from their picture (`image`, a `data:` URI or a local path) by
    a vision tower; with `fetch`, an `http(s)` URI is fetched (see `data.pictures.download`). A
    list of texts (or for a vision tower of encoded pictures) gives an array
    float32 [N, D]. With `dimensions` it is their first numbers, of unit length; in `output_dtype`,
    see `quantize_embeddings`.

    Raises:
        BadInput: the model was not trained for so many `dimensions`; or there is no such type.
        BadInput: a document lacks what the tower reads; the message names it.
        BadImage: a picture can't be decoded.
    """
    check_length(dimensions, model.output_dim, model.lengths)  # before pictures are fetched
    check_output_dtype(output_dtype)
    model.batch_size = batch_size
    if isinstance(data, DocList):
        return _encode_documents(model, data, fetch, dimensions, output_dtype)
    if isinstance(data, str | bytes):
        raise BadInput("encode takes a list: put the one text or picture into [ ]")
    if isinstance(model, VisionTower):
        for position, item in enumerate(data):
            if isinstance(item, str):
                raise BadInput(
                    f"item {position} is a str, and a vision tower encodes pictures: give their "
                    "bytes, or documents with `image` or `uri`"
                )
    embeddings = model.encode(list(data), dimensions)  # type: ignore[arg-type]
    return quantize_embeddings(embeddings, output_dtype)


def _encode_documents(
    model: Tower,
    docs: DocList[ClipDoc],
    fetch: bool,
    dimensions: int | None,
    output_dtype: OutputDtype,
) -> DocList[ClipDoc]:
    if isinstance(model, TextTower):
        embeddings = model.encode(texts_of(docs), dimensions)
    else:
        embeddings = model.encode(pictures_of(docs, fetch=fetch), dimensions)
    for doc, embedding in zip(docs, quantize_embeddings(embeddings, output_dtype), strict=True):
        doc.embedding = embedding
        doc.model_digest = model.digest
    return docs


def pictures_of(
    docs: DocList[ClipDoc], *, fetch: bool = False, allow_files: bool = True
) -> list[bytes]:
    """The documents' encoded pictures.

    Args:
        docs: the documents.
        fetch: also from `http(s)` URLs.
        allow_files: read them from local paths too, not only from the documents.

    Raises:
        BadImage: one can't be read; the message names the document.
    """
    urls = [str(doc.uri) for doc in docs if doc.image is None and is_url(doc.uri)]
    fetched = dict(zip(urls, fetch_all(urls), strict=True)) if fetch and urls else {}
    pictures: list[bytes] = []
    for position, doc in enumerate(docs):
        try:
            picture = fetched.get(str(doc.uri)) if doc.image is None else None
            if isinstance(picture, BadImage):
                raise picture
            pictures.append(picture or image_bytes(doc, allow_files=allow_files))
        except BadImage as error:
            raise BadImage(f"document {position} (id {doc.id}): {error}") from error
    return pictures
