"""What a person has decided on suspects, applied to the table: rows dropped, titles corrected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cliptune.curation.suspects import BY_LABEL, COLUMNS, CORRECTION, DROP, SUSPECT_ID
from cliptune.curation.tables import PairTable
from cliptune.data.tables.opening import open_table
from cliptune.data.tables.options import CsvOptions
from cliptune.data.tables.row_documents import text_of
from cliptune.data.tables.writing import copy_table
from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadInput, NotFound, shown

_KEEPS = ("", "0", "no", "false", "n")
"""What stands in `drop` where a row stays."""


@dataclass(frozen=True)
class Decision:
    """What is to become of a suspect."""

    place: str
    """Where it stands in the table of suspects."""
    id: str
    title: str | None
    """As it was when the suspect was found."""
    reason: str
    drop: bool
    correction: str | None


@dataclass(frozen=True)
class Corrected:
    """What was written."""

    rows: int
    """In the new table."""
    dropped: int
    titles: int
    """Rows whose title is another now."""
    labels: int
    """Likewise their label."""


def read_decisions(name: str) -> list[Decision]:
    """The decisions in a table that `write_suspects` has made: of all kinds that are read.

    Raises:
        NotFound: there is no such table.
        BadData: it lacks a column.
        BadInput: a suspect is dropped and corrected, or there are no decisions at all.
    """
    opened = open_table(name, CsvOptions())
    if opened is None:
        raise NotFound(f"no table of suspects at {shown(name)}")
    rows, _ = opened
    needed = (SUSPECT_ID, "title", "reason", DROP, CORRECTION)
    if missing := [column for column in needed if column not in rows.columns]:
        raise BadData(
            f"{name} has no column {missing[0]!r}: give a table that `cliptune data suspects` has "
            f"written, with its columns {', '.join(COLUMNS)}"
        )
    decisions = []
    for row in rows.read():
        cells = {column: text_of(row.cells.get(column)) for column in needed}
        drop = (cells[DROP] or "").casefold() not in _KEEPS
        if drop and cells[CORRECTION]:
            raise BadInput(f"{name}, {row.place}: it is to be dropped and corrected: choose one")
        if drop or cells[CORRECTION]:
            decisions.append(
                Decision(
                    row.place,
                    cells[SUSPECT_ID] or "",
                    cells["title"],
                    cells["reason"] or "",
                    drop,
                    cells[CORRECTION],
                )
            )
    if not decisions:
        raise BadInput(
            f"{name} decides nothing: write x into {DROP!r}, or the right title (or label) into "
            f"{CORRECTION!r}, of the rows that are wrong"
        )
    return decisions


def apply_decisions(given: PairTable, decisions: list[Decision], out: Path) -> Corrected:
    """Write the table of `given` with rows left out, and titles and labels corrected.

    Args:
        given: the table that the suspects are of.
        decisions: see `read_decisions`.
        out: the file; see `check_target`.

    Raises:
        BadInput: a decision is on a row that isn't there, or whose title is another one now; two
            contradict each other; or what is corrected isn't one column's cell.
        BadData: as `copy_table`.
    """
    by_id = {str(doc.id): place for place, doc in enumerate(given.docs)}
    dropped: set[int] = set()
    cells: dict[int, dict[str, object]] = {}
    for one in decisions:
        place = by_id.get(one.id)
        if place is None:
            raise BadInput(f"{one.place}: {given.table.rows.where} has no row with id {one.id!r}")
        doc, row = given.docs[place], given.rows[place]
        if one.title != text_of(doc.text):
            raise BadInput(
                f"{one.place}: the title of {one.id!r} was {one.title!r} and is {doc.text!r} now: "
                "look for suspects again"
            )
        if one.drop:
            dropped.add(row)
            continue
        column = _column(given, doc, one)
        if cells.setdefault(row, {}).setdefault(column, one.correction) != one.correction:
            raise BadInput(f"{one.place}: {one.id!r} is corrected twice, to different texts")
    if both := dropped & cells.keys():
        doc = given.docs[given.rows.index(min(both))]
        raise BadInput(f"{doc.id!r} is to be dropped in one row and corrected in another")
    written = copy_table(given.table.rows, out, cells, dropped=dropped)
    titles = sum(_title_column(given) in row for row in cells.values())
    return Corrected(written, len(dropped), titles, len(cells) - titles)


def _column(given: PairTable, doc: ClipDoc, decision: Decision) -> str:
    """The column that a correction is of.

    Raises:
        BadInput: it is of none, or of several.
    """
    roles = given.table.roles
    column = roles.label if decision.reason == BY_LABEL else _title_column(given)
    if len(roles.texts) == 1 and decision.reason != BY_LABEL and doc.texts:
        raise BadInput(
            f"{decision.place}: {doc.id!r} has several titles in one cell: correct the table itself"
        )
    if column is None:
        made = roles.texts[0].template if decision.reason != BY_LABEL else "another row's"
        raise BadInput(
            f"{decision.place}: no column holds what is to be corrected, it is made of {made!r}: "
            "correct the table itself, or drop the row"
        )
    return column


def _title_column(given: PairTable) -> str | None:
    return given.table.roles.texts[0].column
