"""`VersionedIndex`: the index that a service answers from, whichever generation is current."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypedDict, TypeVar

import numpy as np
from docarray import DocList

from cliptune.documents import ClipDoc, Match
from cliptune.errors import BadInput, CliptuneError, ModelMismatch, ModelSwitched, Unavailable
from cliptune.index.base import Index, IndexStatus, Parts, Search
from cliptune.index.facets.column import Column
from cliptune.index.facets.known_tags import KnownTags
from cliptune.index.filters.language import Filter, Node
from cliptune.index.metadata import RECALL, TunedSearch
from cliptune.index.open import open_index
from cliptune.index.versions import locks
from cliptune.index.versions.manifest import Generation, Generations, Manifest
from cliptune.index.words import WordMatch

log = logging.getLogger("cliptune")
Result = TypeVar("Result")
GRACE = 60.0
"""Seconds that a discarded generation still answers queries that are on their way."""


class GenerationStatus(TypedDict):
    """What is told of a generation: its number, its model, and its index."""

    number: int
    model_digest: str
    name: str | None
    created: str | None
    documents: int
    complete: bool


class VersionedIndex(Index):
    """All generations of an index as one `Index`.

    Searches are answered by the generation whose model made the query; all else is of the current
    generation. So encoders may take up another model sooner or later than the index does: each
    query is answered whole by one model or the other.

    Writes wait while a switch is made. They are noted in the changelogs of the generations that are
    not current, which thereby can be brought up to date. Documents of a generation's model that
    isn't current raise `ModelSwitched`.

    Without a manifest it is the one index at its URI.

    Args:
        uri: of the index, as `open_index` takes it.
        folder: its manifest's folder; None: as `manifest.default_folder` has it.
        storage: how a new index in a folder keeps embeddings; None: as they are. With a manifest
            it is as the manifest says: generations keep them as the one before.
        tidy: remove the files of discarded generations, in the background.
    """

    def __init__(
        self,
        uri: str | Path,
        folder: str | Path | None = None,
        *,
        storage: str | None = None,
        tidy: bool = False,
    ) -> None:
        """Open the generations that there are.

        Raises:
            BadInput, Unavailable: as `open_index` and `Generations.read`; a generation's
                folder is gone.
        """
        self.generations = Generations(uri, folder)
        self._storage = storage
        self._tidy = tidy
        self._guard = threading.RLock()
        self._held: dict[int, Index] = {}
        self._closed = False
        self._timers: list[threading.Timer] = []
        self._seen: Manifest | None = None
        self._dropped: dict[int, float] = {}
        self._current()
        if tidy:
            self._remove_leftovers()

    def _check_open(self) -> None:
        if self._closed:
            raise BadInput(f"{self.generations.index_uri}: the index is closed")

    def _add(self, docs: DocList[ClipDoc]) -> int:
        def run(current: Index, manifest: Manifest | None) -> int:
            if manifest:
                _check_digests(docs, manifest)
            self._note(manifest, [str(doc.id) for doc in docs])
            return current.add(docs)

        return self._write(run)

    def _search(self, search: Search) -> list[list[Match]]:
        return self._of(search.model_digest)._search(search)

    @property
    def no_words(self) -> str | None:
        """See `Index.no_words`."""
        return self._current()[0].no_words

    def _word_search(self, search: Search) -> list[list[WordMatch]]:
        return self._of(search.model_digest)._word_search(search)

    def embeddings(self, ids: Iterable[str], model_digest: str) -> dict[str, np.ndarray]:
        """See `Index.embeddings`; of the generation of that model."""
        return self._of(model_digest).embeddings(ids, model_digest)

    def _delete(self, ids: list[str] | None, where: Node | None) -> int:
        def run(current: Index, manifest: Manifest | None) -> int:
            self._note(manifest, ids)
            return current.delete(ids=ids, filter=where)

        return self._write(run)

    def _get(self, ids: list[str], parts: Parts) -> DocList[ClipDoc]:
        return self._current()[0]._get(ids, parts)

    def _scan(self, after: str | None, batch_size: int, parts: Parts) -> Iterator[DocList[ClipDoc]]:
        """Of the generation that is current now."""
        current, _ = self._current()
        return current._scan(after, batch_size, parts)

    def _count(self, where: Node | None) -> int:
        return self._current()[0]._count(where)

    def _answering(self, model_digest: str) -> Index:
        return self._of(model_digest)

    def _columns(self, paths: Sequence[str], where: Node | None) -> dict[str, Column]:
        return self._current()[0]._columns(paths, where)

    def known_tags(self) -> KnownTags:
        """See `Index.known_tags`."""
        return self._current()[0].known_tags()

    def warnings(self, filter: Filter | None, *, found: bool) -> list[str]:
        """See `Index.warnings`."""
        return self._current()[0].warnings(filter, found=found)

    def clear(self) -> None:
        """See `Index.clear`; with a manifest, the model stays that of the current generation."""

        def run(current: Index, manifest: Manifest | None) -> None:
            self._note(manifest, None)
            current.clear()

        self._write(run)

    def status(self) -> IndexStatus:
        """See `Index.status`."""
        return self._current()[0].status()

    def optimize(self) -> IndexStatus:
        """See `Index.optimize`."""
        return self._current()[0].optimize()

    def tune(
        self,
        queries: np.ndarray | None = None,
        model_digest: str | None = None,
        *,
        recall: float = RECALL,
        progress: Callable[[int, int], None] = lambda done, most: None,
    ) -> TunedSearch:
        """See `Index.tune`: of the current generation."""
        current, _ = self._current()
        return current.tune(queries, model_digest, recall=recall, progress=progress)

    def close(self) -> None:
        """See `Index.close`."""
        with self._guard:
            self._closed = True
            for timer in self._timers:
                timer.cancel()
            for index in self._held.values():
                index.close()
            self._held.clear()

    def describe_generations(self) -> dict[str, GenerationStatus]:
        """Number, model (digest, name, date) and documents of each generation, by slot; empty
        without a manifest.
        """
        _, manifest = self._current()
        status: dict[str, GenerationStatus] = {}
        for slot, generation in manifest.by_slot.items() if manifest else ():
            status[slot] = {
                "number": generation.number,
                "model_digest": generation.model_digest,
                "name": generation.name,
                "created": generation.created.isoformat() if generation.created else None,
                "documents": self._index(generation).count(),
                "complete": slot == "current" or generation.caught_up is not None,
            }
        return status

    def _current(self) -> tuple[Index, Manifest | None]:
        """The current generation's index, and the manifest that says so."""
        manifest = self.generations.read()
        with self._guard:
            self._check_open()
            if manifest != self._seen:
                self._follow(manifest)
            return self._index(manifest.current if manifest else None), manifest

    def _follow(self, manifest: Manifest | None) -> None:
        """Open what a new manifest names, and let go of what it doesn't, after a while."""
        if self._seen and manifest is None:
            raise Unavailable(f"{self.generations.folder}: the pointer of the generations is gone")
        for generation in manifest.by_slot.values() if manifest else ():
            self._index(generation)
        if manifest and (self._seen is None or manifest.current != self._seen.current):
            log.info("the index is of generation %d now", manifest.current.number)
        before, self._seen = self._seen, manifest
        dropped = (_numbers(before) | set(self._held)) - _numbers(manifest)
        if manifest and (dropped or _numbers(before) != _numbers(manifest)):
            self._dropped |= dict.fromkeys(dropped - set(self._dropped), time.monotonic())
            timer = threading.Timer(GRACE, self._drop)
            timer.daemon = True
            self._timers.append(timer)
            timer.start()

    def _index(self, generation: Generation | None) -> Index:
        with self._guard:
            number = generation.number if generation else 0
            if number not in self._held:
                options = {"storage": self._storage} if self._storage else {}
                self._held[number] = (
                    self.generations.open(generation)
                    if generation
                    else open_index(self.generations.index_uri, **options)
                )
            return self._held[number]

    def _of(self, model_digest: str) -> Index:
        """The index of a model's generation; the current one, if no generation is that model's."""
        current, manifest = self._current()
        if manifest is None:
            return current
        generation = manifest.with_digest(model_digest)
        if generation:
            return self._index(generation)
        with self._guard:  # one that was discarded a moment ago
            for index in self._held.values():
                if index.status().model_digest == model_digest:
                    return index
        # Also where the current one is empty: queries of an unknown model are refused.
        raise ModelMismatch(
            f"queries: made by model {model_digest:.12}, and the index is served by model "
            f"{manifest.current.model_digest:.12}"
        )

    def _write(self, run: Callable[[Index, Manifest | None], Result]) -> Result:
        with locks.writing(self.generations.folder):
            # While writing is held, the manifest stays as it is read here.
            return run(*self._current())

    def _note(self, manifest: Manifest | None, ids: list[str] | None) -> None:
        for generation in (manifest.previous, manifest.next) if manifest else ():
            if generation:
                self.generations.changelog(generation).append(ids, generation.caught_up or 0)

    def _drop(self) -> None:
        """Let go of what the manifest doesn't name."""
        with self._guard:
            if self._closed:
                return
            for number in self._over() & set(self._held):
                self._held.pop(number).close()
        if self._tidy:
            self._remove_leftovers()

    def _over(self) -> set[int]:
        """The numbers of those that were dropped long enough ago."""
        now = time.monotonic()
        return {number for number, since in self._dropped.items() if now - since >= GRACE}

    def _remove_leftovers(self) -> None:
        # The folder is made by this too: `cliptune swap` looks whether it is on its machine.
        try:
            with locks.swapping(self.generations.folder):
                self.generations.remove_leftovers(set(self._dropped) - self._over())
        except locks.SwapUnderWay:
            pass  # it removes them itself
        except (CliptuneError, OSError) as error:
            log.warning("what is left of discarded generations stays: %s", error)


def _numbers(manifest: Manifest | None) -> set[int]:
    return {g.number for g in manifest.by_slot.values()} if manifest else set()


def _check_digests(docs: Iterable[ClipDoc], manifest: Manifest) -> None:
    current = manifest.current.model_digest
    for position, doc in enumerate(docs):
        if doc.model_digest in (current, None):  # None: the index says what is missing
            continue
        where = f"document {position} (id {doc.id!r:.80})"
        if manifest.with_digest(str(doc.model_digest)):
            raise ModelSwitched(
                f"{where}: the model was switched while it was embedded: send it again"
            )
        raise ModelMismatch(
            f"{where}: made by model {doc.model_digest!s:.12}, and the index is served by model "
            f"{current:.12}"
        )
