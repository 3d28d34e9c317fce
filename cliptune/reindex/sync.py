"""Bringing one generation's index to what another's holds, embedded by its own model."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

import numpy as np
from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.errors import BadImage, BadInput, CliptuneError, Unavailable
from cliptune.index.base import Index
from cliptune.index.checks import batched
from cliptune.index.migrate import same_document

if TYPE_CHECKING:
    from cliptune.inference import TextTower, VisionTower
    from cliptune.inference.engines import TowerOptions

Result = TypeVar("Result")
_LISTED = 1000
"""Documents in a batch of a scan, without their pictures."""
_PICTURES = 32
"""Documents whose pictures are read and embedded at once."""
_WRITTEN = 256
"""Documents in a transaction, or fewer where their pictures are more than `_WRITTEN_BYTES`."""
_WRITTEN_BYTES = 64 * 2**20
_SCAN_RETRIES = 5


class CannotEmbed(CliptuneError):
    """Documents have no stored picture, or one that can't be decoded; the message names some."""

    http_status = 409


class Towers:
    """Both towers of the model that documents are embedded by, each loaded when it is needed.

    Most indexes hold pictures alone. The first use raises `NotFound`, `BadInput` or `BadArtifact`
    if the model lacks what the engine runs.
    """

    def __init__(self, model: str | Path, **engine: Unpack[TowerOptions]) -> None:
        """Of `model`, run as `engine` says."""
        self._model, self._engine = model, engine

    @cached_property
    def text(self) -> TextTower:
        """Embeds texts."""
        from cliptune.inference import get_tower

        return get_tower(self._model, "clip-text", **self._engine)

    @cached_property
    def vision(self) -> VisionTower:
        """Embeds pictures."""
        from cliptune.inference import get_tower

        return get_tower(self._model, "clip-vision", **self._engine)


@dataclass
class SyncResult:
    """What a pass has done."""

    embedded: int = 0
    """Documents embedded and written."""
    unchanged: int = 0
    """Documents that were there already, as they are."""
    deleted: int = 0
    """Documents that the source does not have (any more)."""
    refused: list[str] = field(default_factory=list)
    """What can't be embedded: ids and reasons."""

    @property
    def seen(self) -> int:
        """Documents of the source that were dealt with."""
        return self.embedded + self.unchanged + len(self.refused)

    @property
    def changed(self) -> int:
        """Documents that were not as they are in the source."""
        return self.embedded + self.deleted

    def __iadd__(self, other: SyncResult) -> Self:
        """Both together."""
        self.embedded += other.embedded
        self.unchanged += other.unchanged
        self.deleted += other.deleted
        self.refused += other.refused
        return self

    def check(self) -> None:
        """Raise `CannotEmbed` if there are such documents."""
        if self.refused:
            raise CannotEmbed(
                f"{len(self.refused)} documents can't be embedded by the other model, such as "
                f"{'; '.join(self.refused[:3])}. Delete them, or index them again with their "
                "pictures, and repeat the swap: it goes on where it is"
            )


Progress = Callable[[SyncResult], None]
Pair = tuple[ClipDoc | None, ClipDoc | None]
"""A document of the source, and that of the same id in the target."""


def sync_all(
    source: Index, target: Index, towers: Towers, progress: Progress = lambda so_far: None
) -> SyncResult:
    """Bring all documents of `target` to what they are in `source`.

    Both are read side by side in the order of their ids. Documents that are the same in both (by
    text, URI, label, tags and the picture's SHA-256) stay: what was cut short goes on when it is
    repeated. Documents that are written to `source` meanwhile may or may not be brought along.

    Args:
        source: read from; it may be searched and written to meanwhile.
        target: of the model of `towers`; nothing else may write to it.
        towers: embed the stored pictures, and the texts that were stored without one.
        progress: called now and then.

    Raises:
        Unavailable: an index can't be reached, or its disk is full.
    """
    return _sync(source, target, _side_by_side(_scan(source), _scan(target)), towers, progress)


def sync_ids(
    source: Index,
    target: Index,
    towers: Towers,
    ids: Sequence[str],
    progress: Progress = lambda so_far: None,
) -> SyncResult:
    """`sync_all` of the documents `ids` alone."""

    def pairs() -> Iterator[Pair]:
        for part in batched(ids, _LISTED):
            ours, theirs = ({str(doc.id): doc for doc in one.get(part)} for one in (source, target))
            yield from ((ours.get(one), theirs.get(one)) for one in part)

    return _sync(source, target, pairs(), towers, progress)


