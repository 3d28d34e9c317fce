"""The folder of a `LanceIndex`: which table it has now, who may write, what is tried again.

FOLDER/
  cliptune-index.json         the stamp: which table is the index
  documents-0123456789ab.lance
  unfinished.json             tables that are no index's: begun without a stamp, or being cleared

A table is only ever removed if `unfinished.json` names it and the stamp doesn't. It is written
before a table is begun and before a stamp is taken away, so what a killed process leaves is known
for what it is. A table that neither file names is somebody's documents: the folder is refused.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt

from cliptune.errors import BadInput, CliptuneError, DamagedIndex, Unavailable
from cliptune.files import make_folder, write_text
from cliptune.index.checks import check_integers
from cliptune.index.durable import file_lock, flush_written, is_locked, sync_path
from cliptune.index.lance.rows import TableNote, upgrade
from cliptune.index.metadata import (
    REPAIR,
    STAMP_NAME,
    Stamp,
    Storage,
    TunedSearch,
    check_storage,
)
from cliptune.index.retries import PAUSES, wait_until

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.db import DBConnection
    from lancedb.table import Table

Result = TypeVar("Result")
_ATTEMPTS = 11
"""Of a write that conflicts with others: over 5 seconds."""
WRITE_LOCK, _OPTIMIZE_LOCK = ".write.lock", ".optimize.lock"
_UNFINISHED = "unfinished.json"
_SETTLING = 0.2
"""Seconds that another process may be between two of its steps."""
_Failure = (RuntimeError, ValueError, OSError)
"""What LanceDB raises."""


@dataclass(frozen=True)
class LanceOptions:
    """How a `LanceIndex` stores and searches."""

    store_images: bool = True
    """Keep the documents' picture bytes, for `get(include_image=True)`."""
    storage: Storage | None = None
    """How embeddings are kept: 'float32' as they are; 'float16' in half the room, at unit length,
    each score within 0.0005 of the exact one. Chosen when the first documents come; another choice
    for an index that has documents is refused. None: what the index has, 'float32' for a new one.
    The ANN index has 8-bit codes either way, of which the best are scored again by what is kept."""
    ann_threshold: int = 20_000
    """From so many documents on, `optimize` builds an ANN index; below, every search is exact."""
    exact_memory: int = 2**28
    """Bytes of embeddings, as float32, up to which exact searches keep them in memory: those of
    131,072 documents at 512 floats. They are read by the second search of a state of the index.
    Larger ones are read from the files by each exact search. 0: always."""
    max_segments: int = 6
    """`optimize` adds new documents to the ANN index as a part of its own, and beyond so many parts
    builds one anew over all: each adds to a search's time."""
    max_fragments: int = 64
    """With more files of rows than that, `optimize` is due."""
    keep_versions: timedelta = timedelta(minutes=10)
    """`optimize` removes the files of table versions older than this."""
    fsync: bool = True
    """Flush each write to disk before it returns, so that it survives a power cut. Without, it
    survives the process's death only, and a transaction takes 15 ms instead of 30 to 100."""
    lock_timeout: float = 60.0
    """Seconds that a write waits for another one before it raises `Unavailable`."""

    def __post_init__(self) -> None:
        """Refuse values that can't work."""
        check_integers(
            self, {"ann_threshold": (1, None), "max_segments": (1, None), "exact_memory": (0, None)}
        )
        if self.storage is not None:
            check_storage(self.storage)
        if not self.lock_timeout >= 0:
            raise BadInput(f"lock_timeout: expected seconds, got {self.lock_timeout!r}")


@dataclass(frozen=True)
class Opened:
    """The folder's table, and what its stamp says of it."""

    stamp: Stamp
    table: Table


