"""What every step of a swap works with: the manifest, two indexes, and the passes between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliptune.errors import NotFound
from cliptune.index.versions import locks
from cliptune.index.versions.manifest import Generation, Generations, Manifest
from cliptune.index.versions.progress import ProgressFile
from cliptune.reindex import sync
from cliptune.reindex.sync import SyncResult

if TYPE_CHECKING:
    from cliptune.index import Index

OnProgress = Callable[[str, int, int], None]
"""What is done, how much of it, and of how much (0: unknown)."""
_PASSES = 8
"""Passes behind the writes that go on, at most, before the last one holds them."""
_FEW = 32
"""So many changed documents are few enough for the last pass: about a second on a CPU."""


@dataclass(frozen=True)
class EngineOptions:
    """How towers are run: as the service runs them."""

    is_onnx: bool = False
    precision: str = "fp32"
    device: str | None = None
    batch_size: int = 32
    threads: int | None = None


class SwapSession:
    """The base of `Swap`: by whom and how documents are brought from one generation to another."""

    def __init__(self, generations: Generations, engine: EngineOptions) -> None:
        """SwapSession on the index of `generations`; to be used by who holds `locks.swapping`."""
        self.generations = generations
        self.engine = engine
        self.progress = ProgressFile(generations)
        self._towers: dict[tuple[int, str], Any] = {}

    @property
    def manifest(self) -> Manifest:
        """The manifest.

        Raises:
            NotFound: no swap was ever begun.
        """
        manifest = self.generations.read(fresh=True)
        if manifest is None:
            raise NotFound(f"{self.generations.index_uri}: its model was never swapped")
        return manifest

    def synchronize(
        self, current: Index, index: Index, generation: Generation, on_progress: OnProgress
    ) -> SyncResult:
        """Passes until few documents change from one to the next."""
        total = SyncResult()
        for number in range(_PASSES):
            before = total.changed
            self._pass(current, index, generation, on_progress, total)
            total.check()
            generation = self.generation(generation.number)
            if number and total.changed - before <= _FEW:
                break
        return total

    def _pass(
        self,
        current: Index,
        index: Index,
        generation: Generation,
        on_progress: OnProgress,
        total: SyncResult,
    ) -> None:
        # Held for a moment: what is noted in the changelog by then is also in the current index.
        with locks.writes_held(self.generations.folder):
            end = self.generations.changelog(generation).size
        end = self.behind(current, index, generation, on_progress, end, total)
        self.update(self.generation(generation.number).model_copy(update={"caught_up": end}))

    def behind(
        self,
        current: Index,
        index: Index,
        generation: Generation,
        on_progress: OnProgress,
        end: int | None = None,
        total: SyncResult | None = None,
    ) -> int:
        """One pass, up to `end` of the changelog; None: up to its end, while writes are held."""
        changelog = self.generations.changelog(generation)
        if end is None:
            end = changelog.size
        changes = changelog.read(generation.caught_up or 0, end)
        everything = generation.caught_up is None or changes.everything
        count = current.count() if everything else len(changes.ids)

        def show(so_far: SyncResult) -> None:
            self.tell(on_progress, "embedding", min(so_far.seen, count), count)

        if not everything and not changes.ids:
            return end
        towers = sync.Towers(
            self.tower(generation, "clip-vision"), lambda: self.tower(generation, "clip-text")
        )
        if everything:
            done = sync.sync_all(current, index, towers, show)
        else:
            done = sync.sync_ids(current, index, towers, changes.ids, show)
        done.check()
        if total is not None:
            total.embedded += done.embedded
            total.unchanged += done.unchanged
            total.deleted += done.deleted
        return end

    def tower(self, generation: Generation, name: str, model: str | Path | None = None) -> Any:
        """A tower of a generation's model, loaded once: from `model`, or from the copy kept."""
        from cliptune.inference import get_tower

        key = (generation.number, name)
        held = self._towers
        if key not in held:
            precision: Any = self.engine.precision
            held[key] = get_tower(
                model or self.generations.artifact(generation),
                name,
                is_onnx=self.engine.is_onnx,
                precision=precision,
                device=self.engine.device,
                batch_size=self.engine.batch_size,
                threads=self.engine.threads,
            )
        return held[key]

    @contextmanager
    def opened(self, generation: Generation) -> Iterator[Index]:
        """A generation's index.

        Raises:
            NotFound: its folder is gone.
        """
        if not self.generations.index_exists(generation):
            raise NotFound(f"{self.generations.uri(generation)}: the generation's index is gone")
        with self.generations.open(generation) as index:
            yield index

    @contextmanager
    def indexes(self, generation: Generation) -> Iterator[tuple[Index, Index]]:
        """The current index, and that of `generation`."""
        with self.opened(self.manifest.current) as current, self.opened(generation) as index:
            yield current, index

    def generation(self, number: int) -> Generation:
        """What the manifest has of a generation now."""
        found = {g.number: g for g in self.manifest.by_slot.values()}
        return found[number]

    def update(self, generation: Generation) -> None:
        """Write the manifest with `generation` in the place of its number."""
        manifest = self.manifest
        slots = {slot: g.number for slot, g in manifest.by_slot.items()}
        [slot] = [slot for slot, number in slots.items() if number == generation.number]
        self.generations.write(manifest.model_copy(update={slot: generation}))

    def tell(self, on_progress: OnProgress, what: str, done: int, total: int) -> None:
        """Tell how far it is: to who asked for it, and for the service's status."""
        on_progress(what, done, total)
        self.progress.tell(what, done, total)
