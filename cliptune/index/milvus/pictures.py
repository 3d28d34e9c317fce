"""A folder of pictures, for stores that are no place for them.

Each picture is a file named by the SHA-256 of its content, so that writing one twice changes
nothing, documents can share one, and several processes can use the folder at once.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from cliptune.errors import Unavailable
from cliptune.files import make_folder, remove_folder, write_bytes
from cliptune.index.durable import sync_path

MIN_AGE = 24 * 3600
"""Seconds for which a picture stays that no document has: it may be of an `add` under way."""


class PictureFolder:
    """Pictures by digest; nothing is made until the first one is written."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`."""
        self.folder = folder

    def add(self, pictures: Iterable[tuple[str, bytes]]) -> None:
        """Write each (SHA-256, picture) durably; raises `Unavailable`."""
        written = set()
        try:
            make_folder(self.folder, private=True)
            for digest, picture in pictures:
                path = self._path(digest)
                if path.is_file():
                    # As young as a new one, for `keep_only`.
                    path.touch()
                    continue
                make_folder(path.parent, private=True)
                write_bytes(path, picture, private=True)
                written.add(path.parent)
            for parent in written:
                sync_path(parent)
        except OSError as error:
            reason = error.strerror or str(error)
            raise Unavailable(f"{self.folder}: pictures can't be written ({reason})") from error

    def get(self, digest: str) -> bytes | None:
        """The picture; None if it isn't there or was damaged."""
        try:
            picture = self._path(digest).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = error.strerror or str(error)
            raise Unavailable(f"{self.folder}: a picture can't be read ({reason})") from error
        return picture if hashlib.sha256(picture).hexdigest() == digest else None

    def keep_only(self, wanted: Callable[[], set[str]], min_age: float = MIN_AGE) -> int:
        """Remove pictures that are older than `min_age` seconds and not `wanted`.

        `wanted` is asked after the folder was read: what is written meanwhile stays. Returns: the
        number of pictures removed.
        """
        before = time.time() - min_age
        old = [path for path in self.folder.glob("??/*") if _is_older(path, before)]
        digests = wanted() if old else set()
        removed = 0
        for path in old:
            if path.name not in digests and _is_older(path, before):
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    def clear(self) -> None:
        """Remove the folder."""
        if self.folder.is_dir():
            remove_folder(self.folder)

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest


def _is_older(path: Path, before: float) -> bool:
    try:
        return path.stat().st_mtime < before
    except FileNotFoundError:  # another process removes them, too
        return False
