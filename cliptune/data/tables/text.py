"""Sources of rows: text tables, JSON lines, and pictures' `metadata` files, all read alike.

A source knows the names of its columns and gives its rows as mappings, in their order; what the
columns are for is `columns`' business, and the documents are `csv`'s.
Another format is another source.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from cliptune.data.pictures.images import SUFFIXES
from cliptune.data.tables.columns import is_picture, known_names, normal
from cliptune.data.tables.dialects import Dialect, find_dialect, split_rows
from cliptune.data.tables.encodings import decode_text
from cliptune.data.tables.file_types import kind_of
from cliptune.data.tables.options import CsvOptions
from cliptune.data.validation import is_missing
from cliptune.errors import BadData, near_matches

METADATA = ("metadata.csv", "metadata.jsonl")
"""Hugging Face's names of the table of a folder of pictures."""
_FILE_NAME = "file_name"


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    line: int
    """Of its file, from 1, on which it begins."""
    cells: Mapping[str, object]
    """Texts, or what JSON has, by column; what is missing may be absent, None or blank."""
    file: str | None = None
    """Where a table is of several files."""

    @property
    def place(self) -> str:
        """Such as `line 7`."""
        return f"{self.file}, line {self.line}" if self.file else f"line {self.line}"


class Rows(Protocol):
    """A table: any number of passes over its rows, which are all checked by then."""

    where: str
    """Its path."""
    root: Path
    """The folder of relative picture paths."""
    columns: Sequence[str]
    """Their names; without a header `column 1` and so on."""
    has_commas: bool
    """Whether a comma in a number can be a decimal one, as no comma separates cells."""
    notes: list[str]
    """What the user should know of how it is read."""
    encoding: str

    def __iter__(self) -> Iterator[Row]:
        """The rows that are not blank."""
        ...


