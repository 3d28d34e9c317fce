"""`LiveIndex`: the index that a service answers from, whichever generation is current."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from docarray import DocList

from cliptune.documents import ClipDoc, Match
from cliptune.errors import BadInput, CliptuneError, ModelMismatch, ModelSwitched, Unavailable
from cliptune.index.base import Index, IndexStatus
from cliptune.index.checks import check_ids
from cliptune.index.filters.language import Filter, parse_filter
from cliptune.index.versions import changelog, locks
from cliptune.index.versions.manifest import Generation, Pointer, State

log = logging.getLogger("cliptune")
GRACE = 60.0
"""Seconds that a discarded generation still answers queries that are on their way."""


class LiveIndex(Index):
    """All generations of an index as one `Index`.

    Searches are answered by the generation whose model made the query; all else is of the current
    generation. So encoders may take up another model sooner or later than the index does: each
    query is answered whole by one model or the other.

    Writes wait while a switch is made. They are noted in the journals of the generations that are
    not current, which thereby can be brought up to date. Documents of a generation's model that
    isn't current raise `ModelSwitched`.

    Without a pointer it is the one index at its URI.

    Args:
        uri: of the index, as `open_index` takes it.
        state: its pointer's folder; None: as `pointer.default_state` has it.
        storage: how a new index in a folder keeps embeddings; None: as they are. With a pointer
            it is as the pointer says: generations keep them as the one before.
        tidy: remove the files of discarded generations, in the background.
    """

    def __init__(
        self,
        uri: str | Path,
        state: str | Path | None = None,
        *,
        storage: str | None = None,
        tidy: bool = False,
    ) -> None:
        """Open the generations that there are.

        Raises:
            BadInput, Unavailable: as `open_index` and `State.read`; a generation's folder is gone.
        """
        self.state = State(uri, state)
        self._storage = storage
        self._tidy = tidy
        self._guard = threading.RLock()
        self._held: dict[int, Index] = {}
        self._closed = False
        self._timers: list[threading.Timer] = []
        self._seen: Pointer | None = None
        self._dropped: dict[int, float] = {}
        self._current()
        if tidy:
            self._remove_leftovers()

    def add(self, docs: DocList[ClipDoc]) -> int:
        """See `Index.add`; documents of another generation's model raise `ModelSwitched`."""

        def run(current: Index, pointer: Pointer | None) -> int:
            if pointer:
                _check_digests(docs, pointer)
            self._note(pointer, [str(doc.id) for doc in docs])
            return current.add(docs)

        return self._write(run)

    def search(
        self,
        embeddings: np.ndarray,
        model_digest: str,
        *,
        limit: int = 10,
        offset: int = 0,
        filter: Filter | None = None,
        score_threshold: float | None = None,
        exact: bool = False,
    ) -> list[DocList[Match]]:
        """See `Index.search`; answered by the generation of the model `model_digest`."""
        return self._of(model_digest).search(
            embeddings,
            model_digest,
            limit=limit,
            offset=offset,
            filter=filter,
            score_threshold=score_threshold,
            exact=exact,
        )

    def delete(self, *, ids: Iterable[str] | None = None, filter: Filter | None = None) -> int:
        """See `Index.delete`."""
        if ids is None and parse_filter(filter) is None:
            raise BadInput("delete: give ids or a filter; clear() deletes everything")
        given = None if ids is None else check_ids(ids)

        def run(current: Index, pointer: Pointer | None) -> int:
            self._note(pointer, given)
            return current.delete(ids=given, filter=filter)

        return self._write(run)

    def get(
        self,
        ids: Iterable[str],
        *,
        include_embedding: bool = False,
        include_image: bool = False,
    ) -> DocList[ClipDoc]:
        """See `Index.get`."""
        return self._current()[0].get(
            ids, include_embedding=include_embedding, include_image=include_image
        )

    def scan(
        self,
        *,
        after: str | None = None,
        batch_size: int = 1000,
        include_embedding: bool = False,
        include_image: bool = False,
    ) -> Iterator[DocList[ClipDoc]]:
        """See `Index.scan`; of the generation that was current when it began."""
        return self._current()[0].scan(
            after=after,
            batch_size=batch_size,
            include_embedding=include_embedding,
            include_image=include_image,
        )

    def count(self, filter: Filter | None = None) -> int:
        """See `Index.count`."""
        return self._current()[0].count(filter)

    def warnings(self, filter: Filter | None, *, found: bool) -> list[str]:
        """See `Index.warnings`."""
        return self._current()[0].warnings(filter, found=found)

    def clear(self) -> None:
        """See `Index.clear`; with a pointer, the model stays that of the current generation."""

        def run(current: Index, pointer: Pointer | None) -> None:
            self._note(pointer, None)
            current.clear()

        self._write(run)

    def status(self) -> IndexStatus:
        """See `Index.status`."""
        return self._current()[0].status()

    def optimize(self) -> IndexStatus:
        """See `Index.optimize`."""
        return self._current()[0].optimize()

    def close(self) -> None:
        """See `Index.close`."""
        with self._guard:
            self._closed = True
            for timer in self._timers:
                timer.cancel()
            for index in self._held.values():
                index.close()
            self._held.clear()

    def generations(self) -> dict[str, dict[str, Any]]:
        """Number, model (digest, name, date) and documents of each generation, by slot; empty
        without a pointer.
        """
        _, pointer = self._current()
        found = {}
        for slot, generation in pointer.generations.items() if pointer else ():
            found[slot] = {
                "number": generation.number,
                "model_digest": generation.model_digest,
                "name": generation.name,
                "created": generation.created.isoformat() if generation.created else None,
                "documents": self._index(generation).count(),
                "complete": slot == "current" or generation.caught_up is not None,
            }
        return found

    def _current(self, *, fresh: bool = False) -> tuple[Index, Pointer | None]:
        """The current generation's index, and the pointer that says so."""
        pointer = self.state.read(fresh=fresh)
        with self._guard:
            if self._closed:
                raise BadInput(f"{self.state.index_uri}: the index is closed")
            if pointer != self._seen:
                self._follow(pointer)
            return self._index(pointer.current if pointer else None), pointer

    def _follow(self, pointer: Pointer | None) -> None:
        """Open what a new pointer names, and let go of what it doesn't, after a while."""
        if self._seen and pointer is None:
            raise Unavailable(f"{self.state.folder}: the pointer of the generations is gone")
        for generation in pointer.generations.values() if pointer else ():
            self._index(generation)
        if pointer and (self._seen is None or pointer.current != self._seen.current):
            log.info("the index is of generation %d now", pointer.current.number)
        before, self._seen = self._seen, pointer
        dropped = (_numbers(before) | set(self._held)) - _numbers(pointer)
        if pointer and (dropped or _numbers(before) != _numbers(pointer)):
            self._dropped |= dict.fromkeys(dropped - set(self._dropped), time.monotonic())
            timer = threading.Timer(GRACE, self._drop)
            timer.daemon = True
            self._timers.append(timer)
            timer.start()

    def _index(self, generation: Generation | None) -> Index:
        from cliptune.index import open_index

        with self._guard:
            number = generation.number if generation else 0
            if number not in self._held:
                if generation and not self.state.index_exists(generation):
                    raise Unavailable(
                        f"{self.state.uri(generation)}: the index of generation {number} is gone"
                    )
                if generation:
                    self._held[number] = self.state.open(generation)
                else:
                    options = {"storage": self._storage} if self._storage else {}
                    self._held[number] = open_index(self.state.index_uri, **options)
            return self._held[number]

    def _of(self, model_digest: str) -> Index:
        """The index of a model's generation; the current one, if no generation is that model's."""
        current, pointer = self._current()
        if pointer is None:
            return current
        generation = pointer.with_digest(model_digest)
        if generation:
            return self._index(generation)
        with self._guard:  # one that was discarded a moment ago
            for index in self._held.values():
                if index.status().model_digest == model_digest:
                    return index
        # Also where the current one is empty: queries of an unknown model are refused.
        raise ModelMismatch(
            f"queries: made by model {model_digest:.12}, and the index is served by model "
            f"{pointer.current.model_digest:.12}"
        )

    def _write(self, run: Callable[[Index, Pointer | None], Any]) -> Any:
        with locks.writing(self.state.folder):
            # While writing is held, the pointer stays as it is read here.
            return run(*self._current(fresh=True))

    def _note(self, pointer: Pointer | None, ids: list[str] | None) -> None:
        for generation in (pointer.previous, pointer.next) if pointer else ():
            if generation:
                changelog.note(self.state.journal(generation), ids, generation.caught_up or 0)

    def _drop(self) -> None:
        """Let go of what the pointer doesn't name."""
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
            with locks.swapping(self.state.folder):
                self.state.remove_leftovers(set(self._dropped) - self._over())
        except locks.SwapUnderWay:
            pass  # it removes them itself
        except (CliptuneError, OSError) as error:
            log.warning("what is left of discarded generations stays: %s", error)


def _numbers(pointer: Pointer | None) -> set[int]:
    return {g.number for g in pointer.generations.values()} if pointer else set()


def _check_digests(docs: Iterable[ClipDoc], pointer: Pointer) -> None:
    current = pointer.current.model_digest
    for position, doc in enumerate(docs):
        if doc.model_digest in (current, None):  # None: the index says what is missing
            continue
        where = f"document {position} (id {doc.id!r:.80})"
        if pointer.with_digest(str(doc.model_digest)):
            raise ModelSwitched(
                f"{where}: the model was switched while it was embedded: send it again"
            )
        raise ModelMismatch(
            f"{where}: made by model {doc.model_digest!s:.12}, and the index is served by model "
            f"{current:.12}"
        )
