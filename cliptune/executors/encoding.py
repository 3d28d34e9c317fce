"""What the encoder executors do: which documents go through which tower, and how they compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from docarray import DocList
from numpy.typing import NDArray

from cliptune.data.pictures.images import decoded_pixels, image_bytes
from cliptune.documents import ClipDoc, RankDoc, RankMatch
from cliptune.errors import BadImage, BadInput, TooLarge
from cliptune.executors.fetching import Fetcher
from cliptune.protocol.limits import (
    documents_by_name,
    has_image,
    has_text,
    is_reference,
    name_of_document,
)
from cliptune.quantization import OutputDtype, quantize_embeddings

if TYPE_CHECKING:  # importing it imports torch, which must not happen before Jina's fork
    from cliptune.inference import TextTower, VisionTower

D = TypeVar("D", bound=ClipDoc)
LOGIT_SCALE = 100.0
"""What cosines are multiplied by: where CLIP's training clips it, as clip-as-service takes it."""


def embed_texts(
    tower: TextTower,
    docs: DocList[D],
    count_tokens: bool = False,
    dimensions: int | None = None,
) -> DocList[D]:
    """Embed the documents with a text, and such matches and parts of theirs, as one batch.

    The others get the model's digest alone. With `count_tokens` each text's `tokens` are told.

    Raises:
        BadInput: one has neither text nor picture; it is named. Or the model was not trained for
            so many `dimensions`.
    """
    named = documents_by_name(docs)
    for called, doc in named.items():
        if not has_text(doc) and not has_image(doc) and not is_reference(doc):
            raise BadInput(f"{called} has neither a text nor a picture")
        doc.embedding = None  # never trust what a client sent along
        doc.model_digest = tower.digest  # by which the vision tower is chosen, for all of a request
    chosen = [doc for doc in named.values() if has_text(doc)]
    if chosen:
        _set(chosen, tower, tower.encode([str(doc.text) for doc in chosen], dimensions))
    for doc in chosen:
        doc.image = None  # nobody looks at it, and it need not go back
        doc.tokens = tower.count_tokens(str(doc.text)) if count_tokens else None
    return docs


def in_output_dtype(docs: DocList[D], output_dtype: OutputDtype) -> DocList[D]:
    """The documents with embeddings as `quantize_embeddings` makes them.

    Those of the encoder before are already.
    """
    if output_dtype == "float32":
        return docs
    for doc in docs:
        if doc.embedding is not None and doc.embedding.dtype == np.float32:
            quantized = quantize_embeddings(doc.embedding, output_dtype)
            setattr(doc, "embedding", quantized)  # noqa: B010 - as in `_set`
    return docs


def calibrate_texts(tower: TextTower, docs: DocList[D]) -> DocList[D]:
    """Have queries that are texts tell what cosines with them mean, where the model is calibrated.

    The others must not, whatever a client sent along: pictures are nearer to one another.
    """
    curve = tower.calibration.curve if tower.calibration else None
    for doc in docs:
        doc.calibration = curve if has_text(doc) else None
    return docs


def embed_pictures(
    tower: VisionTower, docs: DocList[D], pictures: Pictures, dimensions: int | None = None
) -> DocList[D]:
    """Embed the pictures of documents without a text, and such matches and parts, as one batch.

    The pictures themselves are dropped then: who sent them has them, and they are the bulk of
    an answer.

    Raises:
        BadImage: a picture can't be read or decoded; its document is named.
        BadInput: the model was not trained for so many `dimensions`.
    """
    named = documents_by_name(docs)
    chosen = {called: doc for called, doc in named.items() if has_image(doc) and not has_text(doc)}
    pictures.embed(tower, chosen, dimensions)
    for doc in named.values():
        doc.image = None
    return docs


def embed_all_pictures(
    tower: VisionTower, docs: DocList[ClipDoc], pictures: Pictures
) -> DocList[ClipDoc]:
    """Embed the picture of each document, whatever its text.

    Raises:
        BadInput: one has no picture: its position and id.
        BadImage: a picture can't be read or decoded: likewise.
    """
    for position, doc in enumerate(docs):
        if not has_image(doc):
            raise BadInput(
                f"{name_of_document(position, doc)} has no picture: only pictures are indexed"
            )
    pictures.embed(tower, {name_of_document(i, doc): doc for i, doc in enumerate(docs)})
    return docs


def embed_all_texts(tower: TextTower, docs: DocList[ClipDoc]) -> DocList[ClipDoc]:
    """Embed the text of each document, whatever its picture.

    Raises:
        BadInput: one has no text: its position and id.
    """
    for position, doc in enumerate(docs):
        if not has_text(doc):
            raise BadInput(f"{name_of_document(position, doc)} has no text")
    _set(list(docs), tower, tower.encode([str(doc.text) for doc in docs]))
    return docs


def embed_new_pictures(
    tower: VisionTower, docs: DocList[ClipDoc], pictures: Pictures
) -> DocList[ClipDoc]:
    """Embed the pictures of the documents that have one; the others keep what is stored.

    A URI is read if it may be; else it is a link to be shown, and the picture stays.

    Raises:
        BadImage: a picture can't be read or decoded: the document's position and id.
    """
    for doc in docs:
        doc.embedding = doc.model_digest = None  # never trust what a client sent along

    def is_link(doc: ClipDoc) -> bool:
        return _is_elsewhere(doc) and not pictures.covers(doc)

    new = {
        name_of_document(i, doc): doc
        for i, doc in enumerate(docs)
        if has_image(doc) and not is_link(doc)
    }
    pictures.embed(tower, new)
    return docs


