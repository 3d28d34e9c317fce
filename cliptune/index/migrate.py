"""From one index to another: all documents, resumable, and a check that they arrived."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.errors import CliptuneError, ModelMismatch
from cliptune.index.base import Index
from cliptune.index.checks import batched
from cliptune.index.metadata import Storage, as_stored
from cliptune.index.tags import same_tags

BATCH = 256
"""Documents at a time: their pictures are in memory."""
_SEARCHES = 10
_SCORES_ALIKE: dict[Storage, float] = {"float32": 1e-4, "float16": 1e-3}


class CopyDiffers(CliptuneError):
    """After a migration, the target does not hold what the source does."""


@dataclass(frozen=True)
class Migrated:
    """What a `migrate` has done."""

    copied: int
    """Documents written."""
    unchanged: int
    """Documents that were there already."""
    compared: int
    """Documents that were compared in full afterwards."""
    others: int
    """Documents that the target has and the source has not."""


def migrate(
    source: Index,
    target: Index,
    *,
    sample: int = 1000,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Migrated:
    """Write all documents of `source` to `target`, and check that they are there.

    Documents that `target` has as they are in `source` are not written again: a migration that was
    cut short goes on when it is repeated. What else `target` holds stays.

    Args:
        source: read from; it may be searched and written to meanwhile.
        target: empty, or with embeddings of the same model. If it keeps them as float16, they are
            compared as such.
        sample: so many documents, drawn at random, are read back from both and compared in
            full, pictures included; exact searches with the embeddings of some must score alike.
        seed: of the sample.
        progress: called with the number of documents done so far.

    Raises:
        ModelMismatch: the two hold embeddings of different models; nothing was written.
        CopyDiffers: documents are missing from the target, one of the sample is not the same in
            both, or a search's result.
    """
    _check_models(source, target)
    kept = target.status().storage
    random_, drawn = random.Random(seed), list[tuple[float, str]]()
    copied = unchanged = 0
    for batch in source.scan(batch_size=BATCH, include_embedding=True, include_image=True):
        ids = [str(doc.id) for doc in batch]
        there = {doc.id: doc for doc in target.get(ids, include_embedding=True)}
        missing = [doc for doc in batch if not _same(doc, there.get(doc.id), kept)]
        if missing:
            target.add(DocList[ClipDoc](missing))
        drawn = heapq.nlargest(sample, [*drawn, *((random_.random(), one) for one in ids)])
        copied += len(missing)
        unchanged += len(batch) - len(missing)
        progress(copied + unchanged)
    others = target.count() - source.count()
    if others < 0:
        raise CopyDiffers(
            f"the target has {-others} documents less than the source: were some deleted there, or "
            "added to the source meanwhile? Repeat the migration"
        )
    sampled = [one for _, one in drawn]
    compared = _compare_documents(source, target, sampled, kept)
    if not others:
        _compare_searches(source, target, sampled[:_SEARCHES], kept)
    return Migrated(copied, unchanged, compared, others)


def _check_models(source: Index, target: Index) -> None:
    ours, theirs = source.status(), target.status()
    if ours.model_digest and theirs.model_digest and ours.model_digest != theirs.model_digest:
        raise ModelMismatch(
            f"{ours.uri} holds embeddings of model {ours.model_digest[:12]}, {theirs.uri} those of "
            f"model {theirs.model_digest[:12]}: clear the target, or give another"
        )


def same_document(doc: ClipDoc, other: ClipDoc | None) -> bool:
    """Whether they are alike but for embedding and picture, for which its digest stands."""
    fields = ("text", "uri", "label", "image_digest")
    return (
        other is not None
        and all(getattr(doc, name) == getattr(other, name) for name in fields)
        and same_tags(doc.tags, other.tags)
    )


def _same(doc: ClipDoc, other: ClipDoc | None, kept: Storage) -> bool:
    """`same_document`, and embeddings that are alike if they are kept alike."""
    return (
        other is not None
        and same_document(doc, other)
        and doc.model_digest == other.model_digest
        and np.array_equal(_kept(doc, kept), _kept(other, kept))
    )


def _kept(doc: ClipDoc, kept: Storage) -> np.ndarray:
    return as_stored(np.asarray(doc.embedding)[None], kept)


def _compare_documents(source: Index, target: Index, ids: list[str], kept: Storage) -> int:
    """Compare the documents that `source` has of these; returns their number."""
    compared = 0
    for part in batched(ids, BATCH):
        copies = target.get(part, include_embedding=True, include_image=True)
        theirs = {doc.id: doc for doc in copies}
        for doc in source.get(part, include_embedding=True, include_image=True):
            other = theirs.get(doc.id)
            if not _same(doc, other, kept) or (other and doc.image != other.image):
                raise CopyDiffers(f"document {doc.id!r:.80} is not the same in both")
            compared += 1
    return compared


def _compare_searches(source: Index, target: Index, ids: list[str], kept: Storage) -> None:
    docs = source.get(ids, include_embedding=True)
    if not docs:
        return
    queries = np.stack([np.asarray(doc.embedding) for doc in docs])
    digest = str(docs[0].model_digest)
    results = (index.search(queries, digest, exact=True) for index in (source, target))
    for doc, *answers in zip(docs, *results, strict=True):
        ours, theirs = ([match.score for match in matches] for matches in answers)
        if len(ours) != len(theirs) or not np.allclose(ours, theirs, atol=_SCORES_ALIKE[kept]):
            raise CopyDiffers(f"a search with the embedding of {doc.id!r:.80} differs")
