"""Excel and OpenDocument workbooks: one sheet of them, as the CSV that it would be exported to.

They are zip files, small ones of which can be large inside: how large is found out before they
are read.
"""

from __future__ import annotations

import datetime
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from cliptune.data.tables.options import CsvOptions
from cliptune.data.tables.text import GridRows
from cliptune.errors import BadData, near_matches
from cliptune.extras import need

MAX_INFLATED = 2**29
"""Bytes of a workbook's XML."""
_CHUNK = 2**20


class WorkbookRows(GridRows):
    """The rows of a sheet."""

    has_commas = False
    unit = "row"

    def __init__(self, path: Path, options: CsvOptions) -> None:
        """Read the sheet that `options` name, or else the first that isn't empty.

        Raises:
            BadData: the file is damaged or too large inside, or has no such sheet or none with
                rows; or as `GridRows`.
        """
        need("excel", "an Excel or OpenDocument table")
        from python_calamine import CalamineWorkbook

        self.notes: list[str] = []
        if zipfile.is_zipfile(path):
            _check_size(path)
        with _Reading(path):
            book = CalamineWorkbook.from_path(str(path))
            sheets = book.sheet_names
        wanted = options.sheet
        if wanted is not None and wanted not in sheets:
            raise BadData(
                f"{path} has no sheet {wanted!r} ({options.option('sheet')}): "
                f"{near_matches(wanted, sheets)}"
            )
        self._cells: list[tuple[int, list[str]]] = []
        for name in [wanted] if wanted is not None else sheets:
            with _Reading(path):
                given = book.get_sheet_by_name(name).to_python(skip_empty_area=False)
            self._cells = [
                (line, cells)
                for line, row in enumerate(given, start=1)
                if any(cells := [_text(cell) for cell in row])
            ]
            if self._cells:
                break
        if wanted is None and len(sheets) > 1 and self._cells:
            self.notes.append(
                f"of its {len(sheets)} sheets {name!r} is read: {options.option('sheet')} names "
                "another"
            )
        # Empty columns at the left are no columns.
        first = min((_margin(cells) for _, cells in self._cells), default=0)
        self._cells = [(line, cells[first:]) for line, cells in self._cells]
        super().__init__(str(path), str(path.parent), options)

    def split(self) -> Iterator[tuple[int, list[str]]]:
        """As `GridRows`."""
        return iter(self._cells)


def _margin(cells: list[str]) -> int:
    return next(i for i, cell in enumerate(cells) if cell)


def _text(cell: object) -> str:
    """A cell as a CSV has it."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
        return str(int(cell))
    if isinstance(cell, datetime.datetime | datetime.date | datetime.time):
        return cell.isoformat()
    return str(cell).strip()


class _Reading:
    """Errors of the library, a panic of its Rust too, as ours."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        # A panic is no Exception, so that nothing takes it for one.
        is_panic = type(error).__name__ == "PanicException"
        if error is not None and (isinstance(error, Exception) or is_panic):
            words = " ".join(str(error).split())[:200]
            raise BadData(f"{self._path} is damaged, or no workbook: {words}") from error


def _check_size(path: Path) -> None:
    """Unzip all of it to nothing: what the members say of their size may be wrong.

    Raises:
        BadData: there is more than `MAX_INFLATED` in it, or it is damaged.
    """
    left = MAX_INFLATED
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            for member in archive.infolist():
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise BadData(f"{path} is compressed in an unusual way: save it anew")
                file.seek(member.header_offset)
                name, extra = struct.unpack("<26xHH", file.read(30))
                file.seek(name + extra, 1)
                left -= _inflated(file.read(member.compress_size), member.compress_type, left)
                if left < 0:
                    raise BadData(
                        f"{path} unzips to more than {MAX_INFLATED} bytes: export the sheet as CSV"
                    )
    except (zipfile.BadZipFile, struct.error, zlib.error, OSError, ValueError) as error:
        if isinstance(error, BadData):
            raise
        raise BadData(f"{path} is a damaged workbook: {error}") from error


def _inflated(data: bytes, method: int, limit: int) -> int:
    """How many bytes `data` unzips to; more than `limit` are not counted."""
    if method == zipfile.ZIP_STORED:
        return len(data)
    inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while data and not inflate.eof and size <= limit:
        size += len(inflate.decompress(data, _CHUNK))
        data = inflate.unconsumed_tail
    return size
