"""What the encoders do for `/rank`: texts with pictures, or pictures with texts, best first."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
from docarray import DocList

from cliptune.documents import ClipDoc, RankDoc, RankMatch
from cliptune.errors import BadImage, BadInput
from cliptune.executors.encoding import embed_pictures, embed_texts
from cliptune.executors.fetching import Fetcher
from cliptune.protocol.limits import check_count, check_docs, has_image, has_text, name

if TYPE_CHECKING:  # importing it imports torch, which must not happen before Jina's fork
    from cliptune.inference import TextTower, VisionTower

LOGIT_SCALE = 100.0
"""What cosines are multiplied by: where CLIP's training clips it, as clip-as-service takes it."""


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
    check_docs(cast(DocList[ClipDoc], docs))
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


def softmax(cosines: np.ndarray) -> np.ndarray:
    """What part of the probability each of the cosines [N] has: float [N], adding up to 1."""
    logits = LOGIT_SCALE * cosines.astype(np.float64)
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()
