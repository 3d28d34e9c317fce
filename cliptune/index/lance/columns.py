"""The tags of a table's documents as columns in memory, for counting.

A row of a Lance table never changes: what is written is new rows, and a row's address is never
given to another one. So what was read of a row stays true as long as the table lasts, and after a
write only the new rows are read.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cliptune.index.facets.column import Column
from cliptune.index.lance.rows import row_ids
from cliptune.index.tags import term_prefix

if TYPE_CHECKING:
    from lancedb.table import Table

MAX_BYTES = 512 << 20
"""Of columns that are kept; the one that was unused for longest goes first."""
_FEW = 2_000
"""New rows that are read by their addresses; more, if they are less than a tenth of all."""
_ATTEMPTS = 3


@dataclass(frozen=True)
class _Kept:
    """What is known of a table at one of its versions."""

    table: str
    version: int
    rows: NDArray[np.uint64]
    """[N] The rows' addresses, ascending; some of them may be deleted by now."""
    alive: NDArray[np.bool_]
    """[N]"""
    columns: dict[str, Column] = field(default_factory=dict)
    """By path, the one used last at the end."""

    def places(self, rows: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The place of each of these addresses in `rows`, and whether it is there."""
        if not len(self.rows):
            return np.zeros(len(rows), np.int64), np.zeros(len(rows), np.bool_)
        places = np.searchsorted(self.rows, rows).clip(max=len(self.rows) - 1)
        return places, self.rows[places] == rows


class TagColumnCache:
    """The tags of one folder's current table. May be used by many threads."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._guard = threading.Lock()
        self._kept: _Kept | None = None

    def columns(
        self, name: str, table: Table, paths: Sequence[str], condition: str | None
    ) -> dict[str, Column]:
        """The columns of `paths` for the documents that `condition` leaves.

        Args:
            name: of the table, which is another one after a `clear`.
            table: which it is.
            paths: the tags' paths.
            condition: in SQL; None: all documents.
        """
        for _ in range(_ATTEMPTS):
            kept = self._current(name, table, paths)
            chosen = kept.alive
            if condition is not None:
                places, known = kept.places(row_ids(table, condition))
                if not known.all():
                    continue  # written in the meantime
                chosen = np.zeros(len(kept.rows), np.bool_)
                chosen[places] = True
            break
        else:
            chosen = np.zeros(len(kept.rows), np.bool_)
            chosen[places[known]] = True
        if chosen.all():
            return {path: kept.columns[path] for path in paths}
        return {path: kept.columns[path].among(chosen) for path in paths}

    def _current(self, name: str, table: Table, paths: Sequence[str]) -> _Kept:
        """What is known of the table as it is now, with at least these columns."""
        with self._guard:
            kept, version = self._kept, table.version
            if kept is None or kept.table != name:
                kept = _fresh(name, table)
            elif kept.version != version:
                kept = _followed(kept, table, version)
            columns = dict(kept.columns)
            if missing := [path for path in paths if path not in columns]:
                columns |= _read(kept, _scanned(table), missing)
            used = {path: columns.pop(path) for path in paths}
            spare = MAX_BYTES - sum(map(_bytes, used.values()))
            for path in reversed(columns):
                spare -= _bytes(columns[path])
                if spare > 0:
                    used = {path: columns[path], **used}
            self._kept = replace(kept, columns=used)
            return self._kept


def _fresh(name: str, table: Table) -> _Kept:
    version = table.version  # before the rows: what is written meanwhile is looked for again
    rows = row_ids(table, None)
    return _Kept(name, version, rows, np.ones(len(rows), np.bool_))


def _followed(kept: _Kept, table: Table, version: int) -> _Kept:
    """The same after writes."""
    alive_now = row_ids(table, None)
    places, known = kept.places(alive_now)
    alive = np.zeros(len(kept.rows), np.bool_)
    alive[places[known]] = True
    new = alive_now[~known]
    follows = not len(new) or not len(kept.rows) or new[0] > kept.rows[-1]
    if len(new) > max(_FEW, len(alive_now) // 10) or len(alive_now) < len(alive) // 2:
        follows = False
    if not follows:
        return _Kept(kept.table, version, alive_now, np.ones(len(alive_now), np.bool_))
    grown = _Kept(
        kept.table,
        version,
        np.concatenate([kept.rows, new]),
        np.concatenate([alive, np.ones(len(new), np.bool_)]),
    )
    if not len(new):
        return replace(grown, columns=kept.columns)
    added = [table.take_row_ids(new.tolist()).select(["_rowid", "terms"]).to_arrow()]
    more = _read(grown, [batch for one in added for batch in one.to_batches()], list(kept.columns))
    columns = {path: _joined(kept.columns[path], more[path]) for path in kept.columns}
    return replace(grown, columns=columns)


def _scanned(table: Table) -> pa.RecordBatchReader:
    return table.search().select(["_rowid", "terms"]).to_batches()


def _read(
    kept: _Kept, batches: Sequence[pa.RecordBatch] | pa.RecordBatchReader, paths: Sequence[str]
) -> dict[str, Column]:
    """The columns of these paths, from rows of which some may be unknown to `kept`."""
    chunks_of: dict[str, list[tuple[pa.Array, NDArray[np.int64]]]] = {path: [] for path in paths}
    for batch in batches:
        lists = batch["terms"]
        terms, parents = lists.flatten(), pc.list_parent_indices(lists).to_numpy()
        places, known = kept.places(batch["_rowid"].to_numpy())
        for path, chunks in chunks_of.items():
            is_value = pc.starts_with(terms, term_prefix(path))
            rows = parents[is_value.to_numpy(zero_copy_only=False)]
            there = known[rows]
            values = terms.filter(is_value).filter(pa.array(there))
            chunks.append((values, places[rows[there]]))
    return {path: _column(len(kept.rows), chunks) for path, chunks in chunks_of.items()}


def _column(documents: int, chunks: list[tuple[pa.Array, NDArray[np.int64]]]) -> Column:
    values = pa.chunked_array([one for one, _ in chunks], pa.string()).combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], pa.string())
    encoded = values.dictionary_encode()
    rows = np.concatenate([rows for _, rows in chunks]) if chunks else np.zeros(0, np.int64)
    return Column(documents, encoded.dictionary, rows, encoded.indices.to_numpy().astype(np.int64))


def _joined(column: Column, more: Column) -> Column:
    """The column after documents were added."""
    place = column.place
    new = [one for one in more.terms.to_pylist() if one not in place]
    places = place | {one: len(place) + number for number, one in enumerate(new)}
    codes = np.array([places[one] for one in more.terms.to_pylist()], np.int64)[more.codes]
    return Column(
        more.documents,
        pa.concat_arrays([column.terms, pa.array(new, pa.string())]),
        np.concatenate([column.rows, more.rows]),
        np.concatenate([column.codes, codes]),
    )


def _bytes(column: Column) -> int:
    return int(column.rows.nbytes + column.codes.nbytes + column.terms.nbytes)
