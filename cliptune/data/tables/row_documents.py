"""A row of a table to a document: its titles, its picture, its tags."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from cliptune.data.pictures.download import Downloads
from cliptune.data.pictures.slices import SLICE
from cliptune.data.tables.columns import Column, is_elsewhere
from cliptune.data.tables.options import CsvOptions
from cliptune.data.tables.pair_cells import grade_of, ids_of, weight_of
from cliptune.data.tables.roles import Roles, Text
from cliptune.data.tables.rows import Row, Rows, Unusable
from cliptune.data.tables.templates import fill_template, fill_text
from cliptune.data.validation import is_missing
from cliptune.documents import EXACT, MAX_DEPTH, ClipDoc, is_too_deep
from cliptune.errors import BadData

T = TypeVar("T")


class DocumentMaker:
    """Makes documents of a table's rows."""

    downloads: Downloads | None = None
    """What pictures' URLs have become."""

    def __init__(
        self, rows: Rows, columns: Mapping[str, Column], roles: Roles, options: CsvOptions
    ) -> None:
        """Take what is known of the table: what is in its `columns`, and their `roles`."""
        self.rows, self.roles, self.options = rows, roles, options
        self._columns = columns
        self._decimal = {
            name
            for name, column in columns.items()
            if column.is_decimal or (rows.has_commas and column.has_decimal_commas)
        }

    def document(self, row: Row, doc_id: str | None = None) -> ClipDoc:
        """The document of a row."""
        roles = self.roles
        texts = self._texts(row)
        label = text_of(row.cells.get(roles.label)) if roles.label else None
        weight, grade, negatives, _ = self._of_pair(row)
        bytes_of = self.rows.pictures
        cells = {name: row.cells.get(name) for name in roles.tags if name not in bytes_of}
        for name, value in cells.items():
            if not isinstance(value, str | float | int | None) and is_too_deep(value):
                raise BadData(
                    f"{self.rows.where}, {row.place}: column {name!r} is nested deeper than "
                    f"{MAX_DEPTH} levels"
                )
        tags = {
            name: self._tag(name, value)
            for name, value in cells.items()
            if isinstance(value, str) or not is_missing(value)
        }
        picture = self.picture(row)
        return ClipDoc(
            id=doc_id,
            text=next(iter(texts), None),
            texts=texts if len(texts) > 1 else None,
            image=picture if isinstance(picture, bytes) else None,
            uri=picture if isinstance(picture, str) else None,
            label=label,
            weight=weight,
            grade=grade,
            negatives=negatives,
            tags=tags,
        )

    def fault(self, row: Row) -> str | None:
        """What is wrong with a row's weight or grade, so that it can't be used; None: nothing."""
        return self._of_pair(row)[-1]

    def _of_pair(self, row: Row) -> tuple[float | None, int | None, list[str] | None, str | None]:
        """A row's weight, its grade, its wrong answers' ids, and what is wrong with them."""
        roles, faults = self.roles, []

        def number(column: str | None, parse: Callable[[object], T]) -> T | None:
            cell = row.cells.get(column) if column else None
            if column is None or is_missing(cell):
                return None
            try:
                return parse(self._typed(column, cell))
            except ValueError as error:
                faults.append(f"column {column!r}: {error}")
                return None

        weight = number(roles.weight, weight_of)
        grade = 0 if row.is_wrong else number(roles.grade, grade_of)
        negatives = None
        if roles.negative is not None and not roles.negatives_are_pictures:
            negatives = ids_of(row.cells.get(roles.negative)) or None
        return weight, grade, negatives, "; ".join(faults) or None

    def _texts(self, row: Row) -> dict[str, float]:
        """The titles of a row with their weights, the first one first."""
        texts: dict[str, float] = {}
        for source in self.roles.texts:
            given = self._values(source, row)
            for text in given:
                texts[text] = texts.get(text, 0.0) + source.weight / len(given)
        return texts

    def _values(self, source: Text, row: Row) -> list[str]:
        if source.template is not None:
            cells = {name: text_of(row.cells.get(name)) or "" for name in self.rows.columns}
            text = fill_text(source.template, cells)
            return [] if text is None else [text]
        cell = row.cells.get(source.column or "")
        cells_of = cell if isinstance(cell, list) else [cell]
        texts = (text_of(one) for one in cells_of if not isinstance(one, Mapping | list))
        return [text for text in texts if text is not None]

    def why_untitled(self, row: Row) -> str:
        """Why a row has no title."""
        for source in self.roles.texts:
            cell = row.cells.get(source.column or "")
            for one in cell if isinstance(cell, list) else [cell]:
                if isinstance(one, Mapping | list):
                    return f"no title but {'a list' if isinstance(one, list) else 'an object'}"
        return "no title"

    def picture(self, row: Row) -> str | bytes | Unusable | None:
        """A row's picture: its bytes, or where it is."""
        if self.roles.template is not None:
            cells = {name: text_of(row.cells.get(name)) or "" for name in self.rows.columns}
            image = fill_template(self.roles.template, cells)
        else:
            cell = row.cells.get(self.roles.image) if self.roles.image else None
            if isinstance(cell, bytes | Unusable):
                return cell
            if isinstance(cell, Mapping):  # as JSON lines may have Hugging Face's structs
                if is_missing(cell.get("path")) and any(not is_missing(v) for v in cell.values()):
                    return Unusable(
                        f"an object with {', '.join(map(str, cell))[:100]} but neither a path nor "
                        "bytes"
                    )
                cell = cell.get("path")
            if not is_missing(cell) and not isinstance(cell, str):
                return Unusable(f"{cell!r:.100} is no picture's path")
            image = text_of(cell)
        if image is not None and is_elsewhere(image):
            return self._fetched(image)
        if image is None or image.startswith(("data:", "file:", SLICE)):
            return image
        return self._rooted(image, row)

    def _fetched(self, url: str) -> str:
        return url if self.downloads is None else str(self.downloads.files.get(url, url))

    def _rooted(self, image: str, row: Row) -> str:
        """A relative path from where the table says that pictures are."""
        given = self.options.image_root
        if given is None and self.options.kept is not None:
            kept = self.options.kept.image_root
            given = kept if kept is not None and Path(kept).is_dir() else None
        place = given or row.root or self.rows.root
        if "://" in place:
            return self._fetched(f"{place.rstrip('/')}/{image.lstrip('/')}")
        root = Path(place).expanduser()
        # Tables made on Windows; a file that is really called so is found, too.
        if "\\" in image and os.sep == "/" and not (root / image).exists():
            image = image.replace("\\", "/")
        return str(root / image)

    def _tag(self, column: str, value: object) -> object:
        """A cell as a tag: as `_typed`, and what JSON and floats have; no text is lost to that."""
        typed = _as_json(self._typed(column, value))
        return value if isinstance(value, str) and typed is None else typed

    def _typed(self, column: str, value: object) -> object:
        """A cell as a number where it is one, so that tags can be compared.

        A column that is all numbers has numbers, `12.50` too (and `12,50` where commas separate
        no cells); elsewhere '007', '12.50' and 'nan' are texts: what would not come back as it was.
        """
        if not isinstance(value, str):
            return value
        if column in self._decimal and not is_missing(value):
            text = value.strip()
            if self._columns[column].has_decimal_commas and self.rows.has_commas:
                text = text.replace(".", "").replace(",", ".")
            return float(text) if "." in text else int(text)
        for kind in (int, float):
            try:
                number = kind(value)
            except ValueError:
                continue
            return number if str(number) == value.strip() else value
        return value


def _as_json(value: object) -> object:
    """A tag as JSON and floats have it: large integers as texts, infinite numbers blank."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) > EXACT:
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [_as_json(one) for one in value]
    if isinstance(value, Mapping):
        return {str(name): _as_json(one) for name, one in value.items()}
    return value


def text_of(value: object) -> str | None:
    """A cell as a text without spaces around it; None where nothing is in it."""
    return None if is_missing(value) else str(value).strip()
