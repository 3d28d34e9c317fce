"""The embedded store: a folder, kept by LanceDB (columnar files, transactions, ANN search)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from docarray import DocList

from cliptune.documents import ClipDoc, Match
from cliptune.errors import BadInput, Unavailable
from cliptune.index.base import Index, IndexStatus
from cliptune.index.checks import check_batch, check_ids, check_queries, check_scan, check_window
from cliptune.index.durable import LockBusy
from cliptune.index.filters.language import Filter, parse_filter
from cliptune.index.filters.warnings import Version
from cliptune.index.lance.folder import LanceFolder, Opened, new_table_name
from cliptune.index.lance.options import LanceOptions
from cliptune.index.lance.rows import (
    DOC_COLUMNS,
    offsets_by_id,
    tag_names,
    tag_values,
    to_docs,
    to_table,
)
from cliptune.index.lance.search import nearest
from cliptune.index.lance.sql import literal, to_sql
from cliptune.index.stamp import Stamp

if TYPE_CHECKING:
    from lancedb.table import Table

_IDS_A_STATEMENT = 10_000


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
        self.options = options or LanceOptions()
        self._folder = LanceFolder(Path(folder).expanduser().absolute(), self.options)

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self._folder.path

    def add(self, docs: DocList[ClipDoc]) -> int:
        """See `Index.add`."""
        self._folder.check_open()
        if isinstance(docs, ClipDoc):
            raise BadInput("docs: expected a DocList of documents, got a single one")
        for position, doc in enumerate(docs):
            if not isinstance(doc, ClipDoc):
                raise BadInput(f"document {position}: a {type(doc).__name__}, not a ClipDoc")
        if not len(docs):
            return 0
        with self._folder.writing():
            opened = self._folder.open()
            stamp = opened.stamp if opened else None
            batch = check_batch(
                docs, stamp.model_digest if stamp else None, stamp.dim if stamp else None
            )
            storage = stamp.storage if stamp else self.options.storage or "float32"
            rows = to_table(batch, store_images=self.options.store_images, storage=storage)
            self._folder.remove_unfinished(stamp.table if stamp else None)
            if opened:
                table, began = opened.table, time.time_ns()
                self._folder.retry(
                    "writing",
                    lambda: (
                        table.merge_insert("id")
                        .when_matched_update_all()
                        .when_not_matched_insert_all()
                        .execute(rows)
                    ),
                )
                self._folder.flush(opened.stamp.table, began)
            else:
                made = Stamp(new_table_name(), batch.model_digest, batch.dim, storage)
                self._folder.create_table(made, rows)
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

        def run(opened: Opened | None) -> list[DocList[Match]]:
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

        return self._folder.read("searching", run)

    def delete(self, *, ids: Iterable[str] | None = None, filter: Filter | None = None) -> int:
        """See `Index.delete`; more than 10,000 ids are deleted in several transactions."""
        where = _where(filter)
        if ids is None and where is None:
            raise BadInput("delete: give ids or a filter; clear() deletes everything")
        conditions = [where] if ids is None else _id_conditions(check_ids(ids), where)
        self._folder.check_open()
        deleted = 0
        with self._folder.writing():
            opened = self._folder.open()
            for condition in conditions if opened else ():
                assert opened is not None  # noqa: S101
                began = time.time_ns()
                run = partial(opened.table.delete, str(condition))
                deleted += self._folder.retry("deleting", run).num_deleted_rows
                self._folder.flush(opened.stamp.table, began)
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

        def run(opened: Opened | None) -> DocList[ClipDoc]:
            found: dict[str | None, ClipDoc] = {}
            for condition in _id_conditions(wanted, None) if opened else ():
                assert opened is not None  # noqa: S101
                query = opened.table.search().where(condition).select(columns)
                rows = query.limit(_IDS_A_STATEMENT).to_arrow()
                for doc in to_docs(rows, opened.stamp.model_digest):
                    found[doc.id] = doc
            return DocList[ClipDoc](found[one] for one in wanted if one in found)

        return self._folder.read("reading", run)

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
        self._folder.check_open()
        return self._scan(after, batch_size, _doc_columns(include_embedding, include_image))

    def _scan(
        self, after: str | None, batch_size: int, columns: list[str]
    ) -> Iterator[DocList[ClipDoc]]:
        def pin(opened: Opened | None) -> tuple[Table, list[int], str] | None:
            if opened is None:
                return None
            table = self._folder.snapshot(opened)
            return table, offsets_by_id(table, after), opened.stamp.model_digest

        pinned = self._folder.read("reading", pin)
        if pinned is None:
            return
        table, offsets, digest = pinned
        for start in range(0, len(offsets), batch_size):
            wanted = table.take_offsets(offsets[start : start + batch_size]).select(columns)
            rows = self._folder.read("reading", lambda _: wanted.to_arrow())  # noqa: B023
            yield DocList[ClipDoc](to_docs(rows.sort_by("id"), digest))

    def count(self, filter: Filter | None = None) -> int:
        """See `Index.count`."""
        where = _where(filter)
        return self._folder.read(
            "counting", lambda opened: opened.table.count_rows(where) if opened else 0
        )

    def version(self) -> Version:
        """See `Index.version`."""
        return self._folder.read(
            "reading the status",
            lambda opened: Version(
                opened.stamp.table if opened else None, opened.table.version if opened else 0
            ),
        )

    def tag_names(self) -> frozenset[str]:
        """See `Index.tag_names`: of the first 100,000 documents."""
        return self._folder.read(
            "reading", lambda opened: tag_names(opened.table) if opened else frozenset()
        )

    def tag_values(self, path: str) -> frozenset[str]:
        """See `Index.tag_values`: of the first 100,000 documents."""
        return self._folder.read(
            "reading", lambda opened: tag_values(opened.table, path) if opened else frozenset()
        )

    def clear(self) -> None:
        """See `Index.clear`."""
        self._folder.check_open()
        with self._folder.writing():
            opened = self._folder.open()
            if opened:
                self._folder.drop_table(opened.stamp.table)
            else:
                self._folder.remove_unfinished(None)

    def status(self) -> IndexStatus:
        """See `Index.status`."""
        building = self._folder.is_being_optimized()

        def run(opened: Opened | None) -> IndexStatus:
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

        return self._folder.read("reading the status", run)

    def optimize(self) -> IndexStatus:
        """See `Index.optimize`; does nothing if another process or thread is already at it."""
        self._folder.check_open()
        with ExitStack() as stack:
            try:
                stack.enter_context(self._folder.optimizing())
            except LockBusy:
                return self.status()
            opened = self._folder.open()
            if opened:
                began = time.time_ns()
                try:
                    self._tidy(opened.table)
                except Unavailable:
                    if self._folder.open() is opened:
                        raise  # otherwise the table was cleared away in the meantime
                self._folder.flush(opened.stamp.table, began)
        return self.status()

    def close(self) -> None:
        """See `Index.close`."""
        self._folder.close()

    def _tidy(self, table: Table) -> None:
        from lancedb.index import BTree, HnswSq, LabelList

        options = self.options
        self._folder.retry(
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
            self._folder.retry("indexing", lambda: table.create_index("embedding", config=graph))
        if "terms" not in there:
            self._folder.retry("indexing", lambda: table.create_index("terms", config=LabelList()))
        if "id" not in there:
            self._folder.retry("indexing", lambda: table.create_index("id", config=BTree()))


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


def _fragments(table: Table) -> int:
    stats: Any = table.stats()  # a dict, whatever its annotation says
    return int(stats["fragment_stats"]["num_fragments"])