@dataclass(frozen=True)
class Pictures:
    """How the pictures of requests are read."""

    max_all_pixels: int
    """Of all pictures of a request, as they are decoded."""
    fetcher: Fetcher | None = None
    """Reads those that are given by URI; None: they are refused."""

    def covers(self, doc: ClipDoc) -> bool:
        """Whether a document's picture is elsewhere, and may be read there."""
        return self.fetcher is not None and self.fetcher.covers(str(doc.uri))

    def embed(
        self, tower: VisionTower, docs: Mapping[str, ClipDoc], dimensions: int | None = None
    ) -> None:
        """Set the embeddings of documents, which are given by what errors call them.

        Raises:
            BadImage: a picture can't be read or decoded; the document is named.
            TooLarge: there are too many pixels.
        """
        if not docs:
            return
        pictures = self._read(docs)
        self._check_pixels(docs, pictures, tower)
        try:
            embeddings = tower.encode(pictures, dimensions)
        except BadImage as error:
            raise _named(docs, pictures, tower) or error from None
        for doc, picture in zip(docs.values(), pictures, strict=True):
            doc.image = picture  # what the index stores; a data: URI is not needed any more
            if doc.uri and doc.uri.startswith("data:"):
                doc.uri = None
        _set(list(docs.values()), tower, embeddings)

    def _read(self, docs: Mapping[str, ClipDoc]) -> list[bytes]:
        elsewhere = [doc for doc in docs.values() if _is_elsewhere(doc)] if self.fetcher else []
        uris = [str(doc.uri) for doc in elsewhere]
        fetched = iter(self.fetcher.read_all(uris) if self.fetcher else ())
        pictures = []
        for called, doc in docs.items():
            try:
                if self.fetcher and _is_elsewhere(doc):
                    picture = next(fetched)
                    if isinstance(picture, BadImage):
                        raise picture
                    pictures.append(picture)
                else:
                    pictures.append(image_bytes(doc, allow_files=False))
            except BadImage as error:
                raise BadImage(f"{called}: {error}") from None
        return pictures

    def _check_pixels(
        self, docs: Mapping[str, ClipDoc], pictures: list[bytes], tower: VisionTower
    ) -> None:
        """Refuse pictures that are too large together, before one of them is decoded."""
        total = 0
        for called, picture in zip(docs, pictures, strict=True):
            try:
                total += decoded_pixels(picture, tower.preprocessing)
            except BadImage as error:
                raise BadImage(f"{called}: {error}") from None
            if total > self.max_all_pixels:
                raise TooLarge(
                    f"{called}: with those before it {total} pixels, the limit of one "
                    f"request is {self.max_all_pixels}: send fewer pictures at once, or smaller "
                    "ones"
                )


def _is_elsewhere(doc: ClipDoc) -> bool:
    return doc.image is None and bool(doc.uri) and not str(doc.uri).startswith("data:")


def _named(
    docs: Mapping[str, ClipDoc], pictures: list[bytes], tower: VisionTower
) -> BadImage | None:
    """What is wrong with the first picture that can't be decoded, with its document's name."""
    from cliptune.data.pictures.images import decode_pixels

    for called, picture in zip(docs, pictures, strict=True):
        try:
            decode_pixels(picture, tower.preprocessing)
        except BadImage as reason:
            return BadImage(f"{called}: {reason}")
    return None


def _set(
    docs: list[ClipDoc],
    tower: TextTower | VisionTower,
    embeddings: NDArray[np.float32],
) -> None:
    for doc, embedding in zip(docs, embeddings, strict=True):
        setattr(doc, "embedding", embedding)  # noqa: B010 - it becomes DocArray's own array
        doc.model_digest = tower.digest


def rank_texts(
    tower: TextTower, docs: DocList[RankDoc], count_tokens: bool = False
) -> DocList[RankDoc]:
    """Embed the texts among the documents and their matches; `count_tokens` as in `embed_texts`.

    Raises:
        BadInput: a document has no matches, or one of them neither text nor picture.
    """
    for position, doc in enumerate(docs):
        if not doc.matches:
            raise BadInput(f"{name_of_document(position, doc)} has no matches to rank")
    return embed_texts(tower, docs, count_tokens)


def rank_pictures(
    tower: VisionTower, docs: DocList[RankDoc], pictures: Pictures
) -> DocList[RankDoc]:
    """Embed the pictures, and sort the matches by how well they fit.

    Raises:
        BadImage: a picture can't be read or decoded.
    """
    embed_pictures(tower, docs, pictures)
    for doc in docs:
        _sort(doc)
    return docs


def _sort(doc: RankDoc) -> None:
    matches = list(doc.matches)
    cosines = np.stack([np.asarray(m.embedding) for m in matches]) @ np.asarray(doc.embedding)
    for match, cosine, score in zip(matches, cosines, softmax(cosines), strict=True):
        match.clip_score_cosine, match.clip_score = float(cosine), float(score)
        match.embedding = match.model_digest = None
    order = np.argsort(-cosines, kind="stable")
    doc.matches = DocList[RankMatch]([matches[i] for i in order])


def softmax(cosines: NDArray[np.floating]) -> NDArray[np.float64]:
    """What part of the probability each of the cosines [N] has: float [N], adding up to 1."""
    logits = LOGIT_SCALE * cosines.astype(np.float64)
    weights = np.exp(logits - logits.max())
    probabilities: NDArray[np.float64] = weights / weights.sum()
    return probabilities
