"""Pictures that lie inside of other files: where, and how those of tables get there.

A tar holds its pictures as they are, so that each has an address: `slice:///shard.tar?offset=512&
size=2871`. Those that a table holds compressed (parquet, Arrow) are written, once, one behind the
other into a pack in CLIPTUNE_HOME's cache, and have an address there: documents that are kept name
their picture instead of carrying it, so that they may be more than the memory holds.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

from cliptune.errors import BadImage, Unavailable
from cliptune.files import make_folder, open_file
from cliptune.settings import current

SLICE = "slice://"


def slice_uri(path: Path, offset: int, size: int) -> str:
    """The address of `size` bytes of the file at `path`, from `offset` on."""
    return f"{SLICE}{quote(str(path.absolute()))}?offset={offset}&size={size}"


def is_slice(uri: str | None) -> bool:
    """Whether `uri` is the address of a picture inside of a file of this machine."""
    return uri is not None and uri.startswith(SLICE)


def place_of(uri: str | None) -> str | None:
    """Where a picture is, in words that others can use; None: in a table, or in `uri` itself."""
    return None if uri is None or is_slice(uri) or uri.startswith("data:") else uri


def read_slice(uri: str) -> bytes:
    """The bytes at the address `uri`.

    Raises:
        BadImage: it is malformed, or has more bytes than a picture may have; the file is not there
            or shorter.
    """
    try:
        parts = urlsplit(uri)
        given = parse_qs(parts.query)
        path, offset, size = unquote(parts.path), *(int(given[n][0]) for n in ("offset", "size"))
    except (ValueError, KeyError) as error:
        raise BadImage(f"malformed address {uri[:200]!r} of a picture in a file") from error
    if not (offset >= 0 and 0 <= size <= (limit := current().max_picture)):
        raise BadImage(f"{path[:200]!r}: a picture of {size} bytes in it, the limit is {limit}")
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(size)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadImage(f"pictures' file {path[:200]!r}: {reason}") from error
    if len(data) != size:
        raise BadImage(f"{path[:200]!r} ends before its picture at byte {offset} does")
    return data


class PicturePack:
    """Pictures written one behind the other into one file; equal ones once.

    `close()` gives it the name of its content: a pack that is there already, of the same pictures
    in the same order, is taken instead.
    """

    def __init__(self, folder: Path) -> None:
        """Begin a pack in `folder`.

        Raises:
            Unavailable: nothing can be written there.
        """
        self._folder = folder
        self._beside = folder / f".{secrets.token_hex(8)}.pack"
        self._places: dict[bytes, tuple[int, int]] = {}
        self._content = hashlib.sha256()
        self._end = 0
        try:
            make_folder(folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            self._file = os.fdopen(open_file(self._beside, flags), "wb")
        except OSError as error:
            raise self._full(error) from error

    def add(self, picture: bytes) -> tuple[int, int]:
        """Write a picture; returns its (offset, size).

        Raises:
            Unavailable: the disk is full.
        """
        digest = hashlib.sha256(picture).digest()
        if digest not in self._places:
            try:
                self._file.write(picture)
            except OSError as error:
                self.discard()
                raise self._full(error) from error
            self._content.update(digest)
            self._places[digest] = (self._end, len(picture))
            self._end += len(picture)
        return self._places[digest]

    def close(self) -> Path:
        """Where the pictures are from now on.

        Raises:
            Unavailable: the disk is full.
        """
        target = self._folder / f"{self._content.hexdigest()[:32]}.pack"
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._beside, target)  # by one with the same bytes, if it is there
        except OSError as error:
            self.discard()
            raise self._full(error) from error
        self._places.clear()
        return target

    def discard(self) -> None:
        """Leave nothing of it."""
        self._file.close()
        self._beside.unlink(missing_ok=True)

    def _full(self, error: OSError) -> Unavailable:
        return Unavailable(
            f"a table's pictures can't be kept in {self._folder}: {error.strerror or error} "
            "(make room, or set CLIPTUNE_HOME to a folder on another disk)"
        )
