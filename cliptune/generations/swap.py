"""`Swap`: from one model to another, under a running service, and back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cliptune.errors import AlreadyExists, BadInput, NotFound, NotReady
from cliptune.generations import catch_up, gate, journal
from cliptune.generations.catch_up import CaughtUp
from cliptune.generations.models import (
    keep_model,
    model_created,
    model_digest,
    model_name,
)
from cliptune.generations.pointer import Generation, Pointer, State
from cliptune.generations.work import Engine, Report, Work

if TYPE_CHECKING:
    from cliptune.generations.quality import Quality, Query
    from cliptune.index.storage import Storage

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
        with gate.swapping(where.folder):
            swap = cls(where, engine or Engine())
            try:
                yield swap
            except BaseException as error:
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
        """
        self.state.remove_leftovers()
        digest = model_digest(artifact)
        pointer = self.state.read(fresh=True) or self._first(served, storage)
        slot = {g.model_digest: slot for slot, g in pointer.generations.items()}.get(digest)
        if slot == "next":
            assert pointer.next is not None  # noqa: S101
            return pointer.next
        if slot == "current":
            raise BadInput(f"{artifact} is the model that is served (digest {digest:.12})")
        if slot == "previous":
            raise BadInput(
                f"{artifact} is the model that was served before (digest {digest:.12}): go back "
                "to it with `cliptune swap --undo`"
            )
        if pointer.next:
            raise NotReady(
                f"model {pointer.next.label} is being prepared: go on with it, or "
                "remove it with `cliptune swap --discard`"
            )
        number = pointer.last + 1
        kept = pointer.current.storage
        generation = _generation(number, artifact, digest, kept)
        self._keep(artifact, generation)
        with self.state.open(generation) as index:
            if count := index.count():  # whose they are can't be known from here
                raise AlreadyExists(
                    f"{self.state.uri(generation)} holds {count} documents that no swap has put "
                    "there: move it away"
                )
            index.clear()
        # Whoever writes after this notes it.
        with gate.writes_held(self.state.folder):
            journal.restart(self.state.journal(generation))
            self.state.write(pointer.model_copy(update={"last": number, "next": generation}))
        return generation

    def is_served(self, artifact: str | Path) -> bool:
        """Whether `artifact` is the current model: a swap to it is done already."""
        pointer = self.state.read(fresh=True)
        return pointer is not None and pointer.current.model_digest == model_digest(artifact)

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
        from cliptune.generations import quality

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
        """Titles of stored documents, as queries."""
        from cliptune.generations import quality

        with self.opened(self.pointer.current) as current:
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
        with gate.writes_held(self.state.folder):
            self.state.write(pointer.model_copy(update={slot: None}))
        return generation

    def _first(self, served: str | Path | None, storage: Storage | None) -> Pointer:
        """The pointer of an index that never had one; it isn't written yet."""
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
        generation = _generation(0, served, digest, kept)
        self._keep(served, generation)
        return Pointer(last=0, current=generation)

    def _keep(self, model: str | Path, generation: Generation) -> None:
        self.progress.tell("copying the model", 0, 0)
        keep_model(model, self.state.artifact(generation), generation.model_digest)

    def _switch(self, generation: Generation, slot: str, report: Report) -> Pointer:
        with self.indexes(generation) as (current, index):
            self.follow(current, index, generation, report)
            generation = self.generation(generation.number)
            with gate.writes_held(self.state.folder):
                self.report(report, "switching", 0, 0)
                end = self.behind(current, index, generation, report)
                catch_up.check_same_documents(current, index)
                pointer = self.pointer
                old = pointer.current.model_copy(update={"caught_up": 0, "warm": False})
                # Emptied first: whoever is killed here leaves a current one whose journal
                # nobody reads.
                journal.restart(self.state.journal(old))
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
