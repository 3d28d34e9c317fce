"""Bringing one generation's index to what another's holds, embedded by its own model."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np
from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.errors import BadImage, BadInput, CliptuneError, Unavailable
from cliptune.index.base import Index
from cliptune.index.checks import in_parts
from cliptune.index.tags import same_tags

if TYPE_CHECKING:
    from cliptune.inference import TextTower, VisionTower

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


@dataclass(frozen=True)
class Towers:
    """Both towers of the model that documents are embedded by."""

    vision: VisionTower
    text: Callable[[], TextTower]
    """Loaded when the first text asks for it: most indexes hold pictures alone."""


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
    done = SyncResult()
    with _Writer(source, target, towers, done, progress) as writer:
        for doc, other in _side_by_side(_scan(source), _scan(target)):
            if doc is None:
                writer.delete(str(other.id))  # type: ignore[union-attr]
            elif _same(doc, other):
                done.unchanged += 1
                if done.unchanged % _LISTED == 0:
                    progress(done)
            else:
                writer.embed(str(doc.id))
    progress(done)
    return done


def sync_ids(
    source: Index,
    target: Index,
    towers: Towers,
    ids: Iterable[str],
    progress: Progress = lambda so_far: None,
) -> SyncResult:
    """`sync_all` of the documents `ids` alone."""
    done = SyncResult()
    with _Writer(source, target, towers, done, progress) as writer:
        for part in in_parts(list(ids), _LISTED):
            there = {str(doc.id): doc for doc in source.get(part)}
            others = {str(doc.id): doc for doc in target.get(part)}
            for one in part:
                if one not in there:
                    if one in others:
                        writer.delete(one)
                elif _same(there[one], others.get(one)):
                    done.unchanged += 1
                else:
                    writer.embed(one)
    progress(done)
    return done


class _Writer:
    """Embeds documents and writes them: one batch is read and one written while one is embedded."""

    def __init__(
        self, source: Index, target: Index, towers: Towers, done: SyncResult, progress: Progress
    ) -> None:
        self.source, self.target, self.towers = source, target, towers
        self.done, self.progress = done, progress
        self._to_embed: list[str] = []
        self._to_delete: list[str] = []
        self._to_write = DocList[ClipDoc]()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="cliptune-swap")
        self._read: Future[DocList[ClipDoc]] | None = None
        self._written: Future[int] | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._threads.shutdown(cancel_futures=True)

    def embed(self, one: str) -> None:
        self._to_embed.append(one)
        if len(self._to_embed) >= _PICTURES:
            self._next_read()

    def delete(self, one: str) -> None:
        self._to_delete.append(one)
        if len(self._to_delete) >= _LISTED:
            self._delete()

    def _next_read(self) -> None:
        """Begin to read the next documents, and meanwhile embed those that have been read."""
        ids, self._to_embed = self._to_embed, []
        read, self._read = self._read, None
        if ids:
            self._read = self._threads.submit(self.source.get, ids, include_image=True)
        if read:
            self._embed(read.result())

    def _embed(self, docs: DocList[ClipDoc]) -> None:
        # Those that have been deleted since are not among them: the changelog names them.
        pictures = [doc for doc in docs if doc.image is not None]
        texts = [doc for doc in docs if _is_text(doc)]
        self.done.refused += [
            f"{doc.id!r:.80} (no stored picture)"
            for doc in docs
            if doc.image is None and not _is_text(doc)
        ]
        embedded = self._embedded(pictures)
        if texts:
            encoded = self.towers.text().encode([str(doc.text) for doc in texts])
            embedded += zip(texts, encoded, strict=True)
        for doc, embedding in embedded:
            doc.embedding = embedding  # type: ignore[assignment] # DocArray takes any array
            doc.model_digest = self.towers.vision.digest
            self._to_write.append(doc)
        size = sum(len(doc.image or b"") for doc in self._to_write)
        if len(self._to_write) >= _WRITTEN or size >= _WRITTEN_BYTES:
            self._write()

    def _embedded(self, docs: list[ClipDoc]) -> list[tuple[ClipDoc, np.ndarray]]:
        if not docs:
            return []
        try:
            embeddings = self.towers.vision.encode([doc.image for doc in docs])
            return list(zip(docs, embeddings, strict=True))
        except BadImage as error:
            if len(docs) == 1:
                self.done.refused.append(f"{docs[0].id!r:.80} ({error})")
                return []
            middle = len(docs) // 2
            return self._embedded(docs[:middle]) + self._embedded(docs[middle:])

    def _write(self) -> None:
        self._await_written()
        docs, self._to_write = self._to_write, DocList[ClipDoc]()
        if docs:
            self._written = self._threads.submit(self.target.add, docs)

    def _await_written(self) -> None:
        written, self._written = self._written, None
        if written:
            self.done.embedded += written.result()
            self.progress(self.done)

    def _delete(self) -> None:
        ids, self._to_delete = self._to_delete, []
        if ids:
            self.done.deleted += self.target.delete(ids=ids)

    def _flush(self) -> None:
        self._next_read()
        self._next_read()
        self._write()
        self._await_written()
        self._delete()


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


def _side_by_side(
    ones: Iterator[ClipDoc], others: Iterator[ClipDoc]
) -> Iterator[tuple[ClipDoc | None, ClipDoc | None]]:
    """Pairs of the same id; None where one side has none."""
    numbered = heapq.merge(
        ((str(doc.id), 0, doc) for doc in ones),
        ((str(doc.id), 1, doc) for doc in others),
        key=lambda item: item[:2],
    )
    waiting: ClipDoc | None = None
    for _, side, doc in numbered:
        if side == 0:
            if waiting:
                yield waiting, None
            waiting = doc
        elif waiting and waiting.id == doc.id:
            yield waiting, doc
            waiting = None
        else:
            yield None, doc
    if waiting:
        yield waiting, None


def _same(doc: ClipDoc, other: ClipDoc | None) -> bool:
    """Whether they are alike in all but the embedding."""
    fields = ("text", "uri", "label", "image_digest")
    return (
        other is not None
        and all(getattr(doc, name) == getattr(other, name) for name in fields)
        and same_tags(doc.tags, other.tags)
    )


def check_same_documents(source: Index, target: Index) -> None:
    """Raise `BadInput` if the two do not hold as many documents; a last look before a switch."""
    ours, theirs = source.count(), target.count()
    if ours != theirs:
        raise BadInput(
            f"the new index holds {theirs} documents and the current one {ours}: repeat the swap"
        )
