"""What searches must know of a table, counted once for each version of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cliptune.index.lance.ann import ann_index

if TYPE_CHECKING:
    from lancedb.table import Table

_FILTERS = 256
"""Filters of which it is remembered how much they leave."""


class TableState:
    """One version of a table."""

    def __init__(self, table: Table) -> None:
        """Count its rows, and look for its ANN index."""
        self.table = table
        self.key = (table.name, table.version)
        self.rows = int(table.count_rows())
        self.has_ann_index = ann_index(table) is not None
        self._left: dict[str, int] = {}

    def left_by(self, where: str | None) -> int:
        """How many rows the SQL condition `where` leaves."""
        if where is None:
            return self.rows
        if where not in self._left:
            if len(self._left) >= _FILTERS:
                self._left.clear()
            self._left[where] = int(self.table.count_rows(where))
        return self._left[where]


class TableStates:
    """The state of the table that is searched now."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._kept: TableState | None = None

    def of(self, table: Table) -> TableState:
        """The table's, counted anew if it was written to since."""
        kept = self._kept
        if kept is None or kept.key != (table.name, table.version):
            self._kept = kept = TableState(table)
        return kept
