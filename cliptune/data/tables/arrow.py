"""Parquet and Arrow: tables with types, read a batch at a time by pyarrow.

Pictures may stand in them as Hugging Face's data sets keep them, as structs of `bytes` and `path`;
as bytes; or as paths and URIs, as in any table. A column of lists has several of either.
"""

from __future__ import annotations

import datetime
import decimal
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from cliptune.data.tables.rows import MAX_TEXT, Row, Unusable
from cliptune.errors import BadData
from cliptune.extras import need
from cliptune.settings import current

if TYPE_CHECKING:
    import pyarrow as pa

Opened = Callable[[], BinaryIO]
"""Opens a file anew, seekable."""
Batches = Callable[[Sequence[str], int], "Iterator[pa.RecordBatch]"]
"""Columns, and rows at a time, to batches."""
_ROWS = 4096
_ROWS_WITH_PICTURES = 64
_BUFFER = 2**20


class ArrowRows:
    """The rows of what pyarrow reads in batches."""

    has_commas = False
    encoding = None

    def __init__(self, where: str, root: str, schema: pa.Schema, batches: Batches) -> None:
        """Take the table's columns as `schema` says.

        Raises:
            BadData: it has a column twice.
        """
        self.where, self.root = where, root
        self.notes: list[str] = []
        self.schema, self.batches = schema, batches
        self.columns: Sequence[str] = list(schema.names)
        if len(set(self.columns)) < len(self.columns):
            twice = next(name for name in self.columns if self.columns.count(name) > 1)
            raise BadData(f"{where} has a column {twice!r} twice")
        self.pictures = {one.name for one in schema if _is_picture(one.type)}
        self.lists = {one.name for one in schema if _is_picture(one.type) and _is_list(one.type)}
        self._names = _class_names(schema)

    def read(self, without: Collection[str] = ()) -> Iterator[Row]:
        """The rows.

        Raises:
            BadData: the file is damaged, or a cell too large.
        """
        columns = [name for name in self.columns if name not in without]
        size = _ROWS_WITH_PICTURES if self.pictures & set(columns) else _ROWS
        number = 0
        with readable(self.where):
            for batch in self.batches(columns, size):
                # Offsets of a damaged file's that lead nowhere would end the process.
                batch.validate(full=True)
                cells = [self._cells(name, batch.column(name), number) for name in columns]
                for values in zip(*cells, strict=True) if columns else ((),) * batch.num_rows:
                    number += 1
                    yield Row(number, dict(zip(columns, values, strict=True)), unit="row")

    def _cells(self, name: str, column: pa.Array, first: int) -> list[object]:
        """The Python values of a column in a batch, the one of the row `first` + 1 first."""
        if name in self.pictures:
            return [_picture(value) for value in column]
        for row, size in enumerate(_sizes(column)):
            if size is not None and size > MAX_TEXT:
                raise BadData(
                    f"{self.where}, row {first + row + 1}: column {name!r} has a cell of {size} "
                    f"bytes, the limit is {MAX_TEXT}"
                )
        values = [_plain(value) for value in column.to_pylist()]
        names = self._names.get(name)
        return [_named(value, names) for value in values] if names else values


def open_parquet(where: str, root: str, opened: Opened) -> ArrowRows:
    """The rows of a parquet file.

    Raises:
        BadData: it is damaged.
    """
    need("parquet", "a parquet table")
    import pyarrow.parquet as pq

    @contextmanager
    def parquet() -> Iterator[Any]:
        # It closes no file that it was given; of a row group it reads a part at a time.
        with opened() as file, pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False) as whole:
            yield whole

    def batches(columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        with parquet() as whole:
            yield from whole.iter_batches(size, columns=list(columns), use_threads=False)

    with readable(where), parquet() as whole:
        schema = whole.schema_arrow
    return ArrowRows(where, root, schema, batches)


def open_arrow(where: str, root: str, opened: Opened) -> ArrowRows:
    """The rows of an Arrow file (feather) or stream.

    Raises:
        BadData: it is damaged.
    """
    need("parquet", "an Arrow table")
    import pyarrow as pa

    def each(file: BinaryIO) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        if not is_file:
            stream = pa.ipc.open_stream(file)
            return stream.schema, iter(stream)
        whole = pa.ipc.open_file(file)
        return whole.schema, (whole.get_batch(i) for i in range(whole.num_record_batches))

    def batches(columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        with opened() as file:
            for batch in each(file)[1]:
                chosen = batch.select(list(columns))
                yield from (chosen.slice(at, size) for at in range(0, chosen.num_rows, size))

    with readable(where), opened() as file:
        schema = each(file)[0]
    return ArrowRows(where, root, schema, batches)


@contextmanager
def readable(where: str) -> Iterator[None]:
    """Say of a file that pyarrow can't read what it is, in our words.

    Raises:
        BadData: it is damaged, can't be read, or a text in it is no UTF-8.
    """
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadData(f"{where} is damaged or incomplete: {words}") from error


def _is_picture(kind: pa.DataType) -> bool:
    """Whether cells hold pictures: bytes, structs with bytes, or lists of them."""
    import pyarrow.types as t

    if _is_list(kind):
        return _is_picture(kind.value_type)
    if t.is_struct(kind):
        return any(
            kind.field(i).name == "bytes" and _is_bytes(kind.field(i).type)
            for i in range(kind.num_fields)
        )
    return _is_bytes(kind)


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow.types as t

    return bool(t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    import pyarrow.types as t

    return bool(t.is_binary(kind) or t.is_large_binary(kind) or t.is_binary_view(kind))


def _picture(value: pa.Scalar) -> object:
    """Bytes or a path of a picture's cell; a list of such."""
    import pyarrow as pa

    if not value.is_valid:
        return None
    if isinstance(value, pa.StructScalar):
        names = [field.name for field in value.type]
        inside = _picture(value["bytes"])
        if inside is None and "path" in names:
            path = value["path"].as_py()
            return path if isinstance(path, str) else None
        return inside
    if isinstance(value, pa.ListScalar):
        return [_picture(one) for one in value.values]
    buffer = value.as_buffer()
    if buffer.size > (limit := current().max_picture):
        return Unusable(f"a picture of {buffer.size} bytes, the limit is {limit}")
    return bytes(buffer.to_pybytes())


def _sizes(column: pa.Array) -> list[int | None]:
    """The bytes of each text; nothing for columns of other types."""
    import pyarrow.compute as pc
    import pyarrow.types as t

    if t.is_dictionary(column.type):
        column = column.dictionary
    if not (t.is_string(column.type) or t.is_large_string(column.type)):
        return []
    longest = pc.max(pc.binary_length(column)).as_py()
    if longest is None or longest <= MAX_TEXT:
        return []
    sizes: list[int | None] = pc.binary_length(column).to_pylist()
    return sizes


def _plain(value: object) -> object:
    """A cell as JSON could have it: what can be a tag."""
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return None
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    return value


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Of columns that hold numbers of classes, the classes' names, as Hugging Face keeps them."""
    try:
        kept = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: [str(one) for one in feature["names"]]
            for name, feature in kept.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _named(value: object, names: Sequence[str]) -> object:
    is_class = isinstance(value, int) and 0 <= value < len(names)
    return names[value] if is_class else value  # type: ignore[call-overload]
