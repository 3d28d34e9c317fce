"""Excel and OpenDocument workbooks: one sheet of them, as the CSV that it would be exported to.

They are zip files, small ones of which can be large inside: how large is found out before they
are read.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from cliptune.data.tables.formats.sheet import DAMAGED, Cells
from cliptune.data.tables.formats.text import GridRows
from cliptune.data.tables.options import CsvOptions
from cliptune.errors import BadData, near_matches
from cliptune.extras import need

MAX_INFLATED = 2**29
"""Bytes of a workbook's XML."""
MAX_MEMORY = 2**32
"""Bytes that reading a workbook may take."""
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
        self.notes: list[str] = []
        if zipfile.is_zipfile(path):
            _check_size(path)
        wanted = options.sheet
        sheets, name, self._cells = _read(path, wanted)
        if wanted is not None and wanted not in sheets:
            raise BadData(
                f"{path} has no sheet {wanted!r} ({options.option('sheet')}): "
                f"{near_matches(wanted, sheets)}"
            )
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


def _read(path: Path, wanted: str | None) -> tuple[list[str], str | None, list[Cells]]:
    """The sheets' names, which of them was read, and its rows that aren't empty.

    It is read by a process of its own, whose memory is limited: a single cell far away from the
    others makes the library ask for all in between, and end the process where it can't have it.

    Raises:
        BadData: it is damaged, or takes more than `MAX_MEMORY`.
    """
    program = Path(__file__).with_name("sheet.py")
    command = [sys.executable, "-I", str(program), str(MAX_MEMORY), str(path.absolute())]
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(  # noqa: S603 - our own program, a path as its argument
            [*command, *([] if wanted is None else [wanted])],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            check=False,
        )
        if done.returncode == DAMAGED:
            words = " ".join(done.stderr.decode(errors="replace").split())[:200]
            raise BadData(f"{path} is damaged, or no workbook: {words}")
        if done.returncode:
            raise BadData(
                f"{path} takes more than {MAX_MEMORY} bytes of memory to read: is a cell far away "
                "from the others? Delete the rows and columns between, or export the sheet as CSV"
            )
        output.seek(0)
        sheets, name = json.loads(output.readline())
        return sheets, name, [(line, cells) for line, cells in map(json.loads, output)]


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
