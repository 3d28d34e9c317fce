"""Where a model's files lie: in a folder, or in a repository of the hub.

A repository's files are taken from the hub's cache, or fetched into it. `HF_HOME` says where the
cache is, `HF_ENDPOINT` which hub is asked (a mirror), `HF_TOKEN` for whom. With `CLIPTUNE_OFFLINE`
nothing is asked, and the cache alone counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cliptune.errors import BadInput, NotFound, Unavailable
from cliptune.settings import current


class Place(Protocol):
    """Files by their names."""

    def find(self, *names: str) -> Path | None:
        """The first of `names` that is there; None: there is none of them.

        Raises:
            Unavailable, NotFound: as `hub_file`.
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
            if path := hub_file(self.name, prefix + name):
                return path
        return None

    def below(self, folder: str) -> Repository:
        """As `Place.below`."""
        return Repository(self.name, folder) if folder else self

    def __str__(self) -> str:
        """Its name."""
        return f"{self.name}/{self.folder}" if self.folder else self.name


def hub_file(repository: str, filename: str) -> Path | None:
    """The file `filename` of `repository`; None: the repository has no such file.

    Raises:
        NotFound: there is no such repository, or it isn't public.
        Unavailable: the hub can't be reached, and the cache has nothing of the repository; or a
            licence is to be accepted there first.
    """
    from huggingface_hub import errors, hf_hub_download

    try:
        path = hf_hub_download(repository, filename, local_files_only=current().offline)
    except errors.GatedRepoError as error:
        raise Unavailable(
            f"{repository} is given only to those who have accepted its licence: do so on its page "
            "of the hub, and set HF_TOKEN to a token of yours"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise NotFound(
            f"the hub has no model {repository!r} (or it isn't public: then set HF_TOKEN)"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if is_cached(repository):
            return None
        raise out_of_reach(repository, error) from error
    except errors.EntryNotFoundError:
        return None
    except errors.HFValidationError as error:
        raise BadInput(f"{repository!r} is not the name of a repository: {error}") from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise out_of_reach(repository, error) from error
    return Path(path)


def is_cached(repository: str) -> bool:
    """Whether the cache has a state of `repository`, perhaps with a part of its files."""
    from huggingface_hub import constants

    folder = "models--" + repository.replace("/", "--")
    return (Path(constants.HF_HUB_CACHE) / folder / "refs" / "main").is_file()


def out_of_reach(repository: str, error: Exception) -> Unavailable:
    """What to tell of a hub that can't be asked."""
    words = " ".join(str(error).split())[:200]
    why = "CLIPTUNE_OFFLINE is set" if current().offline else words
    return Unavailable(
        f"{repository} is not in this machine's cache, and can't be fetched from here ({why}). "
        f"On a machine that reaches the hub `cliptune download {repository} --out FOLDER` fetches "
        "it: FOLDER, copied here, is to be given in its place. A mirror of the hub is named by "
        "HF_ENDPOINT"
    )
