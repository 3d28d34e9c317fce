"""What the encoder executors do: which documents go through which tower, and how they compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from docarray import DocList
from numpy.typing import NDArray

from cliptune.data.pictures.images import decoded_pixels, image_bytes
from cliptune.documents import ClipDoc, RankDoc, RankMatch
from cliptune.errors import BadImage, BadInput, TooLarge
from cliptune.executors.fetching import Fetcher
from cliptune.protocol.limits import check_count, check_docs, has_image, has_text, name
from cliptune.settings import current

if TYPE_CHECKING:  # importing it imports torch, which must not happen before Jina's fork
    from cliptune.inference import TextTower, VisionTower

LOGIT_SCALE = 100.0
"""What cosines are multiplied by: where CLIP's training clips it, as clip-as-service takes it."""


def embed_texts(tower: TextTower, docs: DocList[ClipDoc]) -> DocList[ClipDoc]:
    """Embed the documents with a text; the others get the model's digest alone.

    Raises:
        BadInput: no documents, or one has neither text nor picture: its position and id.
        TooLarge: a limit is exceeded.
    """
    check_docs(docs)
    for position, doc in enumerate(docs):
        if not has_text(doc) and not has_image(doc):
            raise BadInput(f"{name(position, doc)} has neither a text nor a picture")
        doc.embedding = None  # never trust what a client sent along
        doc.model_digest = tower.digest  # by which the vision tower is chosen, for all of a request
    chosen = [doc for doc in docs if has_text(doc)]
    _set(chosen, tower, tower.encode([str(doc.text) for doc in chosen]) if chosen else ())
    return docs


def embed_pictures(
    tower: VisionTower, docs: DocList[ClipDoc], fetcher: Fetcher | None = None
) -> DocList[ClipDoc]:
    """Embed the pictures of the documents without a text.

    The pictures themselves are dropped then: who sent them has them, and they are the bulk of
    an answer. `fetcher` reads those that are given by URI; None: they are refused.

    Raises:
        BadImage: a picture can't be read or decoded: the document's position and id.
    """
    chosen = [(i, doc) for i, doc in enumerate(docs) if not has_text(doc)]
    _embed_pictures(tower, chosen, fetcher)
    for doc in docs:
        doc.image = None
    return docs


def embed_all_pictures(
    tower: VisionTower, docs: DocList[ClipDoc], fetcher: Fetcher | None = None
) -> DocList[ClipDoc]:
    """Embed the picture of each document, whatever its text; `fetcher` as in `embed_pictures`.

    Raises:
        BadInput: no documents, or one has no picture: its position and id.
        BadImage: a picture can't be read or decoded: likewise.
        TooLarge: a limit is exceeded.
    """
    check_docs(docs)
    for position, doc in enumerate(docs):
        if not has_image(doc):
            raise BadInput(f"{name(position, doc)} has no picture: only pictures are indexed")
    _embed_pictures(tower, list(enumerate(docs)), fetcher)
    return docs


def embed_all_texts(tower: TextTower, docs: DocList[ClipDoc]) -> DocList[ClipDoc]:
    """Embed the text of each document, whatever its picture.

    Raises:
        BadInput: no documents, or one has no text: its position and id.
        TooLarge: a limit is exceeded.
    """
    check_docs(docs)
    for position, doc in enumerate(docs):
        if not has_text(doc):
            raise BadInput(f"{name(position, doc)} has no text")
    _set(list(docs), tower, tower.encode([str(doc.text) for doc in docs]))
    return docs


def embed_new_pictures(
    tower: VisionTower, docs: DocList[ClipDoc], fetcher: Fetcher | None = None
) -> DocList[ClipDoc]:
    """Embed the pictures of the documents that have one; the others keep what is stored.

    A URI is read if `fetcher` may read it; else it is a link to be shown, and the picture stays.

    Raises:
        BadInput: no documents.
        BadImage: a picture can't be read or decoded: the document's position and id.
        TooLarge: a limit is exceeded.
    """
    check_docs(docs)
    for doc in docs:
        doc.embedding = doc.model_digest = None  # never trust what a client sent along

    def is_link(doc: ClipDoc) -> bool:
        return _is_elsewhere(doc) and not (fetcher and fetcher.covers(str(doc.uri)))

    new = [(i, doc) for i, doc in enumerate(docs) if has_image(doc) and not is_link(doc)]
    _embed_pictures(tower, new, fetcher)
    return docs


