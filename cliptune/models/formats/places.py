"""Where a model's files lie: in a folder, or in a repository of the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cliptune.models.formats.hub import hub_file


class Place(Protocol):
    """Files by their names."""

    def find(self, *names: str) -> Path | None:
        """The first of `names` that is there; None: there is none of them.

        Raises:
            Unavailable, NotFound: as `cliptune.models.formats.hub.hub_file`.
        """
        ...

    def below(self, folder: str) -> Place:
        """A folder in it; the empty name: itself."""
        ...

    def __str__(self) -> str:
        """What people call it."""
        ...


@dataclass(frozen=True)
class Folder:
    """A folder of this machine."""

    path: Path

    def find(self, *names: str) -> Path | None:
        """As `Place.find`."""
        return next((self.path / name for name in names if (self.path / name).is_file()), None)

    def below(self, folder: str) -> Folder:
        """As `Place.below`."""
        return Folder(self.path / folder)

    def __str__(self) -> str:
        """Its path."""
        return str(self.path)


@dataclass(frozen=True)
class Repository:
    """A repository of the hub, or a folder in one."""

    name: str
    folder: str = ""

    def find(self, *names: str) -> Path | None:
        """As `Place.find`."""
        prefix = f"{self.folder}/" if self.folder else ""
        for name in names:
            if found := hub_file(self.name, prefix + name):
                return found
        return None

    def below(self, folder: str) -> Repository:
        """As `Place.below`."""
        return Repository(self.name, folder) if folder else self

    def __str__(self) -> str:
        """Its name."""
        return f"{self.name}/{self.folder}" if self.folder else self.name
