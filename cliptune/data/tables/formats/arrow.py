"""Parquet and Arrow: tables with types, read a batch at a time by pyarrow.

Pictures may stand in them as Hugging Face's data sets keep them, as structs of `bytes` and `path`;
as bytes; or as paths and URIs, as in any table. A column of lists has several of either. Bytes that
are no pictures but UTF-8 are texts: some databases write all of theirs so.
"""

from __future__ import annotations

import codecs
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
_BATCH_BYTES = 2**26
"""Of a batch of parquet, as far as a file's own sizes tell."""
_BUFFER = 2**20
_LOOKED_AT = 4096
"""Bytes of a cell by which texts are told from pictures."""


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
        pictures = [one for one in schema if _is_picture(one.type)]
        with readable(where):
            self._texts = {one.name for one in pictures if self._holds_texts(one)}
        self.pictures = {one.name for one in pictures} - self._texts
        self.lists = {one.name for one in pictures if _is_list(one.type)}
        self._names = _class_names(schema)

    def _holds_texts(self, field: pa.Field) -> bool:
        """Whether the first cell of a column of bytes that isn't blank is text."""
        if not _is_bytes(field.type):
            return False
        for batch in self.batches([field.name], _ROWS_WITH_PICTURES):
            batch.validate(full=True)
            for value in _plain_bytes(batch.column(0)).drop_null():
                cell = value.as_buffer()
                if cell.size:
                    return _is_text(cell.slice(0, min(cell.size, _LOOKED_AT)).to_pybytes())
        return False

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
        import pyarrow as pa

        if name in self.pictures:
            return [_picture(value) for value in _plain_bytes(column)]
        if name in self._texts:
            column = _plain_bytes(column).cast(pa.large_string())
        for row, size in enumerate(_sizes(column)):
            if size is not None and size > MAX_TEXT:
                raise BadData(
                    f"{self.where}, row {first + row + 1}: column {name!r} has a cell of {size} "
                    f"bytes, the limit is {MAX_TEXT}"
                )
        values = [_plain(value) for value in self._python(name, column)]
        names = self._names.get(name)
        return [_named(value, names) for value in values] if names else values

    def _python(self, name: str, column: pa.Array) -> list[object]:
        """The values of a column; times that Python can't have are blank, and a note says so."""
        import pyarrow as pa
        import pyarrow.types as t

        if t.is_temporal(column.type) and getattr(column.type, "unit", None) == "ns":
            column = column.cast(_in_microseconds(column.type), safe=False)
        try:
            values: list[object] = column.to_pylist()
        except (pa.ArrowException, OverflowError, ValueError, KeyError) as error:
            note = f"column {name!r} has times that no calendar or zone here has: left blank"
            if not t.is_temporal(column.type):
                raise BadData(f"{self.where}: column {name!r} can't be read: {error}") from error
            if note not in self.notes:
                self.notes.append(note)
            values = [_or_none(value) for value in column]
        return values


def _in_microseconds(kind: pa.DataType) -> pa.DataType:
    """A type of times in nanoseconds, which Python's have not."""
    import pyarrow as pa
    import pyarrow.types as t

    if t.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    return pa.time64("us") if t.is_time(kind) else pa.duration("us")


def _or_none(value: pa.Scalar) -> object:
    import pyarrow as pa

    try:
        return value.as_py()
    except (pa.ArrowException, OverflowError, ValueError, KeyError):
        return None


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
            fitting = min(size, max(1, _BATCH_BYTES // _bytes_of_row(whole.metadata, columns)))
            yield from whole.iter_batches(fitting, columns=list(columns), use_threads=False)

    with readable(where), parquet() as whole:
        schema = whole.schema_arrow
    return ArrowRows(where, root, schema, batches)


def _bytes_of_row(metadata: Any, columns: Sequence[str]) -> int:
    """Of the row group with the largest rows, by what the file says."""
    largest = 1
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = (group.column(i) for i in range(group.num_columns))
        size = sum(
            chunk.total_uncompressed_size
            for chunk in chunks
            if chunk.path_in_schema.partition(".")[0] in columns
        )
        largest = max(largest, size // max(1, group.num_rows))
    return largest


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

    if t.is_dictionary(kind):
        return _is_bytes(kind.value_type)
    return bool(
        t.is_binary(kind)
        or t.is_large_binary(kind)
        or t.is_binary_view(kind)
        or t.is_fixed_size_binary(kind)
    )


def _plain_bytes(column: pa.Array) -> pa.Array:
    """A column without a dictionary of its values, and of binary kind where its bytes are fixed."""
    import pyarrow as pa
    import pyarrow.types as t

    if t.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.binary()) if t.is_fixed_size_binary(column.type) else column


def _is_text(data: bytes) -> bool:
    """Whether bytes are UTF-8, perhaps cut at the end, and none that no text has."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return not any(ord(c) < 9 or 13 < ord(c) < 27 for c in text)


def _picture(value: pa.Scalar) -> object:
    """Bytes or a path of a picture's cell; a list of such."""
    import pyarrow as pa

    if isinstance(value, pa.DictionaryScalar):
        value = value.value
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
