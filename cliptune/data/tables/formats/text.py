"""Text tables: CSV, TSV and their relatives, and JSON lines.

They are read from their file in every pass, in UTF-8; a text in another encoding is kept in memory.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, cast

from cliptune.data.tables.columns import is_picture, known_names, normal
from cliptune.data.tables.formats.dialects import find_dialect, split_rows
from cliptune.data.tables.formats.encodings import decode_text
from cliptune.data.tables.options import CsvOptions
from cliptune.data.tables.rows import Row, Rows
from cliptune.errors import BadData

MAX_LINE = 2**27
"""Characters of a line: pictures may stand in a table as data: URIs."""
MAX_DECODED = 2**28
"""Bytes of a text in another encoding than UTF-8, as it is kept in memory."""
_HEAD = 2**23
"""Characters that the dialect is judged by."""
_CHUNK = 2**20
_HALF = re.compile(r"\\ud[89a-f]", re.IGNORECASE)
"""How JSON writes halves of characters, and whole ones by two of them."""


@dataclass(frozen=True)
class Text:
    """A file's text, from its beginning for every pass."""

    where: str
    open: Callable[[], TextIO]
    """Newlines stay as they are."""
    encoding: str
    note: str | None = None
    """What the user should know: that the encoding was guessed."""

    def head(self, size: int = _HEAD) -> str:
        """The first `size` characters."""
        with self.open() as file:
            return file.read(size)

    def lines(self, skipped: int = 0) -> Iterator[str]:
        """The lines from the character `skipped` on, as they end.

        Raises:
            BadData: one has more than `MAX_LINE` characters.
        """
        with self.open() as file:
            file.read(skipped)
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise BadData(
                        f"{self.where}, line {number}: it has more than {MAX_LINE} characters"
                    )
                yield line


def open_text(path: Path, options: CsvOptions) -> Rows:
    """The rows of the text table at `path`.

    Raises:
        BadData: it is no table, is empty, or a row is ragged; the message names the lines.
    """
    text = _text(path, options)
    head = text.head()
    rows: CsvRows | JsonLines
    if _is_json_lines(path, head):
        rows = JsonLines(path, text)
    elif head.lstrip()[:1] in ("[", "{") and _is_json(text.head(MAX_DECODED)):
        kind = "list" if head.lstrip()[:1] == "[" else "object of several lines"
        raise BadData(f"{path} is a JSON {kind}: write one object a line (.jsonl), or a CSV")
    else:
        rows = CsvRows(path, text, options)
    if text.note:
        rows.notes.insert(0, text.note)
    return rows


def _text(path: Path, options: CsvOptions) -> Text:
    where = str(path)
    if options.encoding is None and (encoding := _utf8(path)):
        return Text(where, lambda: path.open(encoding=encoding, newline=""), encoding)
    if path.stat().st_size > MAX_DECODED:
        raise BadData(
            f"{path} is larger than {MAX_DECODED} bytes, and not UTF-8 or with NUL characters: "
            "convert it, such as by iconv -f cp1252 -t utf-8, or write it as parquet"
        )
    preferred = options.kept.encoding if options.kept else None
    decoded = decode_text(
        path.read_bytes(), where, options.encoding, options.option("encoding"), preferred
    )
    return Text(
        where, lambda: io.StringIO(decoded.text, newline=""), decoded.encoding, decoded.note
    )


