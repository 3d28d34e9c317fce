"""Tables of titles and pictures: CSV and TSV files to documents.

Finetuner's rules: no header is needed, the dialect is sniffed, a row holds one picture and one
text in either order. Beyond them, a header may name the columns, and all columns that are not
otherwise used become tags. Labels are those of a column alone: what else is the same is decided
where documents are used (`cliptune.data.sameness`).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from docarray import DocList

from cliptune.data.images import SUFFIXES
from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadInput, near_matches

Row = tuple[int, list[str]]
"""Its line number, and its cells."""
Reader = Callable[[int, list[str]], ClipDoc]
_MAX_FIELD = 2**27  # pictures may stand in a table as data: URIs


@dataclass(frozen=True)
class CsvOptions:
    """How to read a table. Without any, a file of two columns is read by Finetuner's rules."""

    text_column: str | None = None
    """The column of titles, by its name in the header."""
    image_column: str | None = None
    """The column of picture paths or URIs; relative paths are relative to the table's folder."""
    image_template: str | None = None
    """Instead: a path made of columns, such as `images/{id}.jpg`."""
    label_column: str | None = None
    """Rows of one label are right answers to each other; default: those that are the same to the
    model, by title or picture."""
    id_column: str | None = None
    """The column of ids; default: the row's number."""
    encoding: str = "utf-8-sig"
    delimiter: str | None = None
    """Default: sniffed."""
    image_root: str | None = None
    """The folder of relative picture paths; default: the table's."""

    def __post_init__(self) -> None:
        """Refuse contradictions."""
        if self.image_column and self.image_template:
            raise BadInput(
                f"image_column {self.image_column!r} and image_template {self.image_template!r} "
                "exclude each other"
            )

    @classmethod
    def parse(cls, values: CsvOptions | Mapping[str, Any] | None) -> CsvOptions:
        """Options from a mapping; unknown names are refused with near matches."""
        if isinstance(values, CsvOptions):
            return values
        known = [field.name for field in fields(cls)]
        for name in values or {}:
            if name not in known:
                raise BadInput(f"unknown CSV option {name!r}: {near_matches(name, known)}")
        return cls(**(values or {}))

    @property
    def names_columns(self) -> bool:
        """Whether the table must have a header."""
        by_name = (self.text_column, self.image_column, self.image_template, self.label_column)
        return any(by_name) or self.id_column is not None


def read_csv(
    path: str | Path, options: CsvOptions | Mapping[str, Any] | None = None
) -> DocList[ClipDoc]:
    """Read the table at `path`: one document a row, with text, uri, label and tags.

    Raises:
        BadData: the file is empty or no text, a row is ragged, a column is missing, an id is
            given twice; the message names the line.
    """
    return DocList[ClipDoc](iter(CsvTable(path, options)))


class CsvTable:
    """The documents of a table, one at a time: for tables whose documents fill the memory.

    `len()` is the number of its rows; iterating raises what `read_csv` does, when it
    comes to it.
    """

    def __init__(
        self, path: str | Path, options: CsvOptions | Mapping[str, Any] | None = None
    ) -> None:
        """Read the file at `path` as text.

        Raises:
            BadData: it can't be read, is no text, or empty.
        """
        self.path, self.options = Path(path), CsvOptions.parse(options)
        self._text = _read_text(self.path, self.options.encoding)
        self._dialect = _dialect(self._text, self.options)
        if next(self._rows(), None) is None:
            raise BadData(f"{self.path} is empty")
        self._has_header = self.options.names_columns or _has_header(self._rows())

    def __len__(self) -> int:
        """Rows that are not blank, without the header."""
        return sum(1 for _ in self._rows()) - self._has_header

    def __iter__(self) -> Iterator[ClipDoc]:
        """The documents, in the order of the rows."""
        rows = self._rows()
        if self.options.names_columns:
            _, header = next(rows)
            read = _named_reader(self.path, header, self.options)
        else:
            read = _plain_reader(self.path, self._rows(), self._has_header)
            if self._has_header:
                next(rows)
        seen: dict[str, int] = {}
        for line, row in rows:
            doc = read(line, row)
            if doc.id in seen:
                raise BadData(
                    f"{self.path}: the id {doc.id!r} is on line {seen[doc.id]} and on line {line}"
                )
            seen[str(doc.id)] = line
            yield doc
        if not seen:
            raise BadData(f"{self.path} has a header and no rows")

    def _rows(self) -> Iterator[Row]:
        """(line number, cells) of each row that is not blank."""
        csv.field_size_limit(_MAX_FIELD)
        lines = io.StringIO(self._text, newline="")
        reader = csv.reader(lines, strict=True, **self._dialect)
        start = 1
        try:
            for row in reader:
                if any(cell.strip() for cell in row):
                    yield start, row
                start = reader.line_num + 1
        except csv.Error as error:
            raise BadData(f"{self.path}, line {reader.line_num}: {error}") from error