class LanceFolder:
    """A folder whose stamp names its one table; many processes may have it open."""

    def __init__(self, path: Path, options: LanceOptions) -> None:
        """Open or make the folder.

        Raises:
            BadInput: it is a file, its stamp is of a newer format, or says another storage.
            DamagedIndex: its stamp is unusable, or is gone while its tables are there.
            Unavailable: it can't be made.
        """
        self.path, self.options = path, options
        try:
            make_folder(self.path, private=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise BadInput(f"{self.path}: an index is a folder, this is a file") from error
        except OSError as error:
            raise Unavailable(f"{self.path}: can't be made ({error.strerror})") from error
        if self._read_stamp() is None:
            self._check_no_orphans()
        # Keeps index statistics small, and a warning about them out of the user's log.
        os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")
        from cliptune.index.lance.library import lancedb  # starts threads

        self._process = os.getpid()
        self._guard = threading.Lock()
        self._opened: Opened | None = None
        # Without the interval a handle would not see what other processes have written.
        self._connection: DBConnection | None = lancedb.connect(
            str(self.path), read_consistency_interval=timedelta(0)
        )

    def close(self) -> None:
        """Let go of it."""
        self._opened = None
        self._connection = None

    def check_open(self) -> None:
        """Raise `BadInput` if it was closed, or opened before this process was forked."""
        self._connected()

    def _connected(self) -> DBConnection:
        if self._connection is None:
            raise BadInput(f"{self.path}: the index is closed")
        if os.getpid() != self._process:
            raise BadInput(
                f"{self.path}: the index was opened before this process was forked; "
                "open it in the process that uses it"
            )
        return self._connection

    def writing(self) -> AbstractContextManager[None]:
        """A block in which no other process or thread writes.

        Raises:
            LockBusy: another one has written for longer than `LanceOptions.lock_timeout`.
        """
        return file_lock(self.path / WRITE_LOCK, self.options.lock_timeout)

    def optimizing(self) -> AbstractContextManager[None]:
        """A block in which no other one optimizes; `LockBusy` if one does."""
        return file_lock(self.path / _OPTIMIZE_LOCK, 0)

    def is_being_optimized(self) -> bool:
        """Whether some process is in such a block."""
        self.check_open()
        return is_locked(self.path / _OPTIMIZE_LOCK)

    def create_table(self, stamp: Stamp, rows: pa.Table) -> None:
        """Make the table with its first rows; to be called while `writing`.

        Nobody sees it before the stamp names it.
        """
        began, name = time.time_ns(), stamp.table
        noted = TableNote(stamp.model_digest, stamp.storage).on(rows)
        self._note_unfinished([name])
        make_folder(self.path / f"{name}.lance", private=True)
        table = self.retry("writing", lambda: self._connected().create_table(name, noted))
        self.retry("writing", lambda: upgrade(table))
        self.flush(name, began)
        stamp.write(self.path)
        self.remove_unfinished(name)

    def note_tuned(self, table: str, tuned: TunedSearch) -> None:
        """Have the stamp say how its table is searched; to be called while `writing`.

        Raises:
            Unavailable: it is of another table by now.
        """
        stamp = self._read_stamp()
        if stamp is None or stamp.table != table:
            raise Unavailable(f"{self.path}: the index was cleared while it was tuned")
        replace(stamp, tuned=tuned).write(self.path)

    def drop_table(self, name: str) -> None:
        """Take the stamp away, then the table that it names; to be called while `writing`."""
        self._note_unfinished([name])
        Stamp.remove(self.path)
        self.remove_unfinished(None)

    def remove_unfinished(self, kept: str | None) -> None:
        """Remove the tables that a process has left which was killed while it made or cleared one.

        To be called while `writing`; `kept` is the table that the stamp names.
        """
        for name in self._unfinished() - {kept}:
            shutil.rmtree(self.path / f"{name}.lance", ignore_errors=True)
        (self.path / _UNFINISHED).unlink(missing_ok=True)

    def _note_unfinished(self, names: list[str]) -> None:
        write_text(self.path / _UNFINISHED, json.dumps(names) + "\n", private=True)
        sync_path(self.path)

    def _unfinished(self) -> set[str]:
        """The tables that are nobody's; of a file that can't be read, none."""
        try:
            noted = json.loads((self.path / _UNFINISHED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return set()
        names = noted if isinstance(noted, list) else []
        return {name for name in names if isinstance(name, str) and is_table_name(name)}

    def _check_no_orphans(self) -> None:
        """Raise `DamagedIndex` if there is a table with documents that no file names."""
        orphans: set[str] = set()

        def is_sound() -> bool:
            nonlocal orphans
            # In this order: a table is noted before it is begun, and gone before that is forgotten.
            orphans = set(table_names(self.path)) - self._unfinished()
            return not orphans or (self.path / STAMP_NAME).exists()

        if wait_until(is_sound, _SETTLING, every=0.1):
            return
        raise DamagedIndex(
            f"{self.path}: {STAMP_NAME} is gone, and {', '.join(sorted(orphans))} with documents "
            "is there. Nothing was changed: put the file back, or "
            f"{REPAIR.format(folder=self.path)}"
        )

    def snapshot(self, opened: Opened) -> Table:
        """The table as it is now, whatever is written afterwards."""
        table: Table = self._connected().open_table(opened.stamp.table)
        table.checkout(table.version)
        return table

    def open(self) -> Opened | None:
        """The table that the stamp names now; None if there is none."""
        self.check_open()
        with self._guard:
            stamp = self._read_stamp()
            if stamp is None:
                self._opened = None
                self._check_no_orphans()
                return None
            if self._opened is None or self._opened.stamp != stamp:
                self._opened = None
                try:
                    table, began = self._connected().open_table(stamp.table), time.time_ns()
                    if upgrade(table):
                        self.flush(stamp.table, began)
                except _Failure as error:
                    raise Unavailable(
                        f"{self.path}: the table {stamp.table} can't be opened "
                        f"({_first_line(error)})"
                    ) from error
                self._check_note(stamp, table)
                self._opened = Opened(stamp, table)
            return self._opened

    def _check_note(self, stamp: Stamp, table: Table) -> None:
        note = TableNote.of(table)
        if note and (note.model_digest, note.storage) != (stamp.model_digest, stamp.storage):
            raise DamagedIndex(
                f"{self.path}: {STAMP_NAME} says that {stamp.table} holds embeddings of model "
                f"{stamp.model_digest:.12} as {stamp.storage}; the table itself says of model "
                f"{note.model_digest:.12} as {note.storage}. {REPAIR.format(folder=self.path)}"
            )

    def _read_stamp(self) -> Stamp | None:
        stamp, asked = Stamp.read(self.path), self.options.storage
        if stamp and asked and stamp.storage != asked:
            raise BadInput(
                f"{self.path}: the index keeps embeddings as {stamp.storage}, not as {asked}, "
                "which is chosen with the first documents. Copy it into a new index that is opened "
                f"with storage={asked!r} (cliptune index migrate --storage {asked})"
            )
        return stamp

    def read(self, action: str, run: Callable[[Opened | None], Result]) -> Result:
        """`run` on the current table, once more if it was cleared away in the meantime."""
        for attempt in (1, 2):
            opened = None
            try:
                opened = self.open()
                return run(opened)
            except CliptuneError:
                raise
            except _Failure as error:
                if attempt == 2 or self.open() is opened:
                    raise self._failed(action, error) from error
        raise AssertionError

    def retry(
        self, action: str, run: Callable[[], Result], *, alone_at_last: bool = False
    ) -> Result:
        """`run`, again after a conflict with a concurrent transaction such as a compaction.

        With `alone_at_last` the last attempt keeps writes waiting: else they could win every time.
        """

        def attempt() -> Result:
            is_last = retrying.statistics["attempt_number"] == _ATTEMPTS
            with self.writing() if alone_at_last and is_last else nullcontext():
                return run()

        retrying = Retrying(
            retry=retry_if_exception(_is_conflict),
            wait=PAUSES,
            stop=stop_after_attempt(_ATTEMPTS),
            reraise=True,
        )
        try:
            return retrying(attempt)
        except CliptuneError:
            raise
        except _Failure as error:
            raise self._failed(action, error) from error

    def flush(self, table: str, began: int) -> None:
        """Bring the table's files written since `began` (ns) to disk; Lance leaves that open."""
        if self.options.fsync:
            try:
                flush_written(self.path / f"{table}.lance", began)
                sync_path(self.path)
            except OSError as error:
                raise self._failed("bringing it to disk", error) from error

    def _failed(self, action: str, error: Exception) -> Unavailable:
        if "no space left" in str(error).lower() or "quota exceeded" in str(error).lower():
            return Unavailable(f"{self.path}: the disk is full: {action} failed")
        return Unavailable(f"{self.path}: {action} failed ({_first_line(error)})")


def _is_conflict(error: BaseException) -> bool:
    return (
        isinstance(error, _Failure)
        and not isinstance(error, CliptuneError)
        and "conflict" in str(error).lower()
    )


def new_table_name() -> str:
    """A name that no table has."""
    return f"documents-{uuid.uuid4().hex[:12]}"


def is_table_name(name: str) -> bool:
    """Whether `name` is one that `new_table_name` could have given."""
    return re.fullmatch(r"documents-[0-9a-f]{12}", name) is not None


def table_names(folder: Path) -> list[str]:
    """The tables in a folder that hold anything: one without a version was never written."""
    tables = folder.glob("documents-*.lance")
    return sorted(path.name.removesuffix(".lance") for path in tables if _has_version(path))


def _has_version(table: Path) -> bool:
    try:
        return any(table.glob("_versions/*.manifest"))
    except FileNotFoundError:  # somebody is removing it
        return False


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:300]