def open_rows(path: Path, options: CsvOptions) -> Rows:
    """The rows of the file at `path`.

    Raises:
        BadData: it can't be read, is no table, is empty, or a row is ragged; the message names
            the lines.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadData(f"{path} can't be read: {error.strerror or error}") from error
    if kind := kind_of(data):
        raise BadData(f"{path} is not a table but {kind[0]}: {kind[1]}")
    preferred = options.kept.encoding if options.kept else None
    decoded = decode_text(data, str(path), options.encoding, options.option("encoding"), preferred)
    rows: Rows
    if _is_json_lines(decoded.text):
        rows = JsonLines(path, decoded.text)
    elif decoded.text.lstrip()[:1] == "[" and _is_json(decoded.text):
        raise BadData(f"{path} is a JSON list: write one object a line (.jsonl), or a CSV")
    else:
        rows = CsvRows(path, decoded.text, options)
    rows.encoding = decoded.encoding
    if decoded.note:
        rows.notes.insert(0, decoded.note)
    return rows


class CsvRows:
    """The rows of a text table: CSV, TSV and their relatives."""

    encoding = "utf-8"

    def __init__(self, path: Path, text: str, options: CsvOptions) -> None:
        """Find out how `text` is written, and check that every row has as many cells.

        Raises:
            BadData: it is empty, its quotes don't fit, a row is ragged or a name is there twice.
        """
        self.where, self.root = str(path), path.parent
        self.notes: list[str] = []
        self._options = options
        self._text, said = _without_excel_line(text)
        self._first_line = 2 if said else 1
        named = {normal(value) for value in options.given().values() if isinstance(value, str)}
        self._dialect = find_dialect(
            self._text,
            is_picture,
            lambda names: known_names(names) or any(normal(name) in named for name in names),
            options.delimiter or said,
        )
        self.has_commas = self._dialect.delimiter != ","
        self._header: list[str] | None = None
        self._skipped = 0
        self._check()

    def __iter__(self) -> Iterator[Row]:
        """The rows, without the header."""
        rows = self._split()
        if self._header is not None:
            next(rows)
        for line, cells in rows:
            named = zip(self._names, cells, strict=False)
            yield Row(line, {name: cell for name, cell in named if name})

    def _split(self) -> Iterator[tuple[int, list[str]]]:
        try:
            for line, cells in split_rows(self._text, self._dialect):
                yield line + self._first_line - 1, cells
        except csv.Error as error:
            line = error.row_line + self._first_line - 1  # type: ignore[attr-defined]
            hint = " (is a quotation mark not closed?)" if "unexpected end" in str(error) else ""
            raise BadData(f"{self.where}, line {line}: {error}{hint}") from error

    def _check(self) -> None:
        rows = self._split()
        line, first = next(rows, (0, []))
        if not first:
            raise BadData(f"{self.where} is empty")
        # Of two columns without names, the first row too may lack its picture.
        is_half = len(first) == 2 and not all(c.strip() for c in first) and not known_names(first)
        is_header = not any(map(is_picture, first)) and not is_half
        if self._options.names_columns or is_header:
            self._header = [name.strip() for name in first]
            self._check_header(rows)
        else:
            self._check_plain([(line, first), *rows])

    def _check_header(self, rows: Iterator[tuple[int, list[str]]]) -> None:
        names = self._header or []
        filled = [name for name in names if name]
        if len(set(filled)) < len(filled):
            twice = next(name for name in filled if filled.count(name) > 1)
            raise BadData(f"{self.where}: the header has {twice!r} twice")
        ragged, count, nameless = [], 0, 0
        for line, cells in rows:
            count += 1
            if len(cells) != len(names) and not _is_longer_by_nothing(cells, len(names)):
                ragged.append(f"line {line}: {len(cells)} cells")
            nameless += any(c.strip() for c, name in zip(cells, names, strict=False) if not name)
        self._names: list[str] = names
        self.columns: Sequence[str] = filled
        if ragged:
            raise BadData(
                f"{self.where}, {ragged[0]}, the header has {len(names)}"
                + (f"; so have {len(ragged) - 1} more rows, {'; '.join(ragged[1:3])}"
                   f"{' …' if len(ragged) > 3 else ''}" if len(ragged) > 1 else "")
                + f" ({_separated(self._dialect)}: text that has it must be in quotation marks)"
            )  # fmt: skip
        if not count:
            raise BadData(f"{self.where} has a header and no rows")
        if nameless:
            self.notes.append("a column without a name in the header is not read")

    def _check_plain(self, rows: list[tuple[int, list[str]]]) -> None:
        """A table without header has a picture and perhaps a text in each row."""
        width = max(len(_trimmed(cells)) for _, cells in rows)
        self._names = self.columns = [f"column {number + 1}" for number in range(width)]
        for line, cells in rows:
            if width > 2 or len(cells) < width:
                options = map(self._options.option, ("text_column", "image_column"))
                raise BadData(
                    f"{self.where}, line {line}: {len(cells)} cells, and without a header there "
                    "must be two, a picture and a text (give the table a header; if it has one, "
                    f"name its columns by {' and '.join(options)})"
                )


class JsonLines:
    """The rows of a file with one JSON object a line."""

    has_commas = False
    encoding = "utf-8"

    def __init__(self, path: Path, text: str) -> None:
        """Read all of it.

        Raises:
            BadData: a line is no JSON object, or there are none.
        """
        self.where, self.root = str(path), path.parent
        self.notes: list[str] = []
        self._rows: list[Row] = []
        names: dict[str, None] = {}
        for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise BadData(f"{path}, line {number}: not JSON: {error}") from None
            if not isinstance(values, dict):
                raise BadData(f"{path}, line {number}: not a JSON object but {line.strip()[:60]!r}")
            names.update(dict.fromkeys(values))
            self._rows.append(Row(number, values))
        self.columns: Sequence[str] = list(names)

    def __iter__(self) -> Iterator[Row]:
        """The rows."""
        return iter(self._rows)


class MetadataRows:
    """The rows of all `metadata.csv` and `metadata.jsonl` of a folder of pictures.

    As Hugging Face's imagefolder has it: `file_name` is relative to the metadata's own folder,
    and all its other columns are the pictures' own.
    """

    encoding = "utf-8"

    def __init__(self, folder: Path, files: Sequence[Path], options: CsvOptions) -> None:
        """Open the metadata `files` below `folder`.

        Raises:
            BadData: two of them are in one folder, one can't be read, or has no column of file
                names.
        """
        self.where, self.root = str(folder), folder
        self.notes: list[str] = []
        self._tables: list[tuple[Path, Rows, str]] = []
        names: dict[str, None] = {}
        for file in files:
            if any(other.parent == file.parent for other in files if other != file):
                raise BadData(
                    f"{file.parent} has both {METADATA[0]} and {METADATA[1]}: keep one of them"
                )
            rows = open_rows(file, options)
            self._tables.append((file, rows, self._file_column(file, rows, options)))
            self.notes += [f"{file.relative_to(folder)}: {note}" for note in rows.notes]
            names.update(dict.fromkeys(rows.columns))
        self.columns: Sequence[str] = list(names)
        self.has_commas = all(rows.has_commas for _, rows, _ in self._tables)

    @property
    def file_column(self) -> str:
        """The column of file names, of the first table."""
        return self._tables[0][2]

    def __iter__(self) -> Iterator[Row]:
        """The rows of one file after the other; file names are relative to the whole folder."""
        for file, rows, column in self._tables:
            inner = file.relative_to(self.root)
            for row in rows:
                cells = dict(row.cells)
                name = cells.pop(column, None)
                if not is_missing(name):
                    name = str(name).strip().replace("\\", "/")
                    cells[self.file_column] = (inner.parent / name).as_posix()
                yield Row(row.line, cells, inner.as_posix())

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
    folder: Path, files: Sequence[Path], options: CsvOptions
) -> tuple[MetadataRows, CsvOptions]:
    """The rows of a folder's metadata, and the options by which they are read."""
    rows = MetadataRows(folder, files, options)
    if options.image_template:
        return rows, options
    named = {row.cells.get(rows.file_column) for row in rows}
    pictures = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES)
    names = (path.relative_to(folder).as_posix() for path in pictures)
    if others := [name for name in names if name not in named]:
        rows.notes.append(
            f"{len(others)} pictures of the folder are not named in its metadata, and not read, "
            f"such as {others[0]}"
        )
    return rows, replace(options, image_column=rows.file_column)


def _without_excel_line(text: str) -> tuple[str, str | None]:
    """Excel's first line `sep=;` says what separates the cells; it is no row."""
    line = re.match(r'"?sep=(.)"?[ \t,;|]*(\r\n|\n|\r|$)', text, re.IGNORECASE)
    return (text[line.end() :], line.group(1)) if line else (text, None)


def _is_json_lines(text: str) -> bool:
    first = text.lstrip()[: 2**20].split("\n", 1)[0].strip()
    return first[:1] == "{" and _is_json(first)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_longer_by_nothing(cells: Sequence[str], width: int) -> bool:
    return len(cells) > width and not any(cell.strip() for cell in cells[width:])


def _trimmed(cells: Sequence[str]) -> Sequence[str]:
    """`cells` without the blank ones at the end."""
    count = len(cells)
    while count and not cells[count - 1].strip():
        count -= 1
    return cells[:count]


def _separated(dialect: Dialect) -> str:
    name = {"\t": "tabs"}.get(dialect.delimiter, repr(dialect.delimiter))
    return f"cells are separated by {name}"