def _utf8(path: Path) -> str | None:
    """UTF-8, as Python calls it with or without a mark at the start; None: it is another text."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    has_mark = False
    with path.open("rb") as file:
        for number, chunk in enumerate(iter(lambda: file.read(_CHUNK), b"")):
            has_mark |= number == 0 and chunk.startswith(codecs.BOM_UTF8)
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError:
                return None
            if b"\0" in chunk:
                return None
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return None
    return "utf-8-sig" if has_mark else "utf-8"


class GridRows(ABC):
    """Rows of cells that are texts, with a header or, if they are of two columns, without."""

    encoding: str | None = None
    pictures: Collection[str] = ()
    lists: Collection[str] = ()
    has_commas: bool
    notes: list[str]
    unit = "line"
    between = ""
    """What to say of ragged rows."""

    def __init__(self, where: str, root: str, options: CsvOptions) -> None:
        """Check that every row has as many cells.

        Raises:
            BadData: it is empty, its quotes don't fit, a row is ragged or a name is there twice.
        """
        self.where, self.root, self._options = where, root, options
        self._header: list[str] | None = None
        self._check()

    def read(self, without: Collection[str] = ()) -> Iterator[Row]:
        """The rows, without the header."""
        rows = self.split()
        if self._header is not None:
            next(rows)
        for line, cells in rows:
            named = zip(self._names, cells, strict=False)
            yield Row(line, {name: cell for name, cell in named if name}, unit=self.unit)

    @abstractmethod
    def split(self) -> Iterator[tuple[int, list[str]]]:
        """(line, cells) of each row that is not blank, the header too."""

    def _check(self) -> None:
        rows = self.split()
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
            self._check_plain(line, first)

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
                ragged.append(f"{self.unit} {line}: {len(cells)} cells")
            nameless += any(c.strip() for c, name in zip(cells, names, strict=False) if not name)
        self._names: list[str] = names
        self.columns: Sequence[str] = filled
        if ragged:
            raise BadData(
                f"{self.where}, {ragged[0]}, the header has {len(names)}"
                + (f"; so have {len(ragged) - 1} more rows, {'; '.join(ragged[1:3])}"
                   f"{' …' if len(ragged) > 3 else ''}" if len(ragged) > 1 else "")
                + self.between
            )  # fmt: skip
        if not count:
            raise BadData(f"{self.where} has a header and no rows")
        if nameless:
            self.notes.append("a column without a name in the header is not read")

    def _check_plain(self, line: int, first: list[str]) -> None:
        """A table without header has a picture and perhaps a text in each row."""
        width = max(len(_trimmed(cells)) for _, cells in self.split())
        self._names = self.columns = [f"column {number + 1}" for number in range(width)]
        for line, cells in self.split():
            if width > 2 or len(cells) < width:
                options = map(self._options.option, ("text_column", "image_column"))
                raise BadData(
                    f"{self.where}, {self.unit} {line}: {len(cells)} cells, and without a header "
                    "there must be two, a picture and a text (give the table a header; if it has "
                    f"one, name its columns by {' and '.join(options)})"
                )


class CsvRows(GridRows):
    """The rows of a text table: CSV, TSV and their relatives."""

    def __init__(self, path: Path, text: Text, options: CsvOptions) -> None:
        """Find out how `text` is written, and check that every row has as many cells.

        Raises:
            BadData: as `GridRows`.
        """
        self._text, self.encoding = text, text.encoding
        self.notes: list[str] = []
        head = text.head()
        self._skipped, said = _excel_line(head)
        self._first_line = 2 if said else 1
        given = [value for value in options.given().values() if isinstance(value, str)]
        named = {normal(value) for value in (*given, *options.text_columns)}
        self._dialect = find_dialect(
            head[self._skipped :],
            is_picture,
            lambda names: known_names(names) or any(normal(name) in named for name in names),
            options.delimiter or said,
        )
        delimiter = self._dialect.delimiter
        self.has_commas = delimiter != ","
        separated = {"\t": "tabs"}.get(delimiter, repr(delimiter))
        self.between = (
            f" (cells are separated by {separated}: text that has it must be in quotation marks)"
        )
        super().__init__(str(path), str(path.parent), options)

    def split(self) -> Iterator[tuple[int, list[str]]]:
        """As `GridRows`.

        Raises:
            BadData: its quotes don't fit.
        """
        try:
            for line, cells in split_rows(self._text.lines(self._skipped), self._dialect):
                yield line + self._first_line - 1, cells
        except csv.Error as error:
            line = error.row_line + self._first_line - 1  # type: ignore[attr-defined]
            hint = " (is a quotation mark not closed?)" if "unexpected end" in str(error) else ""
            raise BadData(f"{self.where}, line {line}: {error}{hint}") from error


class JsonLines:
    """The rows of a file with one JSON object a line."""

    has_commas = False
    pictures: Collection[str] = ()
    lists: Collection[str] = ()

    def __init__(self, path: Path, text: Text) -> None:
        """Look through all of it.

        Raises:
            BadData: a line is no JSON object, or there are none.
        """
        self.where, self.root = str(path), str(path.parent)
        self.notes: list[str] = []
        self._text, self.encoding = text, text.encoding
        self._mended: list[int] = []
        names: dict[str, None] = {}
        for row in self.read():
            names.update(dict.fromkeys(row.cells))
        self.columns: Sequence[str] = list(names)
        if self._mended:
            self.notes.append(
                f"{len(self._mended)} lines have half of a character, the first is line "
                f"{self._mended[0]}: read as \ufffd"
            )

    def read(self, without: Collection[str] = ()) -> Iterator[Row]:
        """The rows."""
        for number, line in enumerate(self._text.lines(), start=1):
            if line.strip():
                yield Row(number, self._parsed(number, line))

    def _parsed(self, number: int, line: str) -> dict[str, object]:
        try:
            values = json.loads(line, object_pairs_hook=named_once)
        except (ValueError, RecursionError) as error:
            if isinstance(error, BadData):
                raise BadData(f"{self.where}, line {number}: {error}") from None
            raise BadData(f"{self.where}, line {number}: not JSON: {error}") from None
        if not isinstance(values, dict):
            raise BadData(
                f"{self.where}, line {number}: not a JSON object but {line.strip()[:60]!r}"
            )
        if _HALF.search(line) and (whole := whole_characters(values)) != values:
            self._mended.append(number)
            return cast(dict[str, object], whole)
        return values


def whole_characters(value: object) -> object:
    """JSON's value with U+FFFD where it has half of a character, which no store takes."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [whole_characters(one) for one in value]
    if isinstance(value, dict):
        pairs = value.items()
        return {whole_characters(name): whole_characters(one) for name, one in pairs}
    return value


def named_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object, of which no value is lost to another of its name.

    Raises:
        BadData: a name is there twice.
    """
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(name for name, times in Counter(n for n, _ in pairs).items() if times > 1)
        raise BadData(f"{twice[:100]!r} is there twice")
    return values


def _excel_line(text: str) -> tuple[int, str | None]:
    """Excel's first line `sep=;` says what separates the cells; it is no row. (its length, that)"""
    line = re.match(r'"?sep=(.)"?[ \t,;|]*(\r\n|\n|\r|$)', text, re.IGNORECASE)
    return (line.end(), line.group(1)) if line else (0, None)


def _is_json_lines(path: Path, head: str) -> bool:
    first = head.lstrip().split("\n", 1)[0].strip()
    is_named = path.suffix.lower() in (".jsonl", ".ndjson")
    return first[:1] == "{" and (is_named or _is_json(first))


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
