"""`Swap`: from one model to another, under a running service, and back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cliptune.errors import AlreadyExists, BadInput, CliptuneError, NotFound, NotReady
from cliptune.files import remove_folder
from cliptune.index.open import open_index
from cliptune.index.versions import locks
from cliptune.index.versions.manifest import Generation, Generations, Manifest
from cliptune.index.versions.models import keep_model, model_created, model_digest, model_name
from cliptune.index.versions.progress import ProgressFile
from cliptune.reindex.sync import SyncResult, check_same_documents
from cliptune.reindex.synchronizer import EngineOptions, OnProgress, Synchronizer

if TYPE_CHECKING:
    from cliptune.index.base import Index
    from cliptune.index.metadata import Storage
    from cliptune.reindex.quality import Quality, Query

log = logging.getLogger("cliptune")


class Swap:
    """A swap of an index's model.

    ::

        with Swap.open("shop-index", engine=EngineOptions()) as swap:
            swap.begin("artifacts/new.zip", served="artifacts/old.zip")
            swap.prepare(on_progress)              # re-embeds beside the live index, resumable
            print(swap.compare(queries))
            swap.switch(on_progress)               # or later; swap.go_back(on_progress) undoes it

    One process at a time has an index's swap. All that it writes before the switch is beside the
    live index; the switch is the renaming of one file, while writes are held. Whatever ends the
    process, the same calls go on from there.
    """

    def __init__(self, generations: Generations, engine: EngineOptions) -> None:
        """Of `generations`; to be used by who holds `locks.swapping`, as `open` does."""
        self.generations = generations
        self.progress = ProgressFile(generations)
        self._synchronizer = Synchronizer(generations, engine)

    @classmethod
    @contextmanager
    def open(
        cls,
        index_uri: str | Path,
        folder: str | Path | None = None,
        *,
        engine: EngineOptions | None = None,
    ) -> Iterator[Self]:
        """Have the swap of the index at `index_uri` for as long as the block lasts.

        Raises:
            SwapUnderWay: another process has it.
        """
        generations = Generations(index_uri, folder)
        with locks.swapping(generations.folder):
            swap = cls(generations, engine or EngineOptions())
            try:
                yield swap
            except BaseException as error:
                if swap.progress.has_told:  # else it was refused before it began anything
                    swap.progress.tell("stopped", 0, 0, error=error)
                raise
            else:
                swap.progress.end()

    @property
    def manifest(self) -> Manifest:
        """Which generations there are.

        Raises:
            NotFound: no swap was ever begun.
        """
        manifest = self.generations.read()
        if manifest is None:
            raise NotFound(f"{self.generations.index_uri}: its model was never swapped")
        return manifest

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
        manifest = self.generations.read()
        slot = self.renew(artifact)
        if slot == "previous":
            raise BadInput(
                f"{artifact} is the model that was served before (digest {digest:.12}): go back "
                "to it with `cliptune swap --undo`"
            )
        first = None if manifest else self._first(served, storage)
        current = manifest.current if manifest else first
        assert current is not None  # noqa: S101
        if current.model_digest == digest:
            raise BadInput(f"{artifact} is the model that is served (digest {digest:.12})")
        if manifest and manifest.next:
            if slot != "next":
                raise NotReady(
                    f"model {manifest.next.label} is being prepared: go on with it, or "
                    "remove it with `cliptune swap --discard`"
                )
            self._check_engine(manifest.next, self.generations.artifact(manifest.next))
            return manifest.next
        number = (manifest.last if manifest else 0) + 1
        generation = _generation(number, artifact, digest, current.storage)
        self._synchronizer.forget(number)  # of another one that was refused
        self._check_engine(generation, artifact)
        now = str(served) if first else self.generations.artifact(current)
        self._check_engine(current, now, text=True)
        self.generations.remove_leftovers()
        self._check_room(generation)
        try:
            if first:
                self._keep(str(served), first)
            self._keep(artifact, generation)
            with self.generations.open(generation, make=True) as index:
                index.clear()
            # Whoever writes after this notes it.
            with locks.writes_held(self.generations.folder):
                self.generations.changelog(generation).restart()
                begun = manifest or Manifest(last=0, current=current)
                self.generations.write(
                    begun.model_copy(update={"last": number, "next": generation})
                )
        except Exception:
            self._undo_begin(generation, first)
            raise
        return generation

    def renew(self, artifact: str | Path) -> str | None:
        """Add to the kept copy of a model what `artifact`, the same model, has more: an engine.

        Returns:
            Which generation's model it is: `current`, `previous` or `next`; None: of none.
        """
        manifest = self.generations.read()
        digest = model_digest(artifact)
        for slot, generation in manifest.by_slot.items() if manifest else ():
            if generation.model_digest == digest:
                keep_model(artifact, self.generations.artifact(generation), digest)
                return slot
        return None

    def prepare(self, on_progress: OnProgress = lambda what, done, total: None) -> SyncResult:
        """Embed all documents for the next generation, and follow those that change meanwhile.

        Returns:
            What was done in all passes.

        Raises:
            NotReady: there is no next generation.
            CannotEmbed: some documents have no usable picture; the others are done.
        """
        generation = self._next()
        tell = self._told(on_progress)
        with self._indexes(generation) as (current, index):
            done = self._synchronizer.follow(current, index, generation, tell)
            if index.status().optimize_due:
                tell("building the search index", 0, 0)
                index.optimize()
        self.generations.update(generation.number, warm=True)
        return done

    def compare(self, queries: list[Query], *, tolerance: float = 0.01) -> Quality:
        """What the current and the next generation find for `queries`.

        Raises:
            BadInput: there are no queries.
        """
        from cliptune.reindex import quality

        self.progress.tell("comparing", 0, 0)
        manifest, generation = self.manifest, self._next()
        towers = self._synchronizer.towers
        with self._indexes(generation) as (current, index):
            return quality.compare(
                queries,
                (current, towers(manifest.current).text),
                (index, towers(generation).text),
                tolerance=tolerance,
            )

    def titles(self, count: int) -> list[Query]:
        """Titles of stored documents, as queries; before the first swap has begun, too."""
        from cliptune.reindex import quality

        manifest = self.generations.read()
        with (
            self.generations.open(manifest.current)
            if manifest
            else open_index(self.generations.index_uri)
        ) as current:
            return quality.titles(current, count)

    def switch(self, on_progress: OnProgress = lambda what, done, total: None) -> Manifest:
        """Make the next generation the current one, and keep the current one as the previous.

        Raises:
            NotReady: it isn't prepared.
        """
        generation = self._next()
        if generation.caught_up is None:
            raise NotReady("the next generation is not complete: prepare it first")
        return self._switch(generation, "next", on_progress)

    def go_back(self, on_progress: OnProgress = lambda what, done, total: None) -> Manifest:
        """Make the previous generation the current one again, with all that was written since.

        The one that was current is then the previous one: going back once more returns to it. But
        if the last one to go back was killed after it had done so, nothing is done.

        Raises:
            NotFound: there is none to go back to.
        """
        previous = self.warm_previous()
        if previous.model_digest == self.manifest.current.model_digest:
            return self.manifest
        self.progress.going_to = previous.model_digest
        return self._switch(previous, "previous", on_progress)

    def warm_previous(self) -> Generation:
        """Let the encoders load the model that `go_back` goes to; returns its generation.

        Raises:
            NotFound: there is none to go back to.
        """
        manifest = self.manifest
        if self.progress.left_going_to == manifest.current.model_digest:
            return manifest.current
        if manifest.previous is None:
            raise NotFound("there is no previous model to go back to")
        self._check_engine(manifest.previous, self.generations.artifact(manifest.previous))
        return self.generations.update(manifest.previous.number, warm=True)

    def discard(self) -> Generation:
        """Remove the next generation, or else the previous one.

        The service goes on answering queries of its model that are on their way, and removes the
        files within a minute, or when it is started.

        Raises:
            NotFound: there is neither.
        """
        manifest = self.manifest
        generation = manifest.next or manifest.previous
        if generation is None:
            raise NotFound("there is neither a prepared nor a previous model")
        slot = "next" if manifest.next else "previous"
        with locks.writes_held(self.generations.folder):
            self.generations.write(manifest.model_copy(update={slot: None}))
        return generation

    def _first(self, served: str | Path | None, storage: Storage | None) -> Generation:
        """What is served, of an index that never had a manifest; nothing is written yet."""
        if served is None:
            raise BadInput("which model is served now? give it for an index's first swap")
        digest = model_digest(served)
        with open_index(self.generations.index_uri) as index:
            status = index.status()
        stamped = status.model_digest
        if stamped and stamped != digest:
            raise BadInput(
                f"{served} (digest {digest:.12}) is not the model whose embeddings "
                f"{self.generations.index_uri} holds ({stamped:.12})"
            )
        # An index that never held an embedding doesn't say how it is to keep them.
        kept = status.storage if stamped else storage or status.storage
        return _generation(0, served, digest, kept)

    def _check_room(self, generation: Generation) -> None:
        """Raise `AlreadyExists` if there are documents already where a generation is to be."""
        if not self.generations.index_exists(generation):
            return
        with self.generations.open(generation) as index:
            if count := index.count():  # whose they are can't be known from here
                raise AlreadyExists(
                    f"{self.generations.uri(generation)} holds {count} documents that no swap has "
                    "put there: move it away"
                )

    def _check_engine(
        self, generation: Generation, model: str | Path, *, text: bool = False
    ) -> None:
        """Load the towers, or with `text` the one alone, as they will be needed.

        Raises:
            NotFound, BadInput, BadArtifact: the model lacks what the engine runs.
        """
        towers = self._synchronizer.towers(generation, model)
        _ = towers.text if text else (towers.text, towers.vision)

    def _undo_begin(self, generation: Generation, first: Generation | None) -> None:
        """Remove what a refused `begin` has made, as far as that can be done."""
        with suppress(CliptuneError, OSError):
            manifest = self.generations.read()
            if manifest and generation.number in {g.number for g in manifest.by_slot.values()}:
                return  # it was refused after all was done
            self.generations.remove(generation.number)
            if first and manifest is None:  # the model alone: its index is the one that is served
                remove_folder(self.generations.artifact(first).parent)

    def _keep(self, model: str | Path, generation: Generation) -> None:
        self.progress.tell("copying the model", 0, 0)
        keep_model(model, self.generations.artifact(generation), generation.model_digest)

    def _switch(self, generation: Generation, slot: str, on_progress: OnProgress) -> Manifest:
        tell = self._told(on_progress)
        with self._indexes(generation) as (current, index):
            self._synchronizer.follow(current, index, generation, tell)
            with locks.writes_held(self.generations.folder):
                tell("switching", 0, 0)
                manifest = self.manifest
                generation = manifest.by_slot[slot]
                end = self.generations.changelog(generation).size
                self._synchronizer.catch_up(current, index, generation, end, tell)
                check_same_documents(current, index)
                old = manifest.current.model_copy(update={"caught_up": 0, "warm": False})
                # Emptied first: whoever is killed here leaves a current one whose changelog
                # nobody reads.
                self.generations.changelog(old).restart()
                new = generation.model_copy(update={"caught_up": None, "warm": False})
                slots = {"current": new, "previous": old}
                manifest = manifest.model_copy(
                    update={**slots, "next": None} if slot == "next" else slots
                )
                self.generations.write(manifest)
        log.info(
            "switched to generation %d after %d bytes of changes: model %s",
            new.number,
            end,
            new.model_digest,
        )
        return manifest

    @contextmanager
    def _indexes(self, generation: Generation) -> Iterator[tuple[Index, Index]]:
        """The current index, and that of `generation`."""
        with (
            self.generations.open(self.manifest.current) as current,
            self.generations.open(generation) as index,
        ):
            yield current, index

    def _told(self, on_progress: OnProgress) -> OnProgress:
        """Tells how far it is to who asked for it, and for the service's status."""

        def tell(what: str, done: int, total: int) -> None:
            on_progress(what, done, total)
            self.progress.tell(what, done, total)

        return tell

    def _next(self) -> Generation:
        generation = self.manifest.next
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
