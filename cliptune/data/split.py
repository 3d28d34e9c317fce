"""Splitting a table into rows to train on and rows to measure with, by what belongs together.

Rows of one title, one label or one picture are a group, and so are those that they lead on to: a
group goes to one side as a whole, or the measurement would ask for what training has shown.

The side is decided by a hash of the group's own title, whatever else is in the table: rows that
are added later move no other group, and another machine splits alike.
"""

from __future__ import annotations

import codecs
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cliptune.data.division import place_of
from cliptune.data.equivalence import Groups, TextKeys
from cliptune.data.pictures.images import picture_digest
from cliptune.data.pictures.slices import is_slice
from cliptune.data.tables.formats.arrow import ArrowRows
from cliptune.data.tables.opening import open_table
from cliptune.data.tables.options import CsvOptions
from cliptune.data.tables.reader import Table
from cliptune.data.tables.writing import arrow_files
from cliptune.documents import ClipDoc
from cliptune.errors import AlreadyExists, BadData, BadImage, BadInput, NotFound
from cliptune.files import new_file, write_bytes

_BATCH = 1024
_MARKS = (
    # UTF-32's little-endian mark begins with UTF-16's.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF8, "utf-8"),
)


@dataclass(frozen=True)
class Part:
    """One side of a split."""

    path: Path
    rows: int
    groups: int


@dataclass(frozen=True)
class Split:
    """What a table was split into."""

    train: Part
    held_out: Part


def split_table(
    path: str | Path,
    options: CsvOptions | Mapping[str, object] | None = None,
    *,
    text_keys: TextKeys,
    held_out: float = 0.2,
    seed: int = 0,
    replace: bool = False,
) -> Split:
    """Write the rows of the table at `path` to two tables beside it, each row to one of them.

    `products.csv` becomes `products-train.csv` and `products-held-out.csv`, with the same header,
    in the same order, encoding and dialect: every line is the table's, byte for byte. Tables of
    parquet and Arrow, and folders and patterns of them, become two parquet files with the same
    types. Relative paths of pictures mean what they meant.

    Args:
        path: of the table, of a folder of such, or a pattern.
        options: how it is read.
        text_keys: when two titles are the same, by CLIP's tokens
            (`cliptune.models.tokenizers.clip_keys`).
        held_out: the part of the groups that is held out, between 0 and 1; the number that comes
            out is near it, as each group is decided by itself.
        seed: another one gives another split.
        replace: overwrite what an earlier split wrote.

    Raises:
        BadInput: `held_out` is not between 0 and 1.
        BadData: the table can't be read (see `read_csv`), or a side would be empty.
        AlreadyExists: one of the two tables is there.
    """
    if not 0 < held_out < 1:
        raise BadInput(f"held_out is {held_out}: give a part between 0 and 1, such as 0.2")
    opened = open_table(str(path), CsvOptions.parse(options))
    if opened is None:
        raise NotFound(f"no table at {str(path)[:200]!r}")
    table = Table(*opened)
    name = re.sub(r"[*?\[\]{}]+", "", str(path)) if not Path(path).exists() else str(path)
    path = Path(name)
    files = arrow_files(table.rows)
    if not files and table.rows.encoding is None:
        raise BadInput(
            f"{name}: CSV, TSV, JSON lines, parquet and Arrow tables are split; of others, give "
            "one table for training and another for measuring"
        )
    suffix = ".parquet" if files else path.suffix
    targets = [path.with_name(f"{path.stem}-{side}{suffix}") for side in ("train", "held-out")]
    for target in targets:
        if target.exists() and not replace:
            raise AlreadyExists(f"{target} is there already: --replace writes it anew")
    rows, docs = zip(*table.every_row(), strict=True)
    groups = _groups(docs, [row.place for row in rows], text_keys)
    held = {group: place_of(f"{seed}:{name}") < held_out for group, name in groups.items()}
    _check_sides(path, list(held.values()), held_out, seed)
    # A row with several pictures is several documents, all of them on one side.
    side_at = {rows[one].place: is_held for group, is_held in held.items() for one in group}
    side_of = [side_at[place] for place in dict.fromkeys(row.place for row in rows)]
    if files:
        _write_parquet(files, targets, side_of)
    else:
        starts = list(dict.fromkeys(row.line for row in rows))
        texts = _texts(path, str(table.rows.encoding), starts, side_of)
        for target, data in zip(targets, texts, strict=True):
            write_bytes(target, data)
    train, held_back = (
        Part(target, side_of.count(side), list(held.values()).count(side))
        for target, side in zip(targets, (False, True), strict=True)
    )
    return Split(train, held_back)


