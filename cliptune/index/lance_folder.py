"""The folder of a `LanceIndex`: which table it has now, who may write, what is tried again."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cliptune.errors import BadInput, CliptuneError, Unavailable
from cliptune.files import make_folder
from cliptune.index.durable import file_lock, flush_written, is_locked, sync_path
from cliptune.index.lance_options import LanceOptions
from cliptune.index.lance_table import upgrade
from cliptune.index.stamp import STAMP_NAME, Stamp, read_stamp

if TYPE_CHECKING:
    from lancedb.table import Table

Result = TypeVar("Result")
_CONFLICT_RETRIES = 8
_WRITE_LOCK, _OPTIMIZE_LOCK = ".write.lock", ".optimize.lock"


@dataclass(frozen=True)
class Opened:
    """The folder's table, and what its stamp says of it."""

    signature: tuple[int, int, int]
    """Of the stamp's file: another one names another table."""
    stamp: Stamp
    table: Table


class LanceFolder:
    """A folder whose stamp names its one table; many processes may have it open."""

    def __init__(self, path: Path, options: LanceOptions) -> None:
        """Open or make the folder.

        Raises:
            BadInput: it is a file, its stamp is of a newer format, or says another storage.
            Unavailable: it can't be made.
        """
        self.path, self.options = path, options
        try:
            make_folder(self.path, private=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise BadInput(f"{self.path}: an index is a folder, this is a file") from error
        except OSError as error:
            raise Unavailable(f"{self.path}: can't be made ({error.strerror})") from error
        self._read_stamp()
        # Keeps index statistics small, and a warning about them out of the user's log.
        os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")
        import lancedb  # starts threads, so not at import time

        self._process = os.getpid()
        self._guard = threading.Lock()
        self._opened: Opened | None = None
        # Without the interval a handle would not see what other processes have written.
        self._database: Any = lancedb.connect(
            str(self.path), read_consistency_interval=timedelta(0)
        )

    def close(self) -> None:
        """Let go of it."""
        self._opened = None
        self._database = None

    def check_open(self) -> None:
        """Raise `BadInput` if it was closed, or opened before this process was forked."""
        if self._database is None:
            raise BadInput(f"{self.path}: the index is closed")
        if os.getpid() != self._process:
            raise BadInput(
                f"{self.path}: the index was opened before this process was forked; "
                "open it in the process that uses it"
            )

    def writing(self) -> Any:
        """A block in which no other process or thread writes.

        Raises:
            LockBusy: another one has written for longer than `LanceOptions.lock_timeout`.
        """
        return file_lock(self.path / _WRITE_LOCK, self.options.lock_timeout)

    def optimizing(self) -> Any:
        """A block in which no other one optimizes; `LockBusy` if one does."""
        return file_lock(self.path / _OPTIMIZE_LOCK, 0)

    def is_being_optimized(self) -> bool:
        """Whether some process is in such a block."""
        self.check_open()
        return is_locked(self.path / _OPTIMIZE_LOCK)

    def create_table(self, name: str, rows: Any) -> None:
        """Make a table with its first rows; nobody sees it before a stamp names it."""
        self.retry("writing", lambda: self._database.create_table(name, rows))

    def snapshot(self, opened: Opened) -> Table:
        """The table as it is now, whatever is written afterwards."""
        table = self._database.open_table(opened.stamp.table)
        table.checkout(table.version)
        return table

    def open(self) -> Opened | None:
        """The table that the stamp names now; None if there is none."""
        self.check_open()
        with self._guard:
            try:
                found = os.stat(self.path / STAMP_NAME)
            except FileNotFoundError:
                self._opened = None
                return None
            signature = (found.st_ino, found.st_mtime_ns, found.st_size)
            if self._opened is None or self._opened.signature != signature:
                self._opened = None
                stamp = self._read_stamp()
                if stamp is None:
                    return None
                try:
                    table = self._database.open_table(stamp.table)
                    upgrade(table)
                except (ValueError, RuntimeError, OSError) as error:
                    raise Unavailable(
                        f"{self.path}: the table {stamp.table} can't be opened "
                        f"({_first_line(error)})"
                    ) from error
                self._opened = Opened(signature, stamp, table)
            return self._opened

    def _read_stamp(self) -> Stamp | None:
        stamp, asked = read_stamp(self.path), self.options.storage
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
            except (RuntimeError, ValueError, OSError) as error:
                if attempt == 2 or self.open() is opened:
                    raise self._failed(action, error) from error
        raise AssertionError

    def retry(self, action: str, run: Callable[[], Any], *, alone_at_last: bool = False) -> Any:
        """`run`, again after a conflict with a concurrent transaction such as a compaction.

        With `alone_at_last` the last attempt keeps writes waiting: else they could win every time.
        """
        for attempt in range(_CONFLICT_RETRIES + 1):
            alone = alone_at_last and attempt == _CONFLICT_RETRIES
            try:
                with self.writing() if alone else nullcontext():
                    return run()
            except CliptuneError:
                raise
            except (RuntimeError, ValueError, OSError) as error:
                if attempt == _CONFLICT_RETRIES or "conflict" not in str(error).lower():
                    raise self._failed(action, error) from error
                time.sleep(0.02 * 2**attempt)

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

    def drop_tables(self) -> None:
        """Remove what no stamp names: a cleared table, or one whose first write was cut short."""
        for folder in self.path.glob("documents-*.lance"):
            shutil.rmtree(folder, ignore_errors=True)


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:300]
