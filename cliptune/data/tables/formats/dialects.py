"""How a text table separates and quotes its cells: by what fits all of its rows.

`csv.Sniffer` judges by how often a character occurs, and takes the commas of titles for columns.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypedDict

DELIMITERS = ("\t", ";", "|", ",")
_MAX_FIELD = 2**27  # pictures may stand in a table as data: URIs
_SAMPLED_ROWS = 2000
_SAMPLED_CHARACTERS = 2**22


class DialectParameters(TypedDict):
    """The keyword arguments of `csv.reader`."""

    delimiter: str
    quoting: Literal[0, 3]
    escapechar: str | None
    doublequote: bool
    strict: bool


@dataclass(frozen=True)
class Dialect:
    """The parameters of `csv.reader`."""

    delimiter: str
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
    escape: str | None = None
    """What makes a quotation mark part of a cell, where that is not doubling it."""

    @property
    def parameters(self) -> DialectParameters:
        """As keyword arguments."""
        return {
            "delimiter": self.delimiter,
            "quoting": self.quoting,
            "escapechar": self.escape,
            "doublequote": self.escape is None,
            "strict": True,
        }


def split_rows(lines: Iterable[str], dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of each row of a text's `lines` that is not blank.

    Raises:
        csv.Error: its quotes don't fit; `row_line` of the error is the row's line number.
    """
    csv.field_size_limit(_MAX_FIELD)
    reader = csv.reader(lines, **dialect.parameters)
    start = 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        error.row_line = start  # type: ignore[attr-defined]
        raise


def find_dialect(
    text: str,
    is_picture: Callable[[str], bool],
    known_names: Callable[[list[str]], bool],
    delimiter: str | None = None,
) -> Dialect:
    """The dialect of which the rows make most sense.

    Counted are: a column of pictures whose cells are nothing else, a header with known names, the
    part of the rows that have as many cells as most, how few cells begin with a space (as the
    clauses of a title do), and how many columns there are.

    Args:
        text: the table.
        is_picture: whether a cell is a picture's path or URI.
        known_names: whether a row has names of columns.
        delimiter: where it is known.
    """
    delimiters = (delimiter,) if delimiter else DELIMITERS

    def best(quoting: Literal[0, 3], escape: str | None = None) -> Dialect | None:
        scored = []
        for each in delimiters:
            dialect = Dialect(each, quoting, escape)
            rows = _sample(text, dialect)
            if rows and (score := _score(rows, each, delimiters, is_picture, known_names)):
                scored.append((score, dialect))
        return max(scored, key=lambda pair: pair[0])[1] if scored else None

    quoted = best(csv.QUOTE_MINIMAL)
    if quoted is None and '\\"' in text:
        quoted = best(csv.QUOTE_MINIMAL, "\\")
    if quoted is not None:
        return quoted
    if (unquoted := best(csv.QUOTE_NONE)) is not None:
        is_plain = not any(_is_quoted(c) for row in _sample(text, unquoted) for c in row)
        # Tables with tabs often have no quoting; in others a quotation mark out of place is a
        # fault, which reading the table names.
        return unquoted if unquoted.delimiter == "\t" and is_plain else Dialect(unquoted.delimiter)
    if delimiter:
        return Dialect(delimiter)
    # One column: cut by a character that isn't there.
    return Dialect(next((each for each in (",", *DELIMITERS) if each not in text), "\x1f"))


def _sample(text: str, dialect: Dialect) -> list[list[str]]:
    """The first rows; none where the quotes don't fit."""
    rows, size = [], 0
    try:
        for _, row in split_rows(io.StringIO(text, newline=""), dialect):
            rows.append(row)
            size += sum(map(len, row))
            if len(rows) == _SAMPLED_ROWS or size > _SAMPLED_CHARACTERS:
                break
    except csv.Error:
        return []
    return rows


def _is_quoted(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == '"'


def _score(
    rows: list[list[str]],
    delimiter: str,
    delimiters: Collection[str],
    is_picture: Callable[[str], bool],
    known_names: Callable[[list[str]], bool],
) -> tuple[float, ...] | None:
    width, count = Counter(map(len, rows)).most_common(1)[0]
    if width < 2 or count < len(rows) / 2:
        return None
    whole = [row for row in rows if len(row) == width]
    body = whole[1:] or whole
    others = [each for each in delimiters if each != delimiter]

    def is_clean(cell: str) -> bool:
        return (
            is_picture(cell)
            and not cell[:1].isspace()
            and (cell.startswith("data:") or not any(each in cell for each in others))
        )

    filled = [[cell for cell in column if cell.strip()] for column in zip(*body, strict=True)]
    has_pictures = any(column and sum(map(is_clean, column)) > len(column) / 2 for column in filled)
    later = [cell for row in whole for cell in row[1:]]
    spaces = sum(cell[:1] == " " for cell in later) / len(later)
    evidence = has_pictures + known_names([name.strip() for name in rows[0]])
    return evidence, count / len(rows), -round(spaces, 2), width
