"""Bringing a generation up to date with the current one, pass by pass, while writes go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cliptune.index.versions import locks
from cliptune.index.versions.manifest import Generation, Generations
from cliptune.reindex import sync
from cliptune.reindex.sync import SyncResult, Towers

if TYPE_CHECKING:
    from cliptune.index import Index

OnProgress = Callable[[str, int, int], None]
"""Told what is done, how much of it, and of how much (0: unknown)."""
_PASSES = 8
"""Passes behind the writes that go on, at most, before the last one holds them."""
_FEW = 32
"""So many changed documents are few enough for the last pass: about a second on a CPU."""


@dataclass(frozen=True)
class EngineOptions:
    """How towers are run: as the service runs them."""

    engine: str | None = None
    precision: str = "fp32"
    device: str | None = None
    batch_size: int = 32
    threads: int | None = None


class Synchronizer:
    """Brings generations' indexes to what the current one's holds, each by its own model."""

    def __init__(self, generations: Generations, engine: EngineOptions) -> None:
        """Of `generations`; to be used by who holds `locks.swapping`."""
        self._generations = generations
        self._engine = engine
        self._towers: dict[int, Towers] = {}

    def follow(
        self, current: Index, index: Index, generation: Generation, tell: OnProgress
    ) -> SyncResult:
        """Passes until few documents change from one to the next.

        Args:
            current: the index that is served; it is written to meanwhile.
            index: the one of `generation`.
            generation: which one is brought up to date; the manifest is told how far it is.
            tell: told of each batch.

        Returns:
            What was done in all passes.

        Raises:
            CannotEmbed: some documents have no usable picture; the others are done.
        """
        total = SyncResult()
        for number in range(_PASSES):
            # Held for a moment: what is noted by then is also in the current index.
            with locks.writes_held(self._generations.folder):
                end = self._generations.changelog(generation).size
            done = self.catch_up(current, index, generation, end, tell)
            generation = self._generations.update(generation.number, caught_up=end)
            total += done
            if number and done.changed <= _FEW:
                break
        return total

    def catch_up(
        self, current: Index, index: Index, generation: Generation, end: int, tell: OnProgress
    ) -> SyncResult:
        """One pass, up to the place `end` of the changelog: arguments and errors as `follow`."""
        changes = self._generations.changelog(generation).read(generation.caught_up or 0, end)
        everything = generation.caught_up is None or changes.everything
        if not everything and not changes.ids:
            return SyncResult()
        count = current.count() if everything else len(changes.ids)

        def show(so_far: SyncResult) -> None:
            tell("embedding", min(so_far.seen, count), count)

        towers = self.towers(generation)
        if everything:
            done = sync.sync_all(current, index, towers, show)
        else:
            done = sync.sync_ids(current, index, towers, changes.ids, show)
        done.check()
        return done

    def towers(self, generation: Generation, model: str | Path | None = None) -> Towers:
        """A generation's towers: of `model`, or of the copy that is kept of it."""
        kept = self._generations.artifact(generation)
        made = Towers(model or kept, **asdict(self._engine))
        return self._towers.setdefault(generation.number, made)

    def forget(self, number: int) -> None:
        """Let go of the towers of the generation `number`."""
        self._towers.pop(number, None)
