"""Folders of pictures with a table of them, as Hugging Face's imagefolder has it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cliptune.data.pictures.images import SUFFIXES
from cliptune.data.tables.columns import normal
from cliptune.data.tables.options import CsvOptions
from cliptune.data.tables.rows import Row, Rows
from cliptune.data.validation import is_missing
from cliptune.errors import BadData, near_matches

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Hugging Face's names of the table of a folder of pictures."""
_FILE_NAME = "file_name"


class MetadataRows:
    """The rows of all `metadata.csv`, `.jsonl` and `.parquet` of a folder of pictures.

    As Hugging Face's imagefolder has it: `file_name` is relative to the metadata's own folder,
    and all its other columns are the pictures' own.
    """

    encoding = None

    def __init__(
        self,
        folder: Path,
        files: Sequence[Path],
        options: CsvOptions,
        open_rows: Callable[[Path, CsvOptions], Rows],
    ) -> None:
        """Open the metadata `files` below `folder`.

        Raises:
            BadData: two of them are in one folder, one can't be read, or has no column of file
                names.
        """
        self.where, self.root, self._folder = str(folder), str(folder), folder
        self.notes: list[str] = []
        self._tables: list[tuple[Path, Rows, str]] = []
        names: dict[str, None] = {}
        for file in files:
            others = [one for one in files if one.parent == file.parent and one != file]
            if others:
                both = " and ".join(sorted((file.name, others[0].name)))
                raise BadData(f"{file.parent} has both {both}: keep one of them")
            rows = open_rows(file, options)
            self._tables.append((file, rows, self._file_column(file, rows, options)))
            self.notes += [f"{file.relative_to(folder)}: {note}" for note in rows.notes]
            names.update(dict.fromkeys(rows.columns))
        self.columns: Sequence[str] = list(names)
        self.pictures = {name for _, rows, _ in self._tables for name in rows.pictures}
        self.lists = {name for _, rows, _ in self._tables for name in rows.lists}
        self.has_commas = all(rows.has_commas for _, rows, _ in self._tables)

    @property
    def file_column(self) -> str:
        """The column of file names, of the first table."""
        return self._tables[0][2]

    def read(self, without: Collection[str] = ()) -> Iterator[Row]:
        """The rows of one file after the other; file names are relative to the whole folder."""
        for file, rows, column in self._tables:
            inner = file.relative_to(self._folder)
            for row in rows.read(without):
                cells = dict(row.cells)
                name = cells.pop(column, None)
                if not is_missing(name):
                    name = str(name).strip().replace("\\", "/")
                    cells[self.file_column] = (inner.parent / name).as_posix()
                yield replace(row, cells=cells, file=inner.as_posix())

    def _file_column(self, file: Path, rows: Rows, options: CsvOptions) -> str:
        if options.image_template:
            return ""
        wanted = options.image_column or _FILE_NAME
        for name in rows.columns:
            if name == wanted or normal(name) == normal(wanted):
                return name
        raise BadData(
            f"{file} has no column {wanted!r} for the pictures' names: "
            f"{near_matches(wanted, rows.columns)} (another name is given by "
            f"{options.option('image_column')})"
        )


def find_metadata(folder: Path) -> list[Path]:
    """The metadata files of a folder of pictures and its subfolders."""
    return sorted(path for name in METADATA for path in folder.rglob(name) if path.is_file())


def open_metadata(
    folder: Path,
    files: Sequence[Path],
    options: CsvOptions,
    open_rows: Callable[[Path, CsvOptions], Rows],
) -> tuple[MetadataRows, CsvOptions]:
    """The rows of a folder's metadata, opened by `open_rows`, and the options to read them by.

    Raises:
        BadData: as `MetadataRows`.
    """
    rows = MetadataRows(folder, files, options, open_rows)
    if options.image_template:
        return rows, options
    named = {row.cells.get(rows.file_column) for row in rows.read(rows.pictures)}
    pictures = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES)
    names = (path.relative_to(folder).as_posix() for path in pictures)
    if others := [name for name in names if name not in named]:
        rows.notes.append(
            f"{len(others)} pictures of the folder are not named in its metadata, and not read, "
            f"such as {others[0]}"
        )
    return rows, replace(options, image_column=rows.file_column)