def _embed_pictures(
    tower: VisionTower, docs: list[tuple[int, ClipDoc]], fetcher: Fetcher | None
) -> None:
    elsewhere = [doc for _, doc in docs if _is_elsewhere(doc)] if fetcher else []
    fetched = iter(fetcher.read_all([str(doc.uri) for doc in elsewhere]) if fetcher else ())
    pictures = []
    for position, doc in docs:
        try:
            if fetcher and _is_elsewhere(doc):
                picture = next(fetched)
                if isinstance(picture, BadImage):
                    raise picture
                pictures.append(picture)
            else:
                pictures.append(image_bytes(doc, allow_files=False))
        except BadImage as error:
            raise BadImage(f"{name(position, doc)}: {error}") from None
    if not pictures:
        return
    _check_pixels(docs, pictures, tower)
    try:
        embeddings = tower.encode(pictures)
    except BadImage as error:
        raise _named(error, docs, pictures, tower) or error from None
    for (_, doc), picture in zip(docs, pictures, strict=True):
        doc.image = picture  # what the index stores; a data: URI is not needed any more
        if doc.uri and doc.uri.startswith("data:"):
            doc.uri = None
    _set([doc for _, doc in docs], tower, embeddings)


def _check_pixels(
    docs: list[tuple[int, ClipDoc]], pictures: list[bytes], tower: VisionTower
) -> None:
    """Refuse pictures that are too large together, before one of them is decoded."""
    total = 0
    for (position, doc), picture in zip(docs, pictures, strict=True):
        try:
            total += decoded_pixels(picture, tower.preprocessing)
        except BadImage as error:
            raise BadImage(f"{name(position, doc)}: {error}") from None
        if total > (most := current().max_all_pixels):
            raise TooLarge(
                f"{name(position, doc)}: with those before it {total} pixels, the limit of one "
                f"request is {most}: send fewer pictures at once, or smaller ones"
            )


def _is_elsewhere(doc: ClipDoc) -> bool:
    return doc.image is None and bool(doc.uri) and not str(doc.uri).startswith("data:")


def _named(
    error: BadImage, docs: list[tuple[int, ClipDoc]], pictures: list[bytes], tower: VisionTower
) -> BadImage | None:
    """`error` with the position among the request's documents, and the id."""
    from cliptune.data.pictures.images import decode_pixels

    for (position, doc), picture in zip(docs, pictures, strict=True):
        try:
            decode_pixels(picture, tower.preprocessing)
        except BadImage as reason:
            return BadImage(f"{name(position, doc)}: {reason}")
    return None


def _set(
    docs: list[ClipDoc],
    tower: TextTower | VisionTower,
    embeddings: NDArray[np.float32] | tuple[()],
) -> None:
    for doc, embedding in zip(docs, embeddings, strict=True):
        setattr(doc, "embedding", embedding)  # noqa: B010 - it becomes DocArray's own array
        doc.model_digest = tower.digest


def rank_texts(tower: TextTower, docs: DocList[RankDoc]) -> DocList[RankDoc]:
    """Embed the texts among the documents and their matches.

    Raises:
        BadInput: no documents, one without matches, or one of them has neither text nor picture.
        TooLarge: a limit is exceeded; matches count as documents.
    """
    flat = _flat(docs)
    embed_texts(tower, flat)
    return docs


def rank_pictures(
    tower: VisionTower, docs: DocList[RankDoc], fetcher: Fetcher | None = None
) -> DocList[RankDoc]:
    """Embed the pictures, and sort the matches by how well they fit; `fetcher` reads URIs.

    Raises:
        BadImage: a picture can't be read or decoded.
    """
    flat = _flat(docs)
    try:
        embed_pictures(tower, flat, fetcher)
    except BadImage as error:
        raise BadImage(f"{error} (matches counted)") from None
    for doc in docs:
        _sort(doc)
    return docs


def _flat(docs: DocList[RankDoc]) -> DocList[ClipDoc]:
    """Each document followed by its matches: the same objects."""
    check_docs(docs)
    for position, doc in enumerate(docs):
        if not doc.matches:
            raise BadInput(f"{name(position, doc)} has no matches to rank")
        for number, match in enumerate(doc.matches):
            if not has_text(match) and not has_image(match):
                raise BadInput(
                    f"{name(position, doc)}: match {number} has neither a text nor a picture"
                )
    count = len(docs) + sum(len(doc.matches) for doc in docs)
    check_count(count, "documents and matches")
    flat = DocList[ClipDoc]()
    for doc in docs:
        flat.append(doc)
        flat.extend(doc.matches)
    return flat


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