def _read_text(path: Path, encoding: str) -> str:
    try:
        text = path.read_bytes().decode(encoding)
    except UnicodeDecodeError as error:
        raise BadData(
            f"{path} is not {encoding} text: byte {error.start} can't be read "
            "(give encoding='latin-1', or whatever it is)"
        ) from error
    except (OSError, LookupError) as error:
        raise BadData(f"{path} can't be read: {error}") from error
    if "\0" in text:
        raise BadData(f"{path} is not a text table: it holds NUL characters")
    return text


def _has_header(rows: Iterator[Row]) -> bool:
    """Whether the first row of a table without named columns is a header: it has no picture."""
    _, first = next(rows)
    return not any(_is_picture(cell) for cell in first) and next(rows, None) is not None


def _dialect(text: str, options: CsvOptions) -> dict[str, Any]:
    if options.delimiter:
        return {"delimiter": options.delimiter}
    try:
        sniffed = csv.Sniffer().sniff(text[:20_000], delimiters=",;\t|")
        return {"delimiter": sniffed.delimiter}
    except csv.Error:
        return {"delimiter": ","}


def _named_reader(path: Path, header: list[str], options: CsvOptions) -> Reader:
    """A function from a row to a document, columns by their names in the header."""
    names = [name.strip() for name in header]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadData(f"{path}: the header has {twice!r} twice")
    for column in (
        options.text_column,
        options.image_column,
        options.label_column,
        options.id_column,
    ):
        if column is not None and column not in names:
            raise BadData(
                f"{path} has no column {column!r}: {near_matches(column, names)} "
                f"(its columns: {', '.join(names)})"
            )
    named = (options.text_column, options.image_column, options.label_column, options.id_column)
    used = {column for column in named if column}

    def read(line: int, row: list[str]) -> ClipDoc:
        if len(row) != len(names):
            raise BadData(f"{path}, line {line}: {len(row)} cells, the header has {len(names)}")
        cells = dict(zip(names, row, strict=True))
        text = cells[options.text_column].strip() if options.text_column else None
        return ClipDoc(
            id=cells[options.id_column] if options.id_column else f"{path.stem}-{line}",
            text=text or None,
            uri=_uri(path, _image_of(path, cells, options), options),
            label=cells[options.label_column] if options.label_column else None,
            tags={name: _typed(value) for name, value in cells.items() if name not in used},
        )

    return read


def _image_of(path: Path, cells: dict[str, str], options: CsvOptions) -> str | None:
    if options.image_column:
        return cells[options.image_column].strip() or None
    if not options.image_template:
        return None
    # No format(): its attribute and index access is not for values out of a table.
    image = options.image_template
    for name, value in cells.items():
        image = image.replace("{" + name + "}", value)
    if "{" in image:
        raise BadData(
            f"image_template {options.image_template!r} names a column that {path} does not have "
            f"(its columns: {', '.join(cells)})"
        )
    return image


def _plain_reader(path: Path, rows: Iterator[Row], has_header: bool) -> Reader:
    """A function from a row of two columns without names to a document."""
    counts = [0, 0]
    for number, (line, row) in enumerate(rows):
        if len(row) != 2:
            raise BadData(
                f"{path}, line {line}: {len(row)} cells, and without column names there must be "
                "two, a picture and a text (name them with text_column and image_column)"
            )
        if number or not has_header:
            counts = [count + _is_picture(cell) for count, cell in zip(counts, row, strict=True)]
    if max(counts) == 0:
        raise BadData(
            f"{path}: neither of its columns holds pictures (paths ending in "
            f"{', '.join(SUFFIXES[:4])} …, or URIs)"
        )
    image = 0 if counts[0] >= counts[1] else 1

    def read(line: int, row: list[str]) -> ClipDoc:
        picture, text = row[image].strip(), row[1 - image].strip() or None
        uri = _uri(path, picture, CsvOptions())
        return ClipDoc(id=f"{path.stem}-{line}", text=text, uri=uri)

    return read


def _is_picture(cell: str) -> bool:
    cell = cell.strip()
    return cell.startswith(("data:image/", "file://", "http://", "https://")) or (
        cell.lower().endswith(SUFFIXES)
    )


def _uri(path: Path, image: str | None, options: CsvOptions) -> str | None:
    if image is None or urlsplit(image).scheme in ("data", "file", "http", "https"):
        return image
    root = Path(options.image_root) if options.image_root else path.parent
    return str(root / image)


def _typed(value: str) -> str | int | float:
    """A cell as a number where it is one, so that tags can be compared."""
    for kind in (int, float):
        try:
            number = kind(value)
        except ValueError:
            continue
        # '007' and 'nan' are texts; so is what would not come back as it was.
        return number if str(number) == value.strip() else value
    return value
