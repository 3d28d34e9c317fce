"""Which generations an index has, and where: one small file, written whole.

GENERATIONS/               `generations` in the index's folder, unless set elsewhere
  generations.json         the manifest (to users: the pointer)
  generations-copy.json    the same: it shows that there was one, should the manifest get lost
  1/artifact/              the model of generation 1
  1/journal                the changelog: ids written since generation 1 was brought up to date
  swap.json                how far the swap is that is, or was, at work

The index of generation 0 is where the index has always been; that of generation N is the folder
`generation-N` in it, or in a server the collection of the same name with `_gN` after it.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Collection
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from cliptune.errors import BadInput, DamagedIndex, NotFound, Unavailable
from cliptune.files import write_text
from cliptune.index.durable import sync_path
from cliptune.index.metadata import REPAIR, Storage
from cliptune.index.open import folder_of, open_index
from cliptune.index.versions.changelog import Changelog
from cliptune.settings import current

if TYPE_CHECKING:
    from cliptune.index.base import Index

log = logging.getLogger("cliptune")
FORMAT = 1
MANIFEST, COPY, PROGRESS = "generations.json", "generations-copy.json", "swap.json"


class Generation(BaseModel):
    """One model, and the index that it made."""

    model_config = ConfigDict(frozen=True)

    number: int
    model_digest: str
    name: str | None = None
    """What people call its model: the artifact's, run's or model's name; None: not noted."""
    created: datetime | None = None
    """When its artifact was written."""
    storage: Storage = "float32"
    """How its index keeps embeddings."""
    caught_up: int | None = None
    """Bytes of its changelog that it has followed; None: it lacks documents, or is current."""
    warm: bool = False
    """Whether encoders are to load its model before it is asked for."""

    @property
    def label(self) -> str:
        """Its model for people: `0f3a9c1b2d4e (brave-otter-3f2a)`."""
        digest = f"{self.model_digest:.12}"
        return f"{digest} ({self.name})" if self.name else digest


