"""WebDataset's tars: files of one name and several suffixes are one row (`0001.jpg`, `0001.txt`).

Nothing is unpacked, and the names of the files lead nowhere: they only say what belongs together.
The pictures of a tar that isn't compressed have an address in it (`cliptune.data.pictures.slices`),
so that they are read from it when they are needed.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from cliptune.data.pictures.images import SUFFIXES
from cliptune.data.pictures.slices import slice_uri
from cliptune.data.tables.formats.text import named_once, whole_characters
from cliptune.data.tables.rows import MAX_TEXT, Row, Unusable
from cliptune.errors import BadData
from cliptune.settings import current

IMAGE, TEXT, LABEL, KEY = "image", "text", "label", "key"
"""The columns; those of `.json` files come to them."""
_TEXTS = {"txt": TEXT, "text": TEXT, "caption": TEXT, "cls": LABEL, "label": LABEL}


_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
"""Headers that have a body, which says more of the next file."""


@dataclass
class _Sample:
    """The files of one row."""

    key: str
    cells: dict[str, object] = field(default_factory=dict)

    def add(self, column: str, value: object) -> None:
        """Put a file's content into its cell; of several files the cell is a list."""
        there = self.cells.get(column)
        several = there if isinstance(there, list) else [there]
        self.cells[column] = value if there is None else [*several, value]


class _Header(tarfile.TarInfo):
    """A file's header; a damaged one in the middle is no silent end, and names are short."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        """As `TarInfo`'s; what `tarfile` reads into memory at once is limited."""
        header = super().frombuf(buf, encoding, errors)
        if header.type in _EXTENDED and header.size > MAX_TEXT:
            raise tarfile.ReadError(f"a file's name or attributes have {header.size} bytes")
        return header

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Header:
        """As `TarInfo`'s."""
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no header at byte {archive.offset} ({error})") from error


class TarRows:
    """The rows of one tar."""

    has_commas = False
    encoding = None

    def __init__(
        self, where: str, root: str, opened: Callable[[], BinaryIO], path: Path | None
    ) -> None:
        """Look through the tar.

        Args:
            where: names it.
            root: its folder, for pictures that are named in `.json` files.
            opened: opens it anew, from its beginning.
            path: of it, if it is on this machine and not compressed.

        Raises:
            BadData: it is damaged or cut short, there is no sample in it, or a sample's files are
                apart.
        """
        self.where, self.root = where, root
        self._opened, self._path = opened, path
        self.notes: list[str] = []
        self._skipped: dict[str, str] = {}
        """Files that are no part of a row, and why."""
        names: dict[str, None] = {}
        has_pictures = has_several = False
        keys: set[int] = set()
        for sample in self._samples(reads_pictures=False):
            if (key := hash(sample.key)) in keys:
                raise BadData(
                    f"{where}: the files of {sample.key[:100]!r} are not next to each other: write "
                    "it by tar --sort=name"
                )
            keys.add(key)
            names.update(dict.fromkeys(sample.cells))
            has_pictures |= IMAGE in sample.cells
            has_several |= isinstance(sample.cells.get(IMAGE), list)
        self.columns: Sequence[str] = [*names, KEY] if names else []
        self.pictures = {IMAGE} if has_pictures and path is None else set()
        self.lists = self.pictures if has_several else set()
        if not names:
            raise BadData(
                f"{where} has no samples, files such as 0001.jpg and 0001.txt: if it holds a table "
                "or a folder of pictures, unpack it and give that"
            )
        if self._skipped:
            name, why = next(iter(self._skipped.items()))
            self.notes.append(
                f"{len(self._skipped)} files in it are not read, such as {name!r} ({why})"
            )

    def read(self, without: Collection[str] = ()) -> Iterator[Row]:
        """The rows.

        Raises:
            BadData: it is damaged.
        """
        samples = self._samples(reads_pictures=IMAGE not in without)
        for number, sample in enumerate(samples, start=1):
            yield Row(number, {**sample.cells, KEY: sample.key}, unit="sample")

    def _samples(self, *, reads_pictures: bool) -> Iterator[_Sample]:
        sample: _Sample | None = None
        try:
            with self._opened() as file:
                mode = "r:" if self._path else "r|*"
                with tarfile.open(fileobj=file, mode=mode, tarinfo=_Header) as archive:  # type: ignore[call-overload]
                    for member in archive:
                        archive.members = []  # it would keep them all
                        key, suffix = _parts(member.name)
                        if not self._is_read(member, suffix):
                            continue
                        if sample is None or sample.key != key:
                            if sample is not None and sample.cells:
                                yield sample
                            sample = _Sample(key)
                        self._add(sample, archive, member, suffix, reads_pictures)
        except (tarfile.TarError, OSError, EOFError, ValueError, RecursionError) as error:
            if isinstance(error, BadData):
                raise
            raise BadData(f"{self.where} is damaged or cut short: {error}") from error
        if sample is not None and sample.cells:
            yield sample

    def _is_read(self, member: tarfile.TarInfo, suffix: str) -> bool:
        if member.isdir() or member.name.rpartition("/")[2].startswith("."):
            return False
        why = None
        if member.issym() or member.islnk():
            why = "a link"
        elif not member.isreg() or member.issparse():
            why = "no plain file"
        elif f".{suffix}" not in SUFFIXES and suffix not in _TEXTS and suffix != "json":
            why = f"of an unknown kind, .{suffix}"
        if why is not None:
            self._skipped[member.name[:100]] = why
        return why is None

    def _add(
        self,
        sample: _Sample,
        archive: tarfile.TarFile,
        member: tarfile.TarInfo,
        suffix: str,
        reads_pictures: bool,
    ) -> None:
        """Put a file's content into its row."""
        if f".{suffix}" in SUFFIXES:
            sample.add(IMAGE, self._picture(archive, member, reads_pictures))
            return
        if member.size > MAX_TEXT:
            raise BadData(
                f"{self.where}: {member.name[:100]!r} has {member.size} bytes, the limit of a text "
                f"is {MAX_TEXT}"
            )
        data = self._content(archive, member)
        try:
            text = data.decode("utf-8-sig").strip()
            if suffix != "json":
                sample.add(_TEXTS[suffix], text)
                return
            given = whole_characters(json.loads(text, object_pairs_hook=named_once))
        except (ValueError, RecursionError) as error:
            raise BadData(f"{self.where}: {member.name[:100]!r}: {error}") from error
        if not isinstance(given, dict):
            raise BadData(f"{self.where}: {member.name[:100]!r} is no JSON object")
        for name, value in given.items():
            sample.cells.setdefault(str(name), value)

    def _picture(self, archive: tarfile.TarFile, member: tarfile.TarInfo, is_read: bool) -> object:
        if member.size > (limit := current().max_picture):
            return Unusable(f"a picture of {member.size} bytes, the limit is {limit}")
        if self._path is not None:
            return slice_uri(self._path, member.offset_data, member.size)
        return self._content(archive, member) if is_read else b"?"

    def _content(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
        file = archive.extractfile(member)
        data = b"" if file is None else file.read()
        if len(data) != member.size:
            raise tarfile.ReadError(f"{member.name[:100]!r} is not whole")
        return data


def _parts(name: str) -> tuple[str, str]:
    """A sample's key, and the last suffix: a key ends at the first point of the file's name."""
    folder, mark, file = name.rpartition("/")
    stem, _, suffixes = file.partition(".")
    return f"{folder}{mark}{stem}", suffixes.rpartition(".")[2].lower()
