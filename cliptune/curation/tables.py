"""Tables of pairs whose rows are known, and tables with what a model said of them."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from docarray import DocList

from cliptune.curation.embedded import EmbeddedPairs
from cliptune.curation.negatives import Mined, Negative
from cliptune.data.tables.columns import is_picture
from cliptune.data.tables.opening import open_table
from cliptune.data.tables.options import CsvOptions
from cliptune.data.tables.reader import Table
from cliptune.data.tables.rows import SeveralRows
from cliptune.data.tables.writing import copy_table
from cliptune.data.validation import PAIR
from cliptune.documents import ClipDoc
from cliptune.errors import BadInput, NotFound, shown

_DIGEST = re.compile(r"[0-9a-f]{64}")
"""An id that is made of a picture alone: it stays when a table gets another column."""
_ID = "id"


@dataclass
class PairTable:
    """A table of pairs: its documents, and which row each is of."""

    table: Table
    docs: DocList[ClipDoc] = field(init=False)
    rows: list[int] = field(init=False)
    """By document: its row's number, from 0, as `copy_table` counts."""

    def __post_init__(self) -> None:
        """Read the documents."""
        numbered = list(self.table.numbered())
        self.docs = DocList[ClipDoc]([doc for _, doc in numbered])
        self.rows = [number for number, _ in numbered]


def open_pairs(name: str, options: CsvOptions, role: str) -> PairTable:
    """The pairs of the table `name`; what is incomplete is left out, as in training.

    Raises:
        NotFound: there is no table of that name; a folder of pictures is none.
        BadData: as `Table`.
    """
    opened = open_table(name, options)
    if opened is None:
        raise NotFound(
            f"{role}: {shown(name)} is no table: give a file of CSV, JSON lines, parquet, …, or a "
            "folder or pattern of them"
        )
    rows, options = opened
    return PairTable(Table(rows, options, needs=PAIR, role=role, keeps_pictures=True))


@dataclass(frozen=True)
class MinedTable:
    """What was written."""

    rows: int
    """All those of the table."""
    named: int
    """Rows that name wrong answers."""
    unnamed: int
    """Wrong answers that were found and have no id that would stay: of several rows' one picture,
    in a table whose rows have several pictures."""
    options: dict[str, object]
    """How the table is to be read, as `CsvOptions`: with the columns that were added."""


def check_minable(given: PairTable, column: str) -> None:
    """Refuse a table to which no column of wrong answers can be added: before the work.

    Raises:
        BadInput: the column is there, it has one of pictures already, its ids look like pictures'
            paths, or its pictures are relative to several folders.
    """
    table, options = given.table, given.table.options
    rows, roles = table.rows, table.roles
    if not column.strip() or column in rows.columns:
        is_there = f"{rows.where} has a column {column!r} already" if column.strip() else "no name"
        raise BadInput(f"--column {column!r}: {is_there}; give another name")
    if roles.negatives_are_pictures:
        raise BadInput(
            f"{options.option('negative_column')} {roles.negative!r} holds pictures, and wrong "
            "answers are added as ids: leave the option away"
        )
    if roles.id is not None and (alike := [d.id for d in given.docs if is_picture(str(d.id))]):
        raise BadInput(
            f"{rows.where}: the ids look like pictures, such as {alike[0]!r}, and a column of them "
            f"would be read as pictures: {options.option('id_column')} names another, or none"
        )
    if isinstance(rows, SeveralRows) and len({one.root for _, one in rows.files}) > 1:
        raise BadInput(
            f"{rows.where}: its files lie in several folders, to which their pictures' paths are "
            "relative: give the tables of one folder at a time"
        )


def write_mined(
    given: PairTable, pairs: EmbeddedPairs, mined: Mined, out: Path, column: str, most: int
) -> MinedTable:
    """Write the table with a column of wrong answers, as ids that training knows again.

    Wrong answers that the table names itself come first. A table without a column of ids gets
    one, `id`, where each row is one document; where rows have several pictures, ids are made of
    these.

    Args:
        given: the table, which `check_minable` has let pass.
        pairs: of its documents.
        mined: their wrong answers.
        out: the file; see `check_target`.
        column: what the column is called.
        most: how many a row names at most, beside those of its own.

    Raises:
        BadInput, BadData: as `copy_table`.
    """
    table = given.table
    cells: defaultdict[int, dict[str, object]] = defaultdict(dict)
    id_column, added = table.roles.id, [column]
    is_stable = id_column is not None
    if id_column is None and max(Counter(given.rows).values()) == 1:
        id_column, is_stable = _free_name(_ID, table.rows.columns), True
        added.append(id_column)
        for row, doc in zip(given.rows, given.docs, strict=True):
            cells[row][id_column] = str(doc.id)
    found: defaultdict[int, list[Negative]] = defaultdict(list)
    for place, negatives in zip(pairs.rows, mined.negatives, strict=True):
        found[given.rows[place]] += negatives
    own: dict[int, list[str]] = {
        row: list(doc.negatives)
        for row, doc in zip(given.rows, given.docs, strict=True)
        if doc.negatives
    }
    unnamed = 0
    for row in sorted({*found, *own}):
        ids = dict.fromkeys(own.get(row, ()))
        limit = len(ids) + most
        for one in sorted(found[row], key=lambda each: -each.score):
            doc_id = str(pairs.docs[one.position].id)
            if is_stable or _DIGEST.fullmatch(doc_id):
                if len(ids) < limit:
                    ids[doc_id] = None
            else:
                unnamed += 1
        if ids:
            cells[row][column] = list(ids)
    written = copy_table(table.rows, out, cells, added)
    named = sum(column in row for row in cells.values())
    return MinedTable(written, named, unnamed, _options(table, out, column, id_column))


def _options(table: Table, out: Path, column: str, id_column: str | None) -> dict[str, object]:
    """How what was written is to be read: by name, whatever else its columns are called."""
    roles, given = table.roles, table.options
    title = roles.texts[0]
    columns = [text for text in roles.texts if text.column is not None]
    options: dict[str, object] = {
        "text_template": title.template,
        "text_column": [f"{t.column}:{t.weight:g}" if t.weight != 1 else t.column for t in columns],
        "image_template": roles.template,
        "image_column": roles.image,
        # A group's column stays a tag.
        "group_column": roles.label if roles.label in roles.tags else None,
        "label_column": given.label_column if roles.label is None else roles.label,
        "id_column": id_column or given.id_column,
        "weight_column": roles.weight,
        "grade_column": roles.grade,
        "negative_column": column,
        "download": given.downloads or None,
    }
    if options["group_column"]:
        options["label_column"] = None
    if roles.image not in table.rows.pictures:
        options["image_root"] = _image_root(table, out)
    return {name: value for name, value in options.items() if value}


def _image_root(table: Table, out: Path) -> str | None:
    """What pictures' paths are relative to, where that isn't the new table's own folder."""
    kept = table.options.kept.image_root if table.options.kept else None
    root = table.options.image_root or (kept if kept and os.path.isdir(kept) else table.rows.root)
    if "://" in root:
        return root
    root = os.path.realpath(os.path.expanduser(root))
    return None if root == os.path.realpath(out.parent) else root


def _free_name(name: str, columns: Sequence[str]) -> str:
    """`name`, or if a column is called so, one with a number."""
    free, number = name, 2
    while free in columns:
        free, number = f"{name}_{number}", number + 1
    return free
