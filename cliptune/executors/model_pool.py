"""The towers that an encoder executor serves: the current generation's, and others beside it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from cliptune.errors import BadInput, CliptuneError, NotFound, NotReady, Unavailable
from cliptune.index.versions.manifest import Generation, Generations, Manifest
from cliptune.index.versions.models import model_digest
from cliptune.protocol import redaction

if TYPE_CHECKING:  # importing it imports torch, which must not happen before Jina's fork
    from cliptune.inference import TextTower, VisionTower

Tower = TypeVar("Tower", bound="TextTower | VisionTower")
Slot = Literal["current", "previous", "next"]
log = logging.getLogger("cliptune")
RETRY_AFTER = 30.0
"""Seconds after which a model that could not be loaded is tried again."""
LOAD_TIMEOUT = 240.0
"""Seconds that a request waits for a model that it asks for by name."""
GRACE = 60.0
"""Seconds that a tower stays after no generation has it any more."""


@dataclass(frozen=True)
class _Failure:
    """Why a model could not be loaded, when, and from which copy."""

    at: float
    words: str
    copy: int | None


class ServedTowers(Generic[Tower]):
    """One kind of tower (text or vision), of each generation that is wanted.

    `pick` gives the tower to use now. After a switch that is the new one as soon as it is loaded:
    it is loaded in the background, while requests go through the one before. The index answers
    each query by the model that made it, so encoders need not switch at the same moment.

    Without a manifest there is one tower, of the model that the executor was started with.
    """

    def __init__(
        self,
        load: Callable[[str], Tower],
        artifact: str,
        generations: Generations,
        settings: Mapping[str, object] | None = None,
        own_paths: Sequence[str] = (),
    ) -> None:
        """Load the current tower.

        Args:
            load: from an artifact's path or a model's name to a tower.
            artifact: what to serve where there is no manifest.
            generations: whose manifest is followed.
            settings: what `status` says besides.
            own_paths: what is for the operator alone.

        Raises:
            CliptuneError: it can't be loaded.
        """
        self._load = load
        self._generations = generations
        self._settings = settings or {}
        self._hidden = [*own_paths, str(generations.folder)]
        self._guard = threading.Lock()
        self._loading: dict[str, Future[None]] = {}
        self._failed: dict[str, _Failure] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cliptune-load")
        manifest = generations.read()
        self._manifest = manifest
        if manifest:
            log.warning(
                "serving generation %d, model %.12s: the index was switched to it (the setting "
                "%r is not read; `cliptune swap` goes to other models)",
                manifest.current.number,
                manifest.current.model_digest,
                artifact,
            )
            tower = self._loaded_or_given(manifest.current, artifact)
        else:
            tower = load(artifact)
        self._held: dict[str, Tower] = {tower.digest: tower}
        self._active = tower
        self._follow(manifest)

    @property
    def current(self) -> Tower:
        """The tower that requests go through now."""
        return self.pick()

    def pick(self, slot: Slot | None = None) -> Tower:
        """The tower for a request: the current one, or that of another generation.

        Raises:
            NotFound: there is no generation in `slot`.
            NotReady: it lacks documents.
            Unavailable: its model can't be loaded.
        """
        manifest = self._look()
        if slot in (None, "current"):
            return self._active
        generation = manifest.by_slot.get(str(slot)) if manifest else None
        if generation is None:
            known = ", ".join(manifest.by_slot) if manifest else "current"
            raise NotFound(f"model {slot!r}: there is none; there are: {known}")
        if slot == "next" and generation.caught_up is None:
            raise NotReady("model 'next' is being prepared: its index is not complete yet")
        return self._wait_for(generation)

    def of(self, digests: Iterable[str | None]) -> Tower:
        """The tower of the first of `digests` that is there, or else the current one.

        The text encoder notes its model in a request's documents: so all of a request goes through
        both towers of one model.
        """
        self._look()
        with self._guard:
            for digest in digests:
                if digest in self._held:
                    return self._held[digest]
        return self._active

    def status(self) -> dict[str, object]:
        """The settings, which models are loaded (digests), and what kept others from it."""
        self._look()
        with self._guard:
            loaded = list(self._held)
            failed = {digest: why.words for digest, why in self._failed.items()}
        settings = dict(self._settings)
        if not redaction.OPERATOR.get():
            failed = {
                digest: redaction.without_paths(words, self._hidden)
                for digest, words in failed.items()
            }
            settings["artifact"] = redaction.base_name(str(settings.get("artifact", "")))
        return {**settings, "loaded": loaded, **({"not_loaded": failed} if failed else {})}

    def _look(self) -> Manifest | None:
        try:
            manifest = self._generations.read()
        except CliptuneError as error:
            if time.monotonic() - getattr(self, "_complained", -60.0) >= 60:
                self._complained = time.monotonic()
                log.error("the pointer of the generations: %s", error)
            return self._manifest
        self._follow(manifest)
        return manifest

    def _follow(self, manifest: Manifest | None) -> None:
        with self._guard:
            changed, self._manifest = manifest != self._manifest, manifest
            if manifest is None:
                return
            current = manifest.current
            if current.model_digest in self._held:
                if self._active.digest != current.model_digest:
                    log.info("serving generation %d now", current.number)
                    self._active = self._held[current.model_digest]
            else:
                self._begin(current)
            for generation in manifest.by_slot.values():
                if generation.warm and generation.model_digest not in self._held:
                    self._begin(generation)
            if changed:
                self._let_go(manifest)

    def _begin(self, generation: Generation) -> Future[None]:
        """Load a model in the background, unless that is under way or has just failed."""
        digest = generation.model_digest
        failed = self._failed.get(digest)
        if failed and failed.copy != self._copy(generation):
            del self._failed[digest]  # it was renewed
            failed = None
        over = failed is None or time.monotonic() - failed.at >= RETRY_AFTER
        if digest not in self._loading and over:
            self._loading[digest] = self._pool.submit(self._load_beside, generation)
        return self._loading.get(digest) or _done()

    def _load_beside(self, generation: Generation) -> None:
        digest = generation.model_digest
        copy = self._copy(generation)
        try:
            tower = self._loaded(generation)
        except Exception as error:
            words = str(error) if isinstance(error, CliptuneError) else type(error).__name__
            log.exception("generation %d can't be loaded", generation.number)
            with self._guard:
                self._failed[digest] = _Failure(time.monotonic(), words[:300], copy)
                self._loading.pop(digest, None)
            return
        with self._guard:
            self._held[digest] = tower
            self._failed.pop(digest, None)
            self._loading.pop(digest, None)
        self._look()

    def _loaded_or_given(self, generation: Generation, artifact: str) -> Tower:
        """From the copy kept; where that lacks the engine, from `artifact` if it's the same."""
        try:
            return self._loaded(generation)
        except NotFound:
            try:
                if model_digest(artifact) == generation.model_digest:
                    return self._load(artifact)
            except CliptuneError as error:
                log.warning("%s: %s", artifact, error)
            raise

    def _loaded(self, generation: Generation) -> Tower:
        tower = self._load(str(self._generations.artifact(generation)))
        if tower.digest != generation.model_digest:
            raise BadInput(
                f"{self._generations.artifact(generation)} holds model {tower.digest:.12}, "
                f"expected {generation.model_digest:.12}"
            )
        return tower

    def _wait_for(self, generation: Generation) -> Tower:
        with self._guard:
            if generation.model_digest in self._held:
                return self._held[generation.model_digest]
            loading = self._begin(generation)
        try:
            loading.result(LOAD_TIMEOUT)
        except TimeoutError:
            raise Unavailable(f"model {generation.model_digest:.12} is being loaded") from None
        with self._guard:
            if generation.model_digest in self._held:
                return self._held[generation.model_digest]
            failed = self._failed.get(generation.model_digest)
        words = failed.words if failed else "it was discarded"
        raise Unavailable(f"model {generation.model_digest:.12} can't be loaded: {words}")

    def _copy(self, generation: Generation) -> int | None:
        """What tells the copy that is kept of a model from one that replaces it."""
        try:
            return self._generations.artifact(generation).stat().st_ino
        except OSError:
            return None

    def _let_go(self, manifest: Manifest) -> None:
        kept = {g.model_digest for g in manifest.by_slot.values()} | {self._active.digest}
        for digest in list(self._failed):
            if digest not in kept:
                del self._failed[digest]
        for digest in [one for one in self._held if one not in kept]:
            timer = threading.Timer(GRACE, _close, [self._held.pop(digest)])
            timer.daemon = True
            timer.start()


def _close(tower: TextTower | VisionTower) -> None:
    """End a tower's threads; requests that had it by then have been answered."""
    close = getattr(tower.run, "close", None)
    if close:
        close()


def _done() -> Future[None]:
    future: Future[None] = Future()
    future.set_result(None)
    return future
