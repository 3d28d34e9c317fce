"""Tables of titles and pictures: CSV and TSV files to documents.

Finetuner's rules: no header is needed, the dialect is sniffed, a row holds one picture and one
text in either order, and the same text (or the same picture) again means the same label. Beyond
them, a header may name the columns, and all columns that are not otherwise used become tags.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from docarray import DocList

from cliptune.data.images import SUFFIXES
from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadInput, near_matches

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
    """Rows of one label are right answers to each other; default: those of one title."""
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
    path, options = Path(path), CsvOptions.parse(options)
    rows = _read_rows(path, options)
    if not rows:
        raise BadData(f"{path} is empty")
    if options.names_columns:
        header, body = rows[0][1], rows[1:]
        reader = _named_reader(path, header, options)
    else:
        reader, body = _plain_reader(path, rows)
    if not body:
        raise BadData(f"{path} has a header and no rows")
    docs = DocList[ClipDoc]()
    seen: dict[str, int] = {}
    for line, row in body:
        doc = reader(line, row)
        if doc.id in seen:
            raise BadData(f"{path}: the id {doc.id!r} is on line {seen[doc.id]} and on line {line}")
        seen[str(doc.id)] = line
        docs.append(doc)
    return docs


def _read_rows(path: Path, options: CsvOptions) -> list[tuple[int, list[str]]]:
    """(line number, cells) of each row that is not blank."""
    try:
        text = path.read_bytes().decode(options.encoding)
    except UnicodeDecodeError as error:
        raise BadData(
            f"{path} is not {options.encoding} text: byte {error.start} can't be read "
            "(give encoding='latin-1', or whatever it is)"
        ) from error
    except (OSError, LookupError) as error:
        raise BadData(f"{path} can't be read: {error}") from error
    if "\0" in text:
        raise BadData(f"{path} is not a text table: it holds NUL characters")
    csv.field_size_limit(_MAX_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, **_dialect(text, options))
    rows = []
    try:
        start = 1
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append((start, row))
            start = reader.line_num + 1
    except csv.Error as error:
        raise BadData(f"{path}, line {reader.line_num}: {error}") from error
    return rows


def _dialect(text: str, options: CsvOptions) -> dict[str, Any]:
    if options.delimiter:
        return {"delimiter": options.delimiter}
    try:
        sniffed = csv.Sniffer().sniff(text[:20_000], delimiters=",;\t|")
        return {"delimiter": sniffed.delimiter}
    except csv.Error:
        return {"delimiter": ","}


def _named_reader(path: Path, header: list[str], options: CsvOptions) -> Any:
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
            label=cells[options.label_column] if options.label_column else text,
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


def _plain_reader(
    path: Path, rows: list[tuple[int, list[str]]]
) -> tuple[Any, list[tuple[int, list[str]]]]:
    """A reader for two columns without names, and the rows without a header if there is one."""
    for line, row in rows:
        if len(row) != 2:
            raise BadData(
                f"{path}, line {line}: {len(row)} cells, and without column names there must be "
                "two, a picture and a text (name them with text_column and image_column)"
            )
    body = rows
    if not any(_is_picture(cell) for cell in rows[0][1]) and len(rows) > 1:
        body = rows[1:]  # a header
    counts = [sum(_is_picture(row[column]) for _, row in body) for column in (0, 1)]
    if max(counts) == 0:
        raise BadData(
            f"{path}: neither of its columns holds pictures (paths ending in "
            f"{', '.join(SUFFIXES[:4])} …, or URIs)"
        )
    image = 0 if counts[0] >= counts[1] else 1
    # The same picture with another text again: the same product.
    labels: dict[str, str] = {}

    def read(line: int, row: list[str]) -> ClipDoc:
        picture, text = row[image].strip(), row[1 - image].strip()
        by_picture, by_text = f"picture {picture}", f"text {text}"
        label = labels.get(by_picture) or labels.get(by_text) or text
        labels[by_picture] = labels[by_text] = label
        return ClipDoc(
            id=f"{path.stem}-{line}",
            text=text or None,
            uri=_uri(path, picture, CsvOptions()),
            label=label or None,
        )

    return read, body


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