class Manifest(BaseModel):
    """Which generation is which."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    last: int
    """The highest number given so far: numbers are never given twice."""
    current: Generation
    """The one that is served."""
    previous: Generation | None = None
    """The one before it: an undo goes back to it."""
    next: Generation | None = None
    """The one that a swap prepares."""

    @property
    def by_slot(self) -> dict[str, Generation]:
        """Those that there are, by slot."""
        held = {"current": self.current, "previous": self.previous, "next": self.next}
        return {slot: generation for slot, generation in held.items() if generation}

    def with_digest(self, digest: str) -> Generation | None:
        """The generation of a model."""
        for generation in self.by_slot.values():
            if generation.model_digest == digest:
                return generation
        return None


def default_folder(index_uri: str | Path) -> Path:
    """Where the manifest of the index at `index_uri` is: in its folder; a server's is in the home
    folder.
    """
    if folder := folder_of(index_uri):
        return folder / "generations"
    return current().home / "generations" / hashlib.sha256(str(index_uri).encode()).hexdigest()[:16]


class Generations:
    """The folder that holds an index's manifest and its generations' models.

    Many threads and processes read it. The manifest is written by the one that holds
    `locks.swapping`, or that makes it.
    """

    def __init__(self, index_uri: str | Path, folder: str | Path | None = None) -> None:
        """Of the index at `index_uri`, in `folder` or else `default_folder`; makes nothing."""
        self.index_uri = str(index_uri)
        given = Path(folder).expanduser().absolute() if folder else None
        self.folder = given or default_folder(index_uri)

    def read(self) -> Manifest | None:
        """The manifest; None if no swap was ever begun.

        Raises:
            BadInput: it is of a newer format.
            DamagedIndex: the file is no manifest, or is gone though there was one.
            Unavailable: it can't be read.
        """
        try:
            manifest = self._read(MANIFEST)
        except (OSError, UnicodeDecodeError) as error:
            raise Unavailable(f"{self.folder / MANIFEST}: can't be read ({error})") from error
        if manifest is None:
            self._check_never_swapped()
        return manifest

    def read_copy(self) -> Manifest | None:
        """The manifest as it was written last, from its copy; None if there is none.

        Raises:
            DamagedIndex: the copy is no manifest.
        """
        try:
            return self._read(COPY)
        except (OSError, UnicodeDecodeError) as error:
            raise DamagedIndex(f"{self.folder / COPY}: can't be read ({error})") from error

    def _read(self, name: str) -> Manifest | None:
        try:
            return _parse((self.folder / name).read_text(encoding="utf-8"), self.folder / name)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _check_never_swapped(self) -> None:
        """Raise `DamagedIndex` if there was a manifest: generation 0 may be long out of date."""
        index = folder_of(self.index_uri)
        traces = [
            self.folder / COPY,
            *(path for path in self.folder.glob("*/journal") if Changelog(path).has_changes),
            *(index.glob("generation-*/cliptune-index.json") if index else ()),
            *(index.glob("generation-*/documents-*.lance") if index else ()),
        ]
        for trace in traces:
            # A swap that is beginning writes the copy last.
            if trace.exists() and not (self.folder / MANIFEST).exists():
                raise DamagedIndex(
                    f"{self.folder / MANIFEST} is gone, which says which generation is served; "
                    f"that there was one shows in {trace}. Nothing was changed: put the file back, "
                    f"or {REPAIR.format(folder=self.index_uri)}"
                )

    def write(self, manifest: Manifest) -> None:
        """Write the manifest durably, whole or not at all.

        Raises:
            Unavailable: it can't be written; it is as it was.
        """
        try:
            content = manifest.model_dump_json(indent=2) + "\n"
            for name in (MANIFEST, COPY):
                write_text(self.folder / name, content, private=True)
            sync_path(self.folder)
        except OSError as error:
            raise Unavailable(f"{self.folder}: can't be written ({error.strerror})") from error

    def update(self, number: int, **changes: int | bool | None) -> Generation:
        """Write the manifest with another `caught_up` or `warm` of the generation `number`."""
        manifest = self.read()
        for slot, generation in manifest.by_slot.items() if manifest else ():
            if generation.number == number:
                assert manifest is not None  # noqa: S101
                generation = generation.model_copy(update=changes)
                self.write(manifest.model_copy(update={slot: generation}))
                return generation
        raise NotFound(f"{self.folder}: there is no generation {number} any more")

    def artifact(self, generation: Generation) -> Path:
        """The folder of a generation's model."""
        return self.folder / str(generation.number) / "artifact"

    def changelog(self, generation: Generation) -> Changelog:
        """What was written since the generation was brought up to date."""
        return Changelog(self.folder / str(generation.number) / "journal")

    def uri(self, generation: Generation) -> str:
        """Where a generation's index is."""
        return numbered_uri(self.index_uri, generation.number)

    def open(self, generation: Generation, *, make: bool = False) -> Index:
        """Open a generation's index, or with `make` a new one, with the generation's storage.

        Raises:
            Unavailable: its folder is gone.
        """
        if not make and not self.index_exists(generation):
            raise Unavailable(
                f"{self.uri(generation)}: the index of generation {generation.number} is gone"
            )
        options = {} if generation.storage == "float32" else {"storage": generation.storage}
        return open_index(self.uri(generation), **options)

    def index_exists(self, generation: Generation) -> bool:
        """Whether it is still there, if it is a folder; a server is not asked."""
        folder = folder_of(self.uri(generation))
        return folder is None or folder.is_dir()

    def remove_leftovers(self, keep: Collection[int] = ()) -> None:
        """Remove what no manifest names: discarded generations, and begun copies of models.

        Those of the numbers `keep` stay. To be called by who holds `swapping`: a swap has files
        before the manifest names them.
        """
        manifest = self.read()
        if manifest is None:
            return
        kept = {*keep, *(generation.number for generation in manifest.by_slot.values())}
        for name in (MANIFEST, COPY, PROGRESS):
            for begun in self.folder.glob(f".{name}.*"):
                begun.unlink(missing_ok=True)
        for number in range(manifest.last + 1):
            folder = self.folder / str(number)
            if number in kept:
                for begun in folder.glob(".artifact.*"):
                    shutil.rmtree(begun, ignore_errors=True)
            elif folder.is_dir():
                self.remove(number)

    def remove(self, number: int) -> None:
        """Remove the model and the index of a generation that the manifest doesn't name.

        The index of generation 0 is emptied alone: its folder holds the others'.
        """
        uri = numbered_uri(self.index_uri, number)
        index_folder = folder_of(uri)
        if index_folder is None or index_folder.is_dir():
            with open_index(uri) as index:
                index.clear()
            if number and index_folder is not None:
                shutil.rmtree(index_folder, ignore_errors=True)
        # Last, so that an interrupted removal is finished by the next one.
        shutil.rmtree(self.folder / str(number), ignore_errors=True)


def numbered_uri(index_uri: str, number: int) -> str:
    """Where the index of generation `number` is, if generation 0's is at `index_uri`."""
    if not number:
        return index_uri
    folder = folder_of(index_uri)
    if folder is not None:
        return str(folder / f"generation-{number}")
    parts = urlsplit(index_uri)
    path = parts.path.rstrip("/") or "/cliptune"
    return urlunsplit(parts._replace(path=f"{path}_g{number}"))


@lru_cache(maxsize=64)  # a search reads it, and it hardly ever changes
def _parse(text: str, path: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise DamagedIndex(
            f"{path}: not the pointer of an index's generations ({error}). Nothing was changed: "
            f"put the file back, or {REPAIR.format(folder='INDEX')}"
        ) from None
    if manifest.format > FORMAT:
        raise BadInput(
            f"{path}: of format {manifest.format}, this cliptune reads up to {FORMAT}: upgrade it"
        )
    return manifest
