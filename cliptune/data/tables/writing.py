"""Tables that are written: copies of others with cells changed, columns added or rows left out.

A copy has all columns of its table. Where both are of parquet or Arrow's kind, types stay as they
are; between kinds a list is written as JSON where cells are texts. A file appears whole or not at
all.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cliptune.data.tables.formats.arrow import ArrowRows
from cliptune.data.tables.rows import Rows, SeveralRows
from cliptune.errors import AlreadyExists, BadInput
from cliptune.extras import need
from cliptune.files import new_file

if TYPE_CHECKING:
    import pyarrow as pa

WRITTEN = (".csv", ".tsv", ".jsonl", ".parquet")
"""What tables are written as: by how their name ends."""
Cells = Mapping[int, Mapping[str, object]]
"""By a row's number, from 0: its cells that change, or that are new, by column."""
_BATCH = 1024


def check_target(out: Path, rows: Rows | None = None, *, replace: bool = False) -> None:
    """Refuse a place where no table can be written: before the work.

    Args:
        out: the file.
        rows: what will be copied.
        replace: whether a file that is there gives way.

    Raises:
        BadInput: its name says no kind of table that is written, or one that can't hold the
            pictures that are in `rows`.
        AlreadyExists: it is there.
    """
    kind = out.suffix.lower()
    if kind not in WRITTEN:
        raise BadInput(f"{out} ends in {kind!r}: a table is written as {', '.join(WRITTEN)}")
    if kind == ".parquet":
        need("parquet", "a parquet table")
    if out.exists() and not replace:
        raise AlreadyExists(f"{out} is there already: --replace writes it anew")
    if rows is None:
        return
    if rows.pictures and not (kind == ".parquet" and arrow_files(rows)):
        raise BadInput(
            f"{rows.where} holds its pictures itself"
            + (f", and {kind} can't: give a name that ends in .parquet" if arrow_files(rows) else
               ": of such tables those of parquet and Arrow are copied")
        )  # fmt: skip


def copy_table(
    rows: Rows,
    out: Path,
    cells: Cells,
    added: Sequence[str] = (),
    dropped: Collection[int] = (),
) -> int:
    """Write `rows` to `out`, changed; returns how many rows were written.

    Args:
        rows: the table; `check_target` has let it pass.
        out: the file.
        cells: what changes. A list is a list, of texts.
        added: the columns among these that the table doesn't have, in their order.
        dropped: the numbers of rows that are left out.

    Raises:
        BadData: the table can't be read.
        BadInput: a column of types can't have a cell's value.
    """
    files = arrow_files(rows)
    if files and out.suffix.lower() == ".parquet":
        return _copy_arrow(files, out, cells, added, dropped)
    numbered = ((number, row) for number, row in enumerate(rows.read()) if number not in dropped)
    columns = [*rows.columns, *added]
    changed = ({**row.cells, **cells.get(number, {})} for number, row in numbered)
    return write_rows(out, columns, changed, delimiter=";" if rows.has_commas else ",")


def write_rows(
    out: Path,
    columns: Sequence[str],
    rows: Iterable[Mapping[str, object]],
    *,
    delimiter: str = ",",
) -> int:
    """Write a table of `rows`, cells by column; returns how many there were.

    Raises:
        BadInput: it is parquet, and a column has cells of several types.
    """
    kind, count = out.suffix.lower(), 0
    if kind == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        given = [{name: row.get(name) for name in columns} for row in rows]
        try:
            table = pa.Table.from_pylist(given) if given else pa.table({n: [] for n in columns})
        except pa.ArrowException as error:
            raise BadInput(f"{out}: a column has cells of several types ({error})") from error
        with new_file(out) as beside:
            pq.write_table(table, beside)
        return len(given)
    with new_file(out) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        if kind == ".jsonl":
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                count += 1
            return count
        separator = "\t" if kind == ".tsv" else delimiter
        writer = csv.writer(file, delimiter=separator, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_as_text(row.get(name)) for name in columns])
            count += 1
    return count


def _as_text(value: object) -> str:
    """A cell of a text table."""
    if value is None:
        return ""
    if isinstance(value, list | tuple | Mapping):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def arrow_files(rows: Rows) -> list[ArrowRows]:
    """The files of a table with types, all of one schema; none: it is another.

    Raises:
        BadInput: their schemas differ.
    """
    parts = [one for _, one in rows.files] if isinstance(rows, SeveralRows) else [rows]
    files = [one for one in parts if isinstance(one, ArrowRows)]
    if len(files) < len(parts):
        return []
    if any(not one.schema.equals(files[0].schema) for one in files):
        raise BadInput(
            f"{rows.where}: its files have different columns or types: take each of them by itself"
        )
    return files


def _copy_arrow(
    files: Sequence[ArrowRows],
    out: Path,
    cells: Cells,
    added: Sequence[str],
    dropped: Collection[int],
) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    changed = dict.fromkeys(name for row in cells.values() for name in row)
    schema = files[0].schema
    for name in added:
        is_list = any(isinstance(row.get(name), list) for row in cells.values())
        schema = schema.append(pa.field(name, pa.list_(pa.string()) if is_list else pa.string()))
    number = written = 0
    with new_file(out) as beside, pq.ParquetWriter(beside, schema) as writer:
        for file in files:
            for batch in file.batches(file.schema.names, _BATCH):
                numbers = range(number, number + batch.num_rows)
                number += batch.num_rows
                columns = [
                    _column(field, batch, numbers, cells) if field.name in changed
                    else batch.column(field.name) if field.name not in added
                    else pa.nulls(batch.num_rows, field.type)
                    for field in schema
                ]  # fmt: skip
                whole = pa.RecordBatch.from_arrays(columns, schema=schema)
                whole = whole.filter(pa.array([n not in dropped for n in numbers]))
                written += whole.num_rows
                writer.write_batch(whole)
    return written


def _column(
    field: pa.Field, batch: pa.RecordBatch, numbers: Sequence[int], cells: Cells
) -> pa.Array:
    """A column of a batch whose rows have `numbers`, with the cells that change."""
    import pyarrow as pa

    is_there = field.name in batch.schema.names
    values = batch.column(field.name).to_pylist() if is_there else [None] * batch.num_rows
    for place, number in enumerate(numbers):
        row = cells.get(number, {})
        if field.name in row:
            values[place] = row[field.name]
    try:
        return pa.array(values, field.type)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise BadInput(f"column {field.name!r} is of {field.type}: {error}") from error
