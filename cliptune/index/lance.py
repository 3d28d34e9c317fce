"""The embedded store: a folder, kept by LanceDB (columnar files, transactions, ANN search)."""

from __future__ import annotations

import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from docarray import DocList

from cliptune.documents import ClipDoc, Match
from cliptune.errors import BadInput, CliptuneError, Unavailable
from cliptune.index.base import Index, IndexStatus
from cliptune.index.checks import check_batch, check_ids, check_queries, check_scan, check_window
from cliptune.index.durable import LockBusy, file_lock, flush_written, is_locked, sync_path
from cliptune.index.filters import Filter, parse_filter
from cliptune.index.lance_options import LanceOptions
from cliptune.index.lance_search import nearest
from cliptune.index.lance_sql import literal, to_sql
from cliptune.index.lance_table import DOC_COLUMNS, offsets_by_id, to_docs, to_table, upgrade
from cliptune.index.stamp import STAMP_NAME, Stamp, read_stamp, remove_stamp, write_stamp

if TYPE_CHECKING:
    from lancedb.table import Table

Result = TypeVar("Result")
_IDS_A_STATEMENT = 10_000
_CONFLICT_RETRIES = 8
_WRITE_LOCK, _OPTIMIZE_LOCK = ".write.lock", ".optimize.lock"


@dataclass(frozen=True)
class _Opened:
    signature: tuple[int, int, int]
    stamp: Stamp
    table: Table