def _write_parquet(
    files: Sequence[ArrowRows], targets: Sequence[Path], side_of: Sequence[bool]
) -> None:
    """Write the rows of each side, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sides, schema = np.array(side_of), files[0].schema
    with (
        new_file(targets[0]) as train_file,
        new_file(targets[1]) as held_file,
        pq.ParquetWriter(train_file, schema) as train,
        pq.ParquetWriter(held_file, schema) as held,
    ):
        first = 0
        for file in files:
            for batch in file.batches(schema.names, _BATCH):
                is_held = sides[first : first + batch.num_rows]
                first += batch.num_rows
                for writer, chosen in ((train, ~is_held), (held, is_held)):
                    writer.write_batch(batch.filter(pa.array(chosen)))


def _groups(
    docs: Sequence[ClipDoc], places: Sequence[str], text_keys: TextKeys
) -> dict[tuple[int, ...], str]:
    """The documents of each group, and what it is called; those of one place are together."""
    times = Counter(places)
    keys = [
        [*of_doc, f"at {place}"] if times[place] > 1 else of_doc
        for of_doc, place in zip(_keys(docs, text_keys), places, strict=True)
    ]
    return {
        tuple(rows): _name([docs[row] for row in rows], [key for row in rows for key in keys[row]])
        for rows in Groups.of_rows(keys)
    }


def _name(docs: Sequence[ClipDoc], keys: Sequence[str]) -> str:
    """What stands for a group, on every machine: rows that join it seldom change it.

    One of its titles; without any, one of its labels, or else the digest of one of its pictures.
    """
    titles = [key for key in keys if key.startswith("title")]
    labels = [key for key in keys if key.startswith("label")]
    return min(
        titles or labels or [_digest(doc) or Path(doc.uri or "").name for doc in docs], key=place_of
    )


def _keys(docs: Sequence[ClipDoc], text_keys: TextKeys) -> Iterator[list[str]]:
    """What each row has in common with others: title, label, picture; never nothing."""
    titles = _title_keys([doc.text or "" for doc in docs], text_keys)
    pictures = _picture_keys(docs)
    for row, (doc, title, picture) in enumerate(zip(docs, titles, pictures, strict=True)):
        label = f"label {doc.label}" if doc.label else None
        if doc.grade == 0 and title is not None:
            picture = None  # which is wrong for the title: the two needn't be together
        common = [key for key in (title, label, picture) if key is not None]
        yield common or [f"row {row}"]


def _title_keys(texts: Sequence[str], text_keys: TextKeys) -> list[str | None]:
    """Titles as CLIP reads them: their tokens, cut to its context."""
    distinct = list(dict.fromkeys(text for text in texts if text.strip()))
    # Written as earlier versions did, as a group's side is decided by it.
    tokens = (np.frombuffer(key, np.int32).tolist() for key in text_keys(distinct))
    keys = {text: f"title {each}" for text, each in zip(distinct, tokens, strict=True)}
    return [keys.get(text) for text in texts]


def _picture_keys(docs: Sequence[ClipDoc]) -> list[str | None]:
    """Pictures by their bytes, read only where another one has as many; else by their address."""
    sizes: list[int | None] = []
    for doc in docs:
        try:
            sizes.append(
                Path(doc.uri).stat().st_size if doc.uri and not is_slice(doc.uri) else None
            )
        except (OSError, ValueError):
            sizes.append(None)  # not a local file, or not there
    times = Counter(sizes)
    keys: list[str | None] = []
    for doc, size in zip(docs, sizes, strict=True):
        digest = doc.image_digest
        if digest is None and size is not None and times[size] > 1:
            digest = _digest(doc)
        keys.append(f"picture {digest or doc.uri}" if digest or doc.uri else None)
    return keys


def _digest(doc: ClipDoc) -> str | None:
    if doc.image_digest is not None:
        return doc.image_digest
    try:
        return picture_digest(doc)
    except BadImage:
        return None


def _check_sides(path: Path, held: list[bool], part: float, seed: int) -> None:
    if len(held) == 1:
        raise BadData(
            f"{path}: all of its rows are of one title, one label or one picture: there is nothing "
            "to hold out"
        )
    if len(set(held)) == 1:
        side = "held out" if held[0] else "left to train on"
        raise BadData(
            f"{path}: with --held-out {part:g} and --seed {seed} all of its {len(held)} groups are "
            f"{side}: give another seed, or another part"
        )


def _texts(
    path: Path, encoding: str, starts: Sequence[int], side_of: Sequence[bool]
) -> tuple[bytes, bytes]:
    """The bytes of the two tables: the lines before the first row, and each row's lines.

    Raises:
        BadData: the table's bytes can't be written again as they are.
    """
    data = path.read_bytes()
    marked = next(((mark, name) for mark, name in _MARKS if data.startswith(mark)), None)
    mark, encoding = marked or (b"", encoding.removesuffix("-sig"))
    text = data[len(mark) :].decode(encoding)
    if text.encode(encoding) != data[len(mark) :]:
        raise BadData(f"{path}: its {encoding} text can't be written again byte for byte")
    lines = io.StringIO(text, newline="").readlines()  # as `csv` counts them
    ends = [*(start - 1 for start in starts[1:]), len(lines)]
    parts = [lines[: starts[0] - 1], lines[: starts[0] - 1]]
    for start, end, is_held in zip(starts, ends, side_of, strict=True):
        parts[is_held].extend(lines[start - 1 : end])
    train, held_out = (mark + "".join(part).encode(encoding) for part in parts)
    return train, held_out
