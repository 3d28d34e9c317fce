"""The embedded store: a folder, kept by LanceDB (columnar files, transactions, ANN search)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from docarray import DocList

from cliptune.documents import ClipDoc, Match
from cliptune.errors import BadInput, Unavailable
from cliptune.index.base import Index, IndexStatus, Parts, Search
from cliptune.index.checks import batched, check_batch, check_queries
from cliptune.index.durable import LockBusy
from cliptune.index.facets.column import Column
from cliptune.index.facets.known_tags import KnownTags
from cliptune.index.filters.language import Node
from cliptune.index.filters.warnings import Version
from cliptune.index.lance.ann import AnnSearch, ann_index, needs_building, to_build
from cliptune.index.lance.columns import TagColumnCache
from cliptune.index.lance.folder import LanceFolder, LanceOptions, Opened, new_table_name
from cliptune.index.lance.memory import EmbeddingsCache
from cliptune.index.lance.rows import (
    DOC_COLUMNS,
    count_terms,
    offsets_by_id,
    tag_names,
    tag_values,
    to_docs,
    to_table,
)
from cliptune.index.lance.search import Searcher, literal, to_sql
from cliptune.index.lance.state import TableStates
from cliptune.index.lance.tuning import AUTOMATIC, Progress, tune_search
from cliptune.index.lance.words import UNINDEXED, WordSearcher, uncovered
from cliptune.index.metadata import RECALL, Stamp, TunedSearch
from cliptune.index.words import WordMatch

if TYPE_CHECKING:
    from lancedb.table import Table

_IDS_A_STATEMENT = 10_000


class LanceIndex(Index):
    """An `Index` in a folder.

    The folder holds `cliptune-index.json` (the stamp: which table, whose embeddings) and the
    table. Writes are transactions, flushed to disk before they return; one at a time over all
    processes (a lock file), while searches go on undisturbed. Searches are exact until
    `optimize` has built an ANN index (IVF over 8-bit scalar-quantised embeddings, found
    candidates scored again exactly: see `ann`), from `LanceOptions.ann_threshold` documents on.
    Documents added since are searched exhaustively beside it.

    More than 10,000 ids are deleted in several transactions. A scan that lasts longer than
    `LanceOptions.keep_versions` may be ended with `Unavailable` by an `optimize`.

    Args:
        folder: made if it isn't there.
        options: see `LanceOptions`.
    """

    def __init__(self, folder: str | Path, options: LanceOptions | None = None) -> None:
        """Open or make the folder; a stamp of a newer format raises `BadInput`."""
        self.options = options or LanceOptions()
        self._folder = LanceFolder(Path(folder).expanduser().absolute(), self.options)
        self._memory = EmbeddingsCache(self.options.exact_memory)
        self._states = TableStates()
        self._tags = TagColumnCache()

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self._folder.path

    def _check_open(self) -> None:
        self._folder.check_open()

    def _add(self, docs: DocList[ClipDoc]) -> int:
        with self._folder.writing():
            opened = self._folder.open()
            stamp = opened.stamp if opened else None
            batch = check_batch(docs, stamp)
            storage = stamp.storage if stamp else self.options.storage or "float32"
            rows = to_table(batch, store_images=self.options.store_images, storage=storage)
            self._folder.remove_unfinished(stamp.table if stamp else None)
            if opened:
                table, began = opened.table, time.time_ns()
                upsert = table.merge_insert("id").when_matched_update_all()
                upsert = upsert.when_not_matched_insert_all()
                self._folder.retry("writing", lambda: upsert.execute(rows))
                self._folder.flush(opened.stamp.table, began)
            else:
                space = batch.space
                made = Stamp(space.model_digest, space.dim, new_table_name(), storage)
                self._folder.create_table(made, rows)
        return len(batch.docs)

    def _search(self, search: Search) -> list[list[Match]]:
        def run(opened: Opened | None) -> list[list[Match]]:
            queries = search.queries(opened.stamp if opened else None)
            if not opened or not search.limit:
                return [[] for _ in queries]
            stamp, state, ann = opened.stamp, self._states.of(opened.table), None
            if search.exact or not state.has_ann_index:
                pinned = partial(self._folder.snapshot, opened)
                if kept := self._memory.get(opened.table, stamp.dim, pinned):
                    where = None if search.where is None else to_sql(search.where)
                    return kept.nearest(queries, search.limit, where)
            else:
                ann = AnnSearch.of(state.rows, stamp.tuned)
            return Searcher(state, search.where, ann).nearest(queries, search.limit)

        return self._folder.read("searching", run)

    @property
    def no_words(self) -> None:
        """See `Index.no_words`: a folder's documents are found by words."""
        return None

    def _word_search(self, search: Search) -> list[list[WordMatch]]:
        def run(opened: Opened | None) -> list[list[WordMatch]]:
            queries = search.queries(opened.stamp if opened else None)
            if not opened:
                return [[] for _ in queries]
            searcher = WordSearcher(opened.table, search.where)
            return [
                searcher.best(text, query, search.limit) if text else []
                for text, query in zip(search.texts, queries, strict=True)
            ]

        return self._folder.read("searching", run)

    def _delete(self, ids: list[str] | None, where: Node | None) -> int:
        self._folder.check_open()
        deleted = 0
        with self._folder.writing():
            opened = self._folder.open()
            if opened is None:
                return 0
            for condition in _conditions(ids, where):
                began = time.time_ns()
                run = partial(opened.table.delete, condition)
                result = self._folder.retry("deleting", run)
                deleted += result.num_deleted_rows  # type: ignore[attr-defined] # its stub lacks it
                self._folder.flush(opened.stamp.table, began)
        return deleted

    def _get(self, ids: list[str], parts: Parts) -> DocList[ClipDoc]:
        columns = _columns(parts)

        def run(opened: Opened | None) -> DocList[ClipDoc]:
            by_id: dict[str | None, ClipDoc] = {}
            for condition in _conditions(ids, None) if opened else ():
                assert opened is not None  # noqa: S101
                query = opened.table.search().where(condition).select(columns)
                rows = query.limit(_IDS_A_STATEMENT).to_arrow()
                by_id |= {doc.id: doc for doc in to_docs(rows, opened.stamp.model_digest)}
            return DocList[ClipDoc](by_id[one] for one in ids if one in by_id)

        return self._folder.read("reading", run)

    def _scan(self, after: str | None, batch_size: int, parts: Parts) -> Iterator[DocList[ClipDoc]]:
        def pin(opened: Opened | None) -> tuple[Table, list[int], str] | None:
            if opened is None:
                return None
            table = self._folder.snapshot(opened)
            return table, offsets_by_id(table, after), opened.stamp.model_digest

        pinned = self._folder.read("reading", pin)
        if pinned is None:
            return
        table, offsets, digest = pinned
        columns = _columns(parts)
        for start in range(0, len(offsets), batch_size):
            wanted = table.take_offsets(offsets[start : start + batch_size]).select(columns)
            rows = self._folder.read("reading", lambda _: wanted.to_arrow())  # noqa: B023
            yield DocList[ClipDoc](to_docs(rows.sort_by("id"), digest))

    def _count(self, where: Node | None) -> int:
        condition = None if where is None else to_sql(where)
        return self._folder.read(
            "counting", lambda opened: opened.table.count_rows(condition) if opened else 0
        )

    def _columns(self, paths: Sequence[str], where: Node | None) -> dict[str, Column]:
        condition = None if where is None else to_sql(where)

        def run(opened: Opened | None) -> dict[str, Column]:
            if opened is None:
                return {path: Column.of((), path) for path in paths}
            return self._tags.columns(opened.stamp.table, opened.table, paths, condition)

        return self._folder.read("counting", run)

    def _sizes(
        self, path: str, values: Mapping[str, str | float | bool], where: Node | None
    ) -> dict[str, int]:
        return dict(zip(values, self._columns([path], where)[path].sizes(values), strict=True))

    def _known_tags(self) -> KnownTags:
        def run(opened: Opened | None) -> KnownTags:
            rows = opened.table.count_rows() if opened else 0
            return KnownTags.of(rows, rows, count_terms(opened.table) if opened else {})

        return self._folder.read("reading", run)

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
            ann = ann_index(opened.table) if opened else None
            unindexed = int(ann.num_unindexed_rows or 0) if ann else rows
            fragments = _fragments(opened.table) if opened else 0
            threshold = self.options.ann_threshold
            worded = uncovered(opened.table) if opened else 0
            due = rows >= threshold if ann is None else unindexed >= max(1, threshold // 2)
            return IndexStatus(
                rows=rows,
                dim=opened.stamp.dim if opened else None,
                model_digest=opened.stamp.model_digest if opened else None,
                state="building" if building else "ready" if ann else "flat",
                unindexed_rows=unindexed,
                optimize_due=due or worded > UNINDEXED or fragments > self.options.max_fragments,
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
                    built = self._tidy(opened.table)
                    if ann_index(opened.table) and (built or opened.stamp.tuned is None):
                        self._settle_search(opened)
                except Unavailable:
                    if self._folder.open() is opened:
                        raise  # otherwise the table was cleared away in the meantime
                self._folder.flush(opened.stamp.table, began)
        return self.status()

    def tune(
        self,
        queries: np.ndarray | None = None,
        model_digest: str | None = None,
        *,
        recall: float = RECALL,
        progress: Progress = lambda done, most: None,
    ) -> TunedSearch:
        """See `Index.tune`."""
        opened = self._folder.open()
        if opened is None or ann_index(opened.table) is None:
            raise BadInput(
                f"{self.folder}: every search is exact, there is nothing to tune. An ANN index is "
                f"built by `optimize`, from {self.options.ann_threshold:,} documents on"
            )
        table = self._folder.snapshot(opened)
        if queries is not None:
            queries = check_queries(queries, model_digest or "", opened.stamp)
        tuned = tune_search(table, queries, recall, progress)
        with self._folder.writing():
            self._folder.note_tuned(opened.stamp.table, tuned)
        return tuned

    def close(self) -> None:
        """See `Index.close`."""
        self._memory.clear()
        self._states = TableStates()
        self._folder.close()

    def _settle_search(self, opened: Opened) -> None:
        """Choose how a new ANN index is searched, unless what was tuned for queries still holds."""
        table, tuned = self._folder.snapshot(opened), opened.stamp.tuned
        if tuned and tuned.asked == "queries" and tuned.holds_for(table.count_rows()):
            return
        tuned = tune_search(table, None, AUTOMATIC)
        with self._folder.writing():
            self._folder.note_tuned(opened.stamp.table, tuned)

    def _tidy(self, table: Table) -> bool:
        """Bring the table and its indexes up to date; returns whether the ANN index is new."""
        from lancedb.index import BTree, LabelList

        options = self.options
        outgrown = needs_building(ann_index(table), options.max_segments)
        self._folder.retry(
            "optimizing",
            lambda: table.optimize(cleanup_older_than=options.keep_versions),
            alone_at_last=True,
        )
        rows = table.count_rows()
        if rows < options.ann_threshold:
            return False
        if outgrown:
            ann = to_build(rows)
            self._folder.retry("indexing", lambda: table.create_index("embedding", config=ann))
        there = {index.columns[0] for index in table.list_indices()}
        if "terms" not in there:
            self._folder.retry("indexing", lambda: table.create_index("terms", config=LabelList()))
        if "id" not in there:
            self._folder.retry("indexing", lambda: table.create_index("id", config=BTree()))
        return outgrown


def _columns(parts: Parts) -> list[str]:
    return [*DOC_COLUMNS, *["embedding"] * parts.embedding, *["image"] * parts.image]


def _conditions(ids: list[str] | None, where: Node | None) -> list[str]:
    """What leaves those of `ids` (None: of all) for which `where` holds, in several statements."""
    condition = [] if where is None else [to_sql(where)]
    if ids is None:
        return condition
    parts = batched(ids, _IDS_A_STATEMENT)
    among = (f"id IN ({', '.join(map(literal, part))})" for part in parts)
    return [" AND ".join([one, *condition]) for one in among]


def _fragments(table: Table) -> int:
    stats = cast(dict[str, dict[str, int]], table.stats())  # whatever its annotation says
    return stats["fragment_stats"]["num_fragments"]
