"""`Swap`: from one model to another, under a running service, and back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cliptune.errors import AlreadyExists, BadInput, CliptuneError, NotFound, NotReady
from cliptune.files import remove_folder
from cliptune.index.versions import changelog, locks
from cliptune.index.versions.manifest import Generation, Pointer, State
from cliptune.index.versions.models import (
    keep_model,
    model_created,
    model_digest,
    model_name,
)
from cliptune.reindex import sync
from cliptune.reindex.passes import Engine, Report, Work
from cliptune.reindex.sync import CaughtUp

if TYPE_CHECKING:
    from cliptune.index.storage import Storage
    from cliptune.reindex.quality import Quality, Query

log = logging.getLogger("cliptune")


class Swap(Work):
    """A swap of an index's model.

    ::

        with Swap.at_work("shop-index", engine=Engine()) as swap:
            swap.begin("artifacts/new.zip", served="artifacts/old.zip")
            swap.prepare(report)              # re-embeds beside the live index, resumable
            print(swap.compare(queries))
            swap.switch(report)               # or later; swap.go_back(report) undoes it

    One process at a time has an index's swap. All that it writes before the switch is beside the
    live index; the switch is the renaming of one file, while writes are held. Whatever ends the
    process, the same calls go on from there.
    """

    @classmethod
    @contextmanager
    def at_work(
        cls,
        index_uri: str | Path,
        state: str | Path | None = None,
        *,
        engine: Engine | None = None,
    ) -> Iterator[Self]:
        """Have the swap of the index at `index_uri` for as long as the block lasts.

        Raises:
            SwapUnderWay: another process has it.
        """
        where = State(index_uri, state)
        with locks.swapping(where.folder):
            swap = cls(where, engine or Engine())
            try:
                yield swap
            except BaseException as error:
                if swap.progress.has_told:  # else it was refused before it began anything
                    swap.progress.tell("stopped", 0, 0, error=error)
                raise
            else:
                swap.progress.end()

    def begin(
        self,
        artifact: str | Path,
        *,
        served: str | Path | None,
        storage: Storage | None = None,
    ) -> Generation:
        """Make the next generation of the model `artifact`, or find it where it was left.

        Args:
            artifact: the new model: an artifact, or what else `load_model` takes.
            served: the model that is served now; needed for an index's first swap alone.
            storage: how embeddings are to be kept, if the index has none yet.

        Returns:
            The next generation.

        Raises:
            BadInput: it is the model that is served, or was before; `served` isn't the model whose
                embeddings the index holds.
            NotReady: another model is being prepared.
            AlreadyExists: there are documents where the next generation would be.
            NotFound: the new model, or the one that is served, lacks what the engine runs.
            Unavailable: an index or the disk can't be written to.
            Nothing is left of what was begun.
        """
        digest = model_digest(artifact)
        pointer = self.state.read(fresh=True)
        slot = self.renew(artifact)
        if slot == "next":
            assert pointer is not None  # noqa: S101
            assert pointer.next is not None  # noqa: S101
            self._check_engine(pointer.next, self.state.artifact(pointer.next))
            return pointer.next
        if slot == "current":
            raise BadInput(f"{artifact} is the model that is served (digest {digest:.12})")
        if slot == "previous":
            raise BadInput(
                f"{artifact} is the model that was served before (digest {digest:.12}): go back "
                "to it with `cliptune swap --undo`"
            )
        if pointer and pointer.next:
            raise NotReady(
                f"model {pointer.next.label} is being prepared: go on with it, or "
                "remove it with `cliptune swap --discard`"
            )
        first = None if pointer else self._first(served, storage)
        current = pointer.current if pointer else first
        assert current is not None  # noqa: S101
        if current.model_digest == digest:
            raise BadInput(f"{artifact} is the model that is served (digest {digest:.12})")
        number = (pointer.last if pointer else 0) + 1
        generation = _generation(number, artifact, digest, current.storage)
        for name in ("clip-text", "clip-vision"):  # of another one that was refused
            self._towers.pop((number, name), None)
        self._check_engine(generation, artifact)
        now = str(served) if first else self.state.artifact(current)
        self._check_engine(current, now, text=True)
        self.state.remove_leftovers()
        self._check_room(generation)
        try:
            if first:
                self._keep(str(served), first)
            self._keep(artifact, generation)
            with self.state.open(generation) as index:
                index.clear()
            # Whoever writes after this notes it.
            with locks.writes_held(self.state.folder):
                changelog.restart(self.state.journal(generation))
                begun = pointer or Pointer(last=0, current=current)
                self.state.write(begun.model_copy(update={"last": number, "next": generation}))
        except Exception:
            self._undo_begin(generation, first)
            raise
        return generation

    def renew(self, artifact: str | Path) -> str | None:
        """Add to the kept copy of a model what `artifact`, the same model, has more: an engine.

        Returns:
            Which generation's model it is: `current`, `previous` or `next`; None: of none.
        """
        pointer = self.state.read(fresh=True)
        digest = model_digest(artifact)
        for slot, generation in pointer.generations.items() if pointer else ():
            if generation.model_digest == digest:
                keep_model(artifact, self.state.artifact(generation), digest)
                return slot
        return None

    def prepare(self, report: Report = lambda what, done, total: None) -> CaughtUp:
        """Embed all documents for the next generation, and follow those that change meanwhile.

        Returns:
            What was done in all passes.

        Raises:
            NotReady: there is no next generation.
            CannotEmbed: some documents have no usable picture; the others are done.
        """
        generation = self._next()
        with self.indexes(generation) as (current, index):
            done = self.follow(current, index, generation, report)
            if index.status().optimize_due:
                self.report(report, "building the search index", 0, 0)
                index.optimize()
        self.update(self._next().model_copy(update={"warm": True}))
        return done

    def compare(self, queries: list[Query], *, tolerance: float = 0.01) -> Quality:
        """What the current and the next generation find for `queries`.

        Raises:
            BadInput: there are no queries.
        """
        from cliptune.reindex import quality

        self.progress.tell("comparing", 0, 0)
        pointer, generation = self.pointer, self._next()
        with self.indexes(generation) as (current, index):
            return quality.compare(
                queries,
                (current, self.tower(pointer.current, "clip-text")),
                (index, self.tower(generation, "clip-text")),
                tolerance=tolerance,
            )

    def titles(self, count: int) -> list[Query]:
        """Titles of stored documents, as queries; before the first swap has begun, too."""
        from cliptune.index import open_index
        from cliptune.reindex import quality

        pointer = self.state.read(fresh=True)
        with (
            self.opened(pointer.current) if pointer else open_index(self.state.index_uri)
        ) as current:
            return quality.titles(current, count)

    def switch(self, report: Report = lambda what, done, total: None) -> Pointer:
        """Make the next generation the current one, and keep the current one as the previous.

        Raises:
            NotReady: it isn't prepared.
        """
        generation = self._next()
        if generation.caught_up is None:
            raise NotReady("the next generation is not complete: prepare it first")
        return self._switch(generation, "next", report)

    def go_back(self, report: Report = lambda what, done, total: None) -> Pointer:
        """Make the previous generation the current one again, with all that was written since.

        The one that was current is then the previous one: going back once more returns to it. But
        if the last one to go back was killed after it had done so, nothing is done.

        Raises:
            NotFound: there is none to go back to.
        """
        previous = self.warm_previous()
        if previous.model_digest == self.pointer.current.model_digest:
            return self.pointer
        self.progress.going_to = previous.model_digest
        return self._switch(previous, "previous", report)

    def warm_previous(self) -> Generation:
        """Let the encoders load the model that `go_back` goes to; returns its generation.

        Raises:
            NotFound: there is none to go back to.
        """
        pointer = self.pointer
        if self.progress.left_going_to == pointer.current.model_digest:
            return pointer.current
        if pointer.previous is None:
            raise NotFound("there is no previous model to go back to")
        self._check_engine(pointer.previous, self.state.artifact(pointer.previous))
        self.update(pointer.previous.model_copy(update={"warm": True}))
        return pointer.previous

    def discard(self) -> Generation:
        """Remove the next generation, or else the previous one.

        The service goes on answering queries of its model that are on their way, and removes the
        files within a minute, or when it is started.

        Raises:
            NotFound: there is neither.
        """
        pointer = self.pointer
        generation = pointer.next or pointer.previous
        if generation is None:
            raise NotFound("there is neither a prepared nor a previous model")
        slot = "next" if pointer.next else "previous"
        with locks.writes_held(self.state.folder):
            self.state.write(pointer.model_copy(update={slot: None}))
        return generation

    def _first(self, served: str | Path | None, storage: Storage | None) -> Generation:
        """What is served, of an index that never had a pointer; nothing is written yet."""
        from cliptune.index import open_index

        if served is None:
            raise BadInput("which model is served now? give it for an index's first swap")
        digest = model_digest(served)
        with open_index(self.state.index_uri) as index:
            status = index.status()
        stamped = status.model_digest
        if stamped and stamped != digest:
            raise BadInput(
                f"{served} (digest {digest:.12}) is not the model whose embeddings "
                f"{self.state.index_uri} holds ({stamped:.12})"
            )
        # An index that never held an embedding doesn't say how it is to keep them.
        kept = status.storage if stamped else storage or status.storage
        return _generation(0, served, digest, kept)

    def _check_room(self, generation: Generation) -> None:
        """Raise `AlreadyExists` if there are documents already where a generation is to be."""
        if not self.state.index_exists(generation):
            return
        with self.state.open(generation) as index:
            if count := index.count():  # whose they are can't be known from here
                raise AlreadyExists(
                    f"{self.state.uri(generation)} holds {count} documents that no swap has put "
                    "there: move it away"
                )

    def _check_engine(
        self, generation: Generation, model: str | Path, *, text: bool = False
    ) -> None:
        """Load the towers, or with `text` the one alone, as they will be needed.

        Raises:
            NotFound, BadInput, BadArtifact: the model lacks what the engine runs.
        """
        for name in ("clip-text",) if text else ("clip-text", "clip-vision"):
            self.tower(generation, name, model)

    def _undo_begin(self, generation: Generation, first: Generation | None) -> None:
        """Remove what a refused `begin` has made, as far as that can be done."""
        with suppress(CliptuneError, OSError):
            pointer = self.state.read(fresh=True)
            if pointer and generation.number in {g.number for g in pointer.generations.values()}:
                return  # it was refused after all was done
            self.state.remove(generation.number)
            if first and pointer is None:  # the model alone: its index is the one that is served
                remove_folder(self.state.artifact(first).parent)

    def _keep(self, model: str | Path, generation: Generation) -> None:
        self.progress.tell("copying the model", 0, 0)
        keep_model(model, self.state.artifact(generation), generation.model_digest)

    def _switch(self, generation: Generation, slot: str, report: Report) -> Pointer:
        with self.indexes(generation) as (current, index):
            self.follow(current, index, generation, report)
            generation = self.generation(generation.number)
            with locks.writes_held(self.state.folder):
                self.report(report, "switching", 0, 0)
                end = self.behind(current, index, generation, report)
                sync.check_same_documents(current, index)
                pointer = self.pointer
                old = pointer.current.model_copy(update={"caught_up": 0, "warm": False})
                # Emptied first: whoever is killed here leaves a current one whose journal
                # nobody reads.
                changelog.restart(self.state.journal(old))
                new = generation.model_copy(update={"caught_up": None, "warm": False})
                slots = {"current": new, "previous": old}
                pointer = pointer.model_copy(
                    update={**slots, "next": None} if slot == "next" else slots
                )
                self.state.write(pointer)
        log.info(
            "switched to generation %d after %d bytes of changes: model %s",
            new.number,
            end,
            new.model_digest,
        )
        return pointer

    def _next(self) -> Generation:
        generation = self.pointer.next
        if generation is None:
            raise NotReady("no model is being prepared: begin with one")
        return generation


def _generation(number: int, model: str | Path, digest: str, storage: Storage) -> Generation:
    """A generation of `model`, with what people know the model by."""
    return Generation(
        number=number,
        model_digest=digest,
        name=model_name(model),
        created=model_created(model),
        storage=storage,
    )
