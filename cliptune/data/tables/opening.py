"""From what names a table to its rows: files of every kind, several of them, folders, URLs."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

from cliptune.data.pictures.download import check_allowed
from cliptune.data.pictures.download import is_url as is_web
from cliptune.data.pictures.images import SUFFIXES
from cliptune.data.store import located, store_failure
from cliptune.data.tables.formats.arrow import open_arrow, open_parquet
from cliptune.data.tables.formats.file_types import TableKind, table_kind
from cliptune.data.tables.formats.huggingface import HUB, is_saved, open_hub, open_saved
from cliptune.data.tables.formats.imagefolder import find_metadata, open_metadata
from cliptune.data.tables.formats.tars import TarRows
from cliptune.data.tables.formats.text import open_text
from cliptune.data.tables.options import CsvOptions
from cliptune.data.tables.rows import Rows, SeveralRows
from cliptune.errors import BadData, BadInput, NotFound
from cliptune.files import make_folder
from cliptune.settings import current

_STREAMED: dict[str, TableKind] = {
    ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow",
    ".tar": "tar", ".tar.gz": "tar", ".tgz": "tar",
}  # fmt: skip
"""What is read from a URL without a copy of it."""
TABLE_SUFFIXES = (
    ".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".xlsx", ".xls", ".ods", *_STREAMED
)  # fmt: skip
_SHARDS = (".parquet", ".arrow", ".feather", ".tar", ".tgz", ".tar.gz", ".jsonl", ".csv", ".tsv")
_SPLITS = re.compile(r"(train|training|test|valid|validation|val|dev|eval)(?![a-z])", re.I)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_FILES = 100_000
_CHUNK = 2**20


def names_table(name: str) -> bool:
    """Whether `name` is a table by how it is written, or by what is there: no data set's name."""
    return (
        name.startswith(HUB)
        or os.path.exists(name)
        or _is_pattern(name)
        or (_is_remote(name) and _suffix(name) in TABLE_SUFFIXES)
    )


def open_table(name: str, options: CsvOptions) -> tuple[Rows, CsvOptions] | None:
    """The rows of the table `name`, and the options to read them by.

    None: `name` is a folder of pictures, or nothing that `names_table`.

    Raises:
        NotFound: a pattern fits no file.
        BadData: it is no table, or damaged.
        Unavailable: a URL's store can't be reached.
    """
    if not names_table(name):
        return None
    if name.startswith(HUB):
        return open_hub(name), options
    if os.path.isdir(name):
        return _folder(Path(name), options)
    if _is_pattern(name):
        return _several(name, _matches(name), options), options
    return (_remote(name, options) if _is_remote(name) else open_file(Path(name), options)), options


def open_file(path: Path, options: CsvOptions) -> Rows:
    """The rows of the file at `path`, of whatever kind.

    Raises:
        BadData: it can't be read or is no table; or as the kind's reader.
    """
    try:
        if path.is_file() and not path.stat().st_size:
            raise BadData(f"{path} is empty")
        kind = table_kind(path)
        if kind == "text":
            return open_text(path, options)
    except OSError as error:
        raise BadData(f"{path} can't be read: {error.strerror or error}") from error
    if kind == "workbook":
        from cliptune.data.tables.formats.workbook import WorkbookRows

        return WorkbookRows(path, options)
    where, root = str(path), str(path.parent)

    def opened() -> BinaryIO:
        return path.open("rb")

    if kind == "tar":
        with opened() as file:
            is_plain = file.read(262)[257:262] == b"ustar"
        return TarRows(where, root, opened, path if is_plain else None)
    return (
        open_parquet(where, root, opened) if kind == "parquet" else open_arrow(where, root, opened)
    )


def _remote(url: str, options: CsvOptions) -> Rows:
    """The rows of what lies at `url`: streamed, or of a copy in the cache."""
    if is_web(url):
        check_allowed()
    system, path = located(url)
    # A web server may not give parts of a file.
    kind = None if is_web(url) else _STREAMED.get(_suffix(url))

    def opened() -> BinaryIO:
        try:
            return cast(BinaryIO, system.open(path, "rb"))
        except Exception as error:
            raise store_failure(url, error, "table") from error

    root = url.rpartition("/")[0]
    if kind == "parquet":
        return open_parquet(url, root, opened)
    if kind == "arrow":
        return open_arrow(url, root, opened)
    if kind == "tar":
        return TarRows(url, root, opened, None)
    folder = hashlib.sha256(url.encode()).hexdigest()[:32]
    copy = current().cache_dir / "tables" / folder / path.rpartition("/")[2]
    make_folder(copy.parent)
    beside = copy.with_name(f".{copy.name}.{os.getpid()}")
    try:
        with opened() as file, beside.open("wb") as target:
            shutil.copyfileobj(file, target, _CHUNK)
        os.replace(beside, copy)
    except OSError as error:
        raise store_failure(url, error, "table") from error
    finally:
        beside.unlink(missing_ok=True)
    rows = open_file(copy, options)
    rows.where, rows.root = url, root
    return rows


