"""What every format of a table is read as: the names of its columns, and its rows.

What the columns are for is `columns`' business, and the documents are `reader`'s. Another format
is another class with the methods of `Rows`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

MAX_TEXT = 2**20
"""Characters of a cell that is no picture; more, and the table is refused."""


@dataclass(frozen=True)
class Unusable:
    """In place of a picture that can't be used, and why."""

    reason: str


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    line: int
    """Of its file, from 1, on which it begins; or its number, where files have no lines."""
    cells: Mapping[str, object]
    """By column: texts, numbers, or lists and mappings of them; of pictures a path or URI, their
    bytes or `Unusable`, or a list of them. What is missing may be absent, None or blank."""
    file: str | None = None
    """Where a table is of several files."""
    unit: str = "line"
    """What `line` counts."""
    root: str | None = None
    """The folder, or URL, of its relative picture paths, where that isn't the whole table's."""

    is_wrong: bool = False
    """Whether its picture is a wrong answer to its title, of a column of such."""

    @property
    def place(self) -> str:
        """Such as `line 7`."""
        place = f"{self.unit} {self.line}"
        return f"{self.file}, {place}" if self.file else place


class Rows(Protocol):
    """A table: any number of passes over its rows."""

    where: str
    """Its path, or what else it was called by."""
    root: str
    """The folder, or URL, of relative picture paths."""
    columns: Sequence[str]
    """Their names; without a header `column 1` and so on."""

    @property
    def notes(self) -> list[str]:
        """What the user should know of how it is read: complete after a pass over the rows."""
        ...

    @property
    def pictures(self) -> Collection[str]:
        """Columns that hold pictures themselves, by the file's own types."""
        ...

    @property
    def lists(self) -> Collection[str]:
        """Those of them that may hold several in a row."""
        ...

    @property
    def has_commas(self) -> bool:
        """Whether a comma in a number can be a decimal one, as no comma separates cells."""
        ...

    @property
    def encoding(self) -> str | None:
        """Of a text table whose rows are its lines; None: it is none."""
        ...

    def read(self, without: Collection[str] = ()) -> Iterator[Row]:
        """The rows that are not blank; the cells of the columns `without` need not be read."""
        ...


class SeveralRows:
    """The rows of several files, one after the other, as one table."""

    encoding = None

    def __init__(self, where: str, files: Sequence[tuple[str, Rows]]) -> None:
        """Take the files' rows, each with what its file is called."""
        self.where, self.root = where, files[0][1].root
        self.files = files
        self.columns: Sequence[str] = list(
            dict.fromkeys(name for _, rows in files for name in rows.columns)
        )
        self.pictures = {name for _, rows in files for name in rows.pictures}
        self.lists = {name for _, rows in files for name in rows.lists}
        self.has_commas = all(rows.has_commas for _, rows in files)

    @property
    def notes(self) -> list[str]:
        """Those of the files, and what columns one of them lacks."""
        notes = [f"{file}: {note}" for file, rows in self.files for note in rows.notes]
        for file, rows in self.files:
            missing = [name for name in self.columns if name not in rows.columns]
            if missing:
                notes.append(f"{file} has no column {', '.join(map(repr, missing))}")
        return notes

    def read(self, without: Collection[str] = ()) -> Iterator[Row]:
        """The rows of one file after the other."""
        for file, rows in self.files:
            for row in rows.read(without):
                yield replace(row, file=file, root=rows.root)
