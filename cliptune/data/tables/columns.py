"""What is in a table's columns, and what columns of titles and pictures are called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from cliptune.data.pictures.images import SUFFIXES
from cliptune.data.pictures.slices import SLICE
from cliptune.data.tables.rows import Unusable

TEXT_NAMES = (
    ("title", "text", "caption"),
    ("name", "productname", "producttitle", "productdisplayname", "displayname", "itemname",
     "query", "prompt", "sentence"),
    ("description", "productdescription"),
)  # fmt: skip
"""Names of columns of titles, the likelier first; without case, spaces, `_`, `-` and `.`."""
IMAGE_NAMES = (
    ("image", "picture", "photo", "img", "filename", "imagepath", "imagefile", "imageurl",
     "imageuri", "imagelink", "imgurl", "pictureurl", "picturepath", "photourl", "imagefilename"),
    ("file", "filepath", "path", "url", "uri", "link", "src"),
)  # fmt: skip


@dataclass
class Column:
    """What is in a column of a table."""

    name: str
    filled: int = 0
    """Cells that are not blank."""
    pictures: int = 0
    """Cells that are a picture's path or URI."""
    lists: int = 0
    """Cells that hold several values."""
    plain: int = 0
    """Cells that are numbers, with a point or without."""
    points: int = 0
    commas: int = 0
    """Cells that are numbers with a decimal comma, or whole ones."""
    fractions: int = 0
    """Those of them with a comma."""
    thousands: int = 0
    """Those of them that could as well be thousands: `1,250`."""

    def add(self, value: object) -> None:
        """Count a cell."""
        self.filled += 1
        if isinstance(value, list) and value:
            value = value[0]
            self.lists += 1
        self.pictures += isinstance(value, bytes | Unusable)
        if not isinstance(value, str):
            return
        value = value.strip()
        self.pictures += is_picture(value)
        if _PLAIN.fullmatch(value):
            self.plain += 1
            self.points += "." in value
        if _COMMA.fullmatch(value):
            self.commas += 1
            self.fractions += "," in value
            self.thousands += bool(_THOUSANDS.fullmatch(value))

    @property
    def is_pictures(self) -> bool:
        """Whether most of its cells are pictures."""
        return self.pictures > self.filled / 2

    @property
    def is_decimal(self) -> bool:
        """Whether all its cells are numbers and some have a decimal point."""
        return self.points > 0 and self.plain == self.filled

    @property
    def has_decimal_commas(self) -> bool:
        """Whether all its cells are numbers and some have what can only be a decimal comma."""
        return self.commas == self.filled and self.fractions > self.thousands

    @property
    def has_unclear_commas(self) -> bool:
        """Whether its commas may be decimal ones or those of thousands."""
        return self.commas == self.filled and 0 < self.fractions == self.thousands


_PLAIN = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d+)?", re.A)
_COMMA = re.compile(r"[+-]?(0|[1-9]\d*|[1-9]\d{0,2}(\.\d{3})+)(,\d+)?", re.A)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.A)


def is_picture(cell: str) -> bool:
    """Whether a cell is a picture's path or URI."""
    cell = cell.strip()
    return (
        cell.startswith(("data:image/", SLICE))
        or is_elsewhere(cell)
        or ("\n" not in cell and cell.lower().endswith(SUFFIXES))
    )


def is_elsewhere(uri: str) -> bool:
    """Whether a URI has to be fetched: `https://…`, `s3://…`."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return False
    here = ("data", "file", "slice")
    return bool(parts.netloc) and len(parts.scheme) > 1 and parts.scheme not in here


def normal(name: str) -> str:
    """A column's name without case, spaces and what stands for spaces."""
    return re.sub(r"[\s_.-]+", "", name).casefold()


def known_names(cells: Sequence[str]) -> bool:
    """Whether a row has a name of a column of titles or pictures, so that it is a header."""
    known = {name for tier in (*TEXT_NAMES, *IMAGE_NAMES) for name in tier}
    return any(normal(cell) in known for cell in cells)