class LanceIndex(Index):
    """An `Index` in a folder.

    The folder holds `cliptune-index.json` (the stamp: which table, whose embeddings) and the
    table. Writes are transactions, flushed to disk before they return; one at a time over all
    processes (a lock file), while searches go on undisturbed. Searches are exact until
    `optimize` has built an ANN index (HNSW over 8-bit scalar-quantised embeddings, found
    candidates scored again exactly), from `LanceOptions.ann_threshold` documents on. Documents
    added since are searched exhaustively beside it.

    Args:
        folder: made if it isn't there.
        options: see `LanceOptions`.
    """

    def __init__(self, folder: str | Path, options: LanceOptions | None = None) -> None:
        """Open or make the folder; a stamp of a newer format raises `BadInput`."""
        self.folder = Path(folder).expanduser().absolute()
        self.options = options or LanceOptions()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise BadInput(f"{self.folder}: an index is a folder, this is a file") from error
        except OSError as error:
            raise Unavailable(f"{self.folder}: can't be made ({error.strerror})") from error
        self._read_stamp()
        # Keeps index statistics small, and a warning about them out of the user's log.
        os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")
        import lancedb  # starts threads, so not at import time

        self._process = os.getpid()
        self._guard = threading.Lock()
        self._opened: _Opened | None = None
        # Without the interval a handle would not see what other processes have written.
        self._database: Any = lancedb.connect(
            str(self.folder), read_consistency_interval=timedelta(0)
        )

    def add(self, docs: DocList[ClipDoc]) -> int:
        """See `Index.add`."""
        self._check_open()
        if isinstance(docs, ClipDoc):
            raise BadInput("docs: expected a DocList of documents, got a single one")
        for position, doc in enumerate(docs):
            if not isinstance(doc, ClipDoc):
                raise BadInput(f"document {position}: a {type(doc).__name__}, not a ClipDoc")
        if not len(docs):
            return 0
        with self._writing():
            opened = self._open()
            stamp = opened.stamp if opened else None
            batch = check_batch(
                docs, stamp.model_digest if stamp else None, stamp.dim if stamp else None
            )
            storage = stamp.storage if stamp else self.options.storage or "float32"
            rows = to_table(batch, store_images=self.options.store_images, storage=storage)
            began = time.time_ns()
            if opened:
                table = opened.table
                self._retry(
                    "writing",
                    lambda: (
                        table.merge_insert("id")
                        .when_matched_update_all()
                        .when_not_matched_insert_all()
                        .execute(rows)
                    ),
                )
                self._flush(opened.stamp.table, began)
            else:
                name = f"documents-{uuid.uuid4().hex[:12]}"
                self._drop_tables()
                self._retry("writing", lambda: self._database.create_table(name, rows))
                self._flush(name, began)
                write_stamp(self.folder, Stamp(name, batch.model_digest, batch.dim, storage))
        return len(batch.docs)

    def search(
        self,
        embeddings: np.ndarray,
        model_digest: str,
        *,
        limit: int = 10,
        offset: int = 0,
        filter: Filter | None = None,
        score_threshold: float | None = None,
        exact: bool = False,
    ) -> list[DocList[Match]]:
        """See `Index.search`."""
        check_window(limit, offset, score_threshold)
        where = _where(filter)

        def run(opened: _Opened | None) -> list[DocList[Match]]:
            stamp = opened.stamp if opened else None
            queries = check_queries(
                embeddings,
                model_digest,
                stamp.model_digest if stamp else None,
                stamp.dim if stamp else None,
            )
            if not opened or not limit:
                return [DocList[Match]() for _ in queries]
            found = nearest(
                opened.table,
                queries,
                offset + limit,
                where=where,
                exact=exact,
                ef=self.options.ef,
                refine_factor=self.options.refine_factor,
            )
            threshold = -np.inf if score_threshold is None else score_threshold
            return [
                DocList[Match](match for match in matches[offset:] if match.score >= threshold)
                for matches in found
            ]

        return self._read("searching", run)

    def delete(self, *, ids: Iterable[str] | None = None, filter: Filter | None = None) -> int:
        """See `Index.delete`; more than 10,000 ids are deleted in several transactions."""
        where = _where(filter)
        if ids is None and where is None:
            raise BadInput("delete: give ids or a filter; clear() deletes everything")
        conditions = [where] if ids is None else _id_conditions(check_ids(ids), where)
        self._check_open()
        deleted = 0
        with self._writing():
            opened = self._open()
            for condition in conditions if opened else ():
                assert opened is not None  # noqa: S101
                began = time.time_ns()
                table, sql = opened.table, str(condition)
                deleted += self._retry("deleting", lambda: table.delete(sql)).num_deleted_rows  # noqa: B023
                self._flush(opened.stamp.table, began)
        return deleted

    def get(
        self,
        ids: Iterable[str],
        *,
        include_embedding: bool = False,
        include_image: bool = False,
    ) -> DocList[ClipDoc]:
        """See `Index.get`."""
        wanted = check_ids(ids)
        columns = _doc_columns(include_embedding, include_image)

        def run(opened: _Opened | None) -> DocList[ClipDoc]:
            found: dict[str | None, ClipDoc] = {}
            for condition in _id_conditions(wanted, None) if opened else ():
                assert opened is not None  # noqa: S101
                query = opened.table.search().where(condition).select(columns)
                rows = query.limit(_IDS_A_STATEMENT).to_arrow()
                for doc in to_docs(rows, opened.stamp.model_digest):
                    found[doc.id] = doc
            return DocList[ClipDoc](found[one] for one in wanted if one in found)

        return self._read("reading", run)

    def scan(
        self,
        *,
        after: str | None = None,
        batch_size: int = 1000,
        include_embedding: bool = False,
        include_image: bool = False,
    ) -> Iterator[DocList[ClipDoc]]:
        """See `Index.scan`; one that lasts longer than `keep_versions` may be ended with
        `Unavailable` by an `optimize`.
        """
        check_scan(after, batch_size)
        self._check_open()
        return self._scan(after, batch_size, _doc_columns(include_embedding, include_image))

    def _scan(
        self, after: str | None, batch_size: int, columns: list[str]
    ) -> Iterator[DocList[ClipDoc]]:
        def pin(opened: _Opened | None) -> tuple[Table, list[int], str] | None:
            if opened is None:
                return None
            table = self._database.open_table(opened.stamp.table)
            table.checkout(table.version)
            return table, offsets_by_id(table, after), opened.stamp.model_digest

        pinned = self._read("reading", pin)
        if pinned is None:
            return
        table, offsets, digest = pinned
        for start in range(0, len(offsets), batch_size):
            wanted = table.take_offsets(offsets[start : start + batch_size]).select(columns)
            rows = self._read("reading", lambda _: wanted.to_arrow())  # noqa: B023
            yield DocList[ClipDoc](to_docs(rows.sort_by("id"), digest))

    def count(self, filter: Filter | None = None) -> int:
        """See `Index.count`."""
        where = _where(filter)
        return self._read(
            "counting", lambda opened: opened.table.count_rows(where) if opened else 0
        )

    def clear(self) -> None:
        """See `Index.clear`."""
        self._check_open()
        with self._writing():
            remove_stamp(self.folder)
            self._open()
            self._drop_tables()

    def status(self) -> IndexStatus:
        """See `Index.status`."""
        building = self._being_optimized()

        def run(opened: _Opened | None) -> IndexStatus:
            rows = opened.table.count_rows() if opened else 0
            ann = _ann_index(opened.table) if opened else None
            unindexed = int(ann.num_unindexed_rows or 0) if ann else rows
            fragments = _fragments(opened.table) if opened else 0
            threshold = self.options.ann_threshold
            due = rows >= threshold if ann is None else unindexed >= max(1, threshold // 2)
            return IndexStatus(
                rows=rows,
                dim=opened.stamp.dim if opened else None,
                model_digest=opened.stamp.model_digest if opened else None,
                state="building" if building else "ready" if ann else "flat",
                unindexed_rows=unindexed,
                optimize_due=due or fragments > self.options.max_fragments,
                uri=str(self.folder),
                store="lance",
                storage=opened.stamp.storage if opened else self.options.storage or "float32",
            )

        return self._read("reading the status", run)

    def optimize(self) -> IndexStatus:
        """See `Index.optimize`; does nothing if another process or thread is already at it."""
        self._check_open()
        with ExitStack() as stack:
            try:
                stack.enter_context(file_lock(self.folder / _OPTIMIZE_LOCK, 0))
            except LockBusy:
                return self.status()
            opened = self._open()
            if opened:
                began = time.time_ns()
                try:
                    self._tidy(opened.table)
                except Unavailable:
                    if self._open() is opened:
                        raise  # otherwise the table was cleared away in the meantime
                self._flush(opened.stamp.table, began)
        return self.status()

    def close(self) -> None:
        """See `Index.close`."""
        self._opened = None
        self._database = None

    def _tidy(self, table: Table) -> None:
        from lancedb.index import BTree, HnswSq, LabelList

        options = self.options
        self._retry(
            "optimizing",
            lambda: table.optimize(cleanup_older_than=options.keep_versions),
            alone_at_last=True,
        )
        rows = table.count_rows()
        if rows < options.ann_threshold:
            return
        there = {index.columns[0]: index for index in table.list_indices()}
        graphs = there.get("embedding")
        if graphs is None or (graphs.num_segments or 0) > options.max_graphs:
            # One graph as long as it can be built in memory: it finds more than several.
            graph = HnswSq(
                distance_type="cosine",
                num_partitions=1 + rows // 2_000_000,
                m=options.hnsw_m,
                ef_construction=options.hnsw_ef_construction,
            )
            self._retry("indexing", lambda: table.create_index("embedding", config=graph))
        if "terms" not in there:
            self._retry("indexing", lambda: table.create_index("terms", config=LabelList()))
        if "id" not in there:
            self._retry("indexing", lambda: table.create_index("id", config=BTree()))

    def _check_open(self) -> None:
        if self._database is None:
            raise BadInput(f"{self.folder}: the index is closed")
        if os.getpid() != self._process:
            raise BadInput(
                f"{self.folder}: the index was opened before this process was forked; "
                "open it in the process that uses it"
            )

    def _writing(self) -> Any:
        return file_lock(self.folder / _WRITE_LOCK, self.options.lock_timeout)

    def _being_optimized(self) -> bool:
        self._check_open()
        return is_locked(self.folder / _OPTIMIZE_LOCK)

    def _open(self) -> _Opened | None:
        """The table that the stamp names now; None if there is none."""
        self._check_open()
        with self._guard:
            try:
                found = os.stat(self.folder / STAMP_NAME)
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
                        f"{self.folder}: the table {stamp.table} can't be opened "
                        f"({_first_line(error)})"
                    ) from error
                self._opened = _Opened(signature, stamp, table)
            return self._opened

    def _read_stamp(self) -> Stamp | None:
        stamp, asked = read_stamp(self.folder), self.options.storage
        if stamp and asked and stamp.storage != asked:
            raise BadInput(
                f"{self.folder}: the index keeps embeddings as {stamp.storage}, not as {asked}, "
                "which is chosen with the first documents. Copy it into a new index that is opened "
                f"with storage={asked!r} (cliptune index migrate --storage {asked})"
            )
        return stamp

    def _read(self, action: str, run: Callable[[_Opened | None], Result]) -> Result:
        """`run` on the current table, once more if it was cleared away in the meantime."""
        for attempt in (1, 2):
            opened = None
            try:
                opened = self._open()
                return run(opened)
            except CliptuneError:
                raise
            except (RuntimeError, ValueError, OSError) as error:
                if attempt == 2 or self._open() is opened:
                    raise self._failed(action, error) from error
        raise AssertionError

    def _retry(self, action: str, run: Callable[[], Any], *, alone_at_last: bool = False) -> Any:
        """`run`, again after a conflict with a concurrent transaction such as a compaction.

        With `alone_at_last` the last attempt keeps writes waiting: else they could win every time.
        """
        for attempt in range(_CONFLICT_RETRIES + 1):
            alone = alone_at_last and attempt == _CONFLICT_RETRIES
            try:
                with self._writing() if alone else nullcontext():
                    return run()
            except CliptuneError:
                raise
            except (RuntimeError, ValueError, OSError) as error:
                if attempt == _CONFLICT_RETRIES or "conflict" not in str(error).lower():
                    raise self._failed(action, error) from error
                time.sleep(0.02 * 2**attempt)

    def _flush(self, table: str, began: int) -> None:
        """Bring the table's files written since `began` (ns) to disk; Lance leaves that open."""
        if self.options.fsync:
            try:
                flush_written(self.folder / f"{table}.lance", began)
                sync_path(self.folder)
            except OSError as error:
                raise self._failed("bringing it to disk", error) from error

    def _failed(self, action: str, error: Exception) -> Unavailable:
        if "no space left" in str(error).lower() or "quota exceeded" in str(error).lower():
            return Unavailable(f"{self.folder}: the disk is full: {action} failed")
        return Unavailable(f"{self.folder}: {action} failed ({_first_line(error)})")

    def _drop_tables(self) -> None:
        """Remove what no stamp names: a cleared table, or one whose first write was cut short."""
        for folder in self.folder.glob("documents-*.lance"):
            shutil.rmtree(folder, ignore_errors=True)


def _where(given: Filter | None) -> str | None:
    node = parse_filter(given)
    return None if node is None else to_sql(node)


def _doc_columns(include_embedding: bool, include_image: bool) -> list[str]:
    return [*DOC_COLUMNS, *["embedding"] * include_embedding, *["image"] * include_image]


def _id_conditions(ids: list[str], where: str | None) -> list[str]:
    conditions = []
    for start in range(0, len(ids), _IDS_A_STATEMENT):
        among = ", ".join(map(literal, ids[start : start + _IDS_A_STATEMENT]))
        conditions.append(f"id IN ({among})" + (f" AND {where}" if where else ""))
    return conditions


def _ann_index(table: Table) -> Any | None:
    for index in table.list_indices():
        if index.columns == ["embedding"]:
            return index
    return None


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:300]


def _fragments(table: Table) -> int:
    stats: Any = table.stats()  # a dict, whatever its annotation says
    return int(stats["fragment_stats"]["num_fragments"])