def _folder(folder: Path, options: CsvOptions) -> tuple[Rows, CsvOptions] | None:
    """The rows of a folder that is a data set, has metadata, or is of shards; else None."""
    if is_saved(folder):
        return open_saved(folder), options
    if metadata := find_metadata(folder):
        return open_metadata(folder, metadata, options, open_file)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if any(path.suffix.lower() in SUFFIXES for path in files):
        return None
    shards = [path for path in files if _suffix(path.name) in _SHARDS and path.name[0] not in "._"]
    if not shards:
        return None
    kinds = sorted({_suffix(path.name) for path in shards})
    if len(kinds) > 1:
        raise BadData(
            f"the folder {folder} has tables of several kinds, {', '.join(kinds)}: give those of "
            f"one, such as '{folder}/*{kinds[0]}'"
        )
    splits = {m.group(1).lower() for path in shards if (m := _split_of(path.relative_to(folder)))}
    if len(splits) > 1:
        example = next(path for path in shards if _split_of(path.relative_to(folder)))
        pattern = re.sub(r"\d+", "*", example.relative_to(folder).as_posix())
        raise BadData(
            f"the folder {folder} has several splits, {', '.join(sorted(splits))}: give one of "
            f"them, such as '{folder}/{pattern}'"
        )
    return _several(str(folder), [str(path) for path in shards], options), options


def _split_of(path: Path) -> re.Match[str] | None:
    """Which split a shard is of, by how its name, or its folder's, begins."""
    return next((m for part in reversed(path.parts) if (m := _SPLITS.match(part))), None)


def _several(where: str, names: Sequence[str], options: CsvOptions) -> Rows:
    def one(name: str) -> Rows:
        return _remote(name, options) if _is_remote(name) else open_file(Path(name), options)

    if len(names) == 1:
        return one(names[0])
    roots = {name.rpartition("/")[0] for name in names}
    files = [(name.rpartition("/")[2] if len(roots) == 1 else name, one(name)) for name in names]
    return SeveralRows(where, files)


def _matches(pattern: str) -> list[str]:
    """The files that a pattern fits, sorted.

    Raises:
        NotFound: there are none.
    """
    if _RANGE.search(pattern):
        names = _expanded(pattern)
    elif _is_remote(pattern):
        system, path = located(pattern)
        try:
            names = sorted(system.unstrip_protocol(one) for one in system.glob(path))
        except Exception as error:
            raise store_failure(pattern, error, "tables") from error
    else:
        names = sorted(one for one in glob.glob(pattern, recursive=True) if os.path.isfile(one))
    if not names:
        raise NotFound(f"no file fits {pattern[:200]!r}")
    return names


def _expanded(pattern: str) -> list[str]:
    """`shard-{000..099}.tar` as a list, in which every one must be there.

    Raises:
        BadInput: it is of more files than can be meant.
    """
    done = [pattern]
    while any(_RANGE.search(name) for name in done):
        more = []
        for name in done:
            match = _RANGE.search(name)
            if match is None:
                more.append(name)
                continue
            first, last = match.groups()
            if len(more) + int(last) - int(first) > _MOST_FILES:
                raise BadInput(f"{pattern[:200]!r} names more than {_MOST_FILES} files")
            more += [
                f"{name[: match.start()]}{number:0{len(first)}}{name[match.end() :]}"
                for number in range(int(first), int(last) + 1)
            ]
        done = more
    return done


def _is_pattern(name: str) -> bool:
    is_web_address = is_web(name)  # where `?` begins a query
    has_mark = any(mark in name for mark in ("*" if is_web_address else "*?["))
    return (has_mark or bool(_RANGE.search(name))) and not os.path.exists(name)


def _is_remote(name: str) -> bool:
    scheme, mark, _ = name.partition("://")
    return bool(mark) and scheme.isalnum()


def _suffix(name: str) -> str:
    """In lower case; `.tar.gz` whole."""
    name = name.lower().partition("?")[0] if _is_remote(name) else name.lower()
    return ".tar.gz" if name.endswith(".tar.gz") else os.path.splitext(name)[1]