def _sync(
    source: Index, target: Index, pairs: Iterable[Pair], towers: Towers, progress: Progress
) -> SyncResult:
    """Of each pair, embed and write the first or delete the second where they differ.

    One batch is read and one written while one is embedded.
    """
    done = SyncResult()
    to_delete: list[str] = []

    def delete() -> None:
        if to_delete:
            done.deleted += target.delete(ids=to_delete)
        to_delete.clear()

    def to_embed() -> Iterator[str]:
        for doc, other in pairs:
            if doc and same_document(doc, other):
                done.unchanged += 1
                if done.unchanged % _LISTED == 0:
                    progress(done)
            elif doc:
                yield str(doc.id)
            elif other:
                to_delete.append(str(other.id))
                if len(to_delete) >= _LISTED:
                    delete()

    threads = ThreadPoolExecutor(2, thread_name_prefix="cliptune-swap")
    try:
        ids = to_embed()
        batches = iter(lambda: list(islice(ids, _PICTURES)), [])
        reads = (threads.submit(source.get, part, include_image=True) for part in batches)
        embedded = (doc for docs in _one_behind(reads) for doc in _embed(docs, towers, done))
        writes = (threads.submit(target.add, docs) for docs in _in_transactions(embedded))
        for written in _one_behind(writes):
            done.embedded += written
            progress(done)
        delete()
    finally:
        threads.shutdown(cancel_futures=True)
    progress(done)
    return done


def _one_behind(futures: Iterable[Future[Result]]) -> Iterator[Result]:
    """Their results, each when the next one has begun."""
    before: Future[Result] | None = None
    for future in futures:
        if before:
            yield before.result()
        before = future
    if before:
        yield before.result()


def _embed(docs: Iterable[ClipDoc], towers: Towers, done: SyncResult) -> list[ClipDoc]:
    """Those of `docs` that can be embedded, with their embeddings; `done` is told of the others.

    Documents that have been deleted since are not among them: the changelog names them.
    """
    texts = [doc for doc in docs if _is_text(doc)]
    pictures = [doc for doc in docs if doc.image is not None]
    done.refused += [
        f"{doc.id!r:.80} (no stored picture)"
        for doc in docs
        if doc.image is None and not _is_text(doc)
    ]
    pairs = list(_embed_pictures(pictures, towers, done))
    if texts:
        pairs += zip(texts, towers.text.encode([str(doc.text) for doc in texts]), strict=True)
    for doc, embedding in pairs:
        doc.embedding = embedding  # type: ignore[assignment] # DocArray takes any array
        doc.model_digest = towers.vision.digest
    return [doc for doc, _ in pairs]


def _embed_pictures(
    docs: list[ClipDoc], towers: Towers, done: SyncResult
) -> Iterator[tuple[ClipDoc, np.ndarray]]:
    """Each with its embedding; where a picture is broken, halves, down to the one at fault."""
    if not docs:
        return
    try:
        yield from zip(docs, towers.vision.encode([doc.image for doc in docs]), strict=True)
    except BadImage as error:
        if len(docs) == 1:
            done.refused.append(f"{docs[0].id!r:.80} ({error})")
            return
        middle = len(docs) // 2
        yield from _embed_pictures(docs[:middle], towers, done)
        yield from _embed_pictures(docs[middle:], towers, done)


def _in_transactions(docs: Iterable[ClipDoc]) -> Iterator[DocList[ClipDoc]]:
    """The documents, as many at once as are to be written together."""
    batch, size = DocList[ClipDoc](), 0
    for doc in docs:
        batch.append(doc)
        size += len(doc.image or b"")
        if len(batch) >= _WRITTEN or size >= _WRITTEN_BYTES:
            yield batch
            batch, size = DocList[ClipDoc](), 0
    if batch:
        yield batch


def _is_text(doc: ClipDoc) -> bool:
    """Whether it was stored as a text, and embedded by it: it never had a picture."""
    return doc.image is None and doc.image_digest is None and bool((doc.text or "").strip())


def _scan(index: Index) -> Iterator[ClipDoc]:
    """All documents in the order of their ids, without pictures.

    A scan may end early where the index is optimised meanwhile: it goes on behind its last one.
    """
    after: str | None = None
    failures = 0
    while True:
        try:
            for batch in index.scan(after=after, batch_size=_LISTED):
                yield from batch
                after, failures = str(batch[-1].id), 0
            return
        except Unavailable:
            failures += 1
            if failures > _SCAN_RETRIES:
                raise


def _side_by_side(ones: Iterator[ClipDoc], others: Iterator[ClipDoc]) -> Iterator[Pair]:
    """Pairs of the same id; None where one side has none."""
    numbered = heapq.merge(
        ((str(doc.id), 0, doc) for doc in ones),
        ((str(doc.id), 1, doc) for doc in others),
        key=lambda item: item[:2],
    )
    for _, same in groupby(numbered, key=lambda item: item[0]):
        of_side = {side: doc for _, side, doc in same}
        yield of_side.get(0), of_side.get(1)


def check_same_documents(source: Index, target: Index) -> None:
    """Raise `BadInput` if the two do not hold as many documents; a last look before a switch."""
    ours, theirs = source.count(), target.count()
    if ours != theirs:
        raise BadInput(
            f"the new index holds {theirs} documents and the current one {ours}: repeat the swap"
        )
