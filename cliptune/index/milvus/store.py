"""The store beyond one machine: a collection of a Milvus server or cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from docarray import DocList

from cliptune.documents import ClipDoc, Match
from cliptune.errors import BadInput, Unavailable
from cliptune.index.base import Index, IndexStatus
from cliptune.index.checks import check_batch, check_ids, check_queries, check_scan, check_window
from cliptune.index.filters.language import Filter, parse_filter
from cliptune.index.filters.warnings import Version
from cliptune.index.milvus.alias import Alias
from cliptune.index.milvus.collection import KEYS_A_CALL, Collection, among_keys
from cliptune.index.milvus.expression import both, to_expression
from cliptune.index.milvus.keys import hex_of
from cliptune.index.milvus.options import MilvusAddress, MilvusOptions
from cliptune.index.milvus.rows import CollectionStamp, to_doc, to_rows
from cliptune.index.milvus.search import Searcher
from cliptune.index.milvus.server import CollectionGone, MilvusServer, ResultTooLarge
from cliptune.index.pictures import PictureFolder

Result = TypeVar("Result")
_ATTEMPTS = 3
_BUILD_SECONDS = 600.0


class MilvusIndex(Index):
    """An `Index` in a Milvus server (2.3.5 or later).

    `shop` in `http://host:19530/shop` is an alias of the collection that holds the documents; the
    collection's description is the stamp. `clear` takes the alias away before the collection, and
    the next `add` makes a new one of another name: who still writes to the old one is told that
    it is gone, so that embeddings of two models never meet.

    Searches go through Milvus' own graphs (HNSW over full embeddings), which it builds by itself
    as segments fill. `exact=True` reads every embedding that the filter leaves over the network.

    While the server is away, calls try again for `MilvusOptions.timeout` seconds and then raise
    `Unavailable`; they work again once it is back. An `add` that raised may have written a part of
    its batch: repeat it.

    Args:
        address: see `MilvusAddress`.
        options: see `MilvusOptions`.
    """

    def __init__(self, address: MilvusAddress, options: MilvusOptions | None = None) -> None:
        """Nothing is sent yet: the server may still be starting."""
        self.address = address
        self.options = options or MilvusOptions()
        self._server = MilvusServer(address, self.options)
        self._alias = Alias(self._server, address, self.options)

    def add(self, docs: DocList[ClipDoc]) -> int:
        """See `Index.add`."""
        self._server.check()
        if isinstance(docs, ClipDoc):
            raise BadInput("docs: expected a DocList of documents, got a single one")
        for position, doc in enumerate(docs):
            if not isinstance(doc, ClipDoc):
                raise BadInput(f"document {position}: a {type(doc).__name__}, not a ClipDoc")
        if not len(docs):
            return 0

        def run(there: Collection | None) -> int:
            stamp = there.stamp if there else None
            batch = check_batch(
                docs, stamp.model_digest if stamp else None, stamp.dim if stamp else None
            )
            rows = to_rows(batch, store_images=self.options.store_images)
            if there is None:
                made = self._alias.make(CollectionStamp(batch.model_digest, batch.dim))
                if made is None:  # another writer was first, perhaps with another model
                    raise CollectionGone("another writer has made it")
                there = made
            self._pictures(there).add(
                (str(row["image_digest"]), doc.image)
                for row, doc in zip(rows, batch.docs, strict=True)
                if row["image_digest"] and doc.image is not None
            )
            there.upsert(rows)
            return len(rows)

        return self._with_collection("writing", run)

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

        def run(there: Collection | None) -> list[DocList[Match]]:
            stamp = there.stamp if there else None
            queries = check_queries(
                embeddings,
                model_digest,
                stamp.model_digest if stamp else None,
                stamp.dim if stamp else None,
            )
            if not there or not limit or not len(queries):
                return [DocList[Match]() for _ in queries]
            searcher = Searcher(there, where, self.options.ef)
            find = searcher.exact if exact else searcher.nearest
            threshold = -np.inf if score_threshold is None else score_threshold
            return [
                DocList[Match](match for match in matches[offset:] if match.score >= threshold)
                for matches in find(queries, offset + limit)
            ]

        return self._with_collection("searching", run)

    def delete(self, *, ids: Iterable[str] | None = None, filter: Filter | None = None) -> int:
        """See `Index.delete`; the documents are found first, and then deleted by their ids."""
        where = _where(filter)
        if ids is None and where is None:
            raise BadInput("delete: give ids or a filter; clear() deletes everything")
        wanted = None if ids is None else [hex_of(one) for one in check_ids(ids)]

        def run(there: Collection | None) -> int:
            if there is None:
                return 0
            if wanted is None:
                pages = there.pages(where, [], KEYS_A_CALL)
                keys = [entity["id"] for page in pages for entity in page]
            elif where is None:
                keys = list(there.by_key(wanted, []))
            else:
                keys = [
                    entity["id"]
                    for start in range(0, len(wanted), KEYS_A_CALL)
                    for page in there.pages(
                        both(among_keys(wanted[start : start + KEYS_A_CALL]), where),
                        [],
                        KEYS_A_CALL,
                    )
                    for entity in page
                ]
            there.delete(keys)
            return len(keys)

        return self._with_collection("deleting", run)

    def get(
        self,
        ids: Iterable[str],
        *,
        include_embedding: bool = False,
        include_image: bool = False,
    ) -> DocList[ClipDoc]:
        """See `Index.get`."""
        keys = [hex_of(one) for one in check_ids(ids)]
        fields = _fields(include_embedding)

        def run(there: Collection | None) -> DocList[ClipDoc]:
            if there is None:
                return DocList[ClipDoc]()
            found = there.by_key(keys, fields)
            entities = [found[key] for key in keys if key in found]
            return self._docs(there, entities, include_image)

        return self._with_collection("reading", run)

    def scan(
        self,
        *,
        after: str | None = None,
        batch_size: int = 1000,
        include_embedding: bool = False,
        include_image: bool = False,
    ) -> Iterator[DocList[ClipDoc]]:
        """See `Index.scan`."""
        check_scan(after, batch_size)
        self._server.check()
        return self._scan(after, batch_size, _fields(include_embedding), include_image)

    def _scan(
        self, after: str | None, batch_size: int, fields: list[str], include_image: bool
    ) -> Iterator[DocList[ClipDoc]]:
        there = self._with_collection("reading", lambda found: found)
        if there is None:
            return
        waiting: list[dict[str, Any]] = []
        pages = there.pages(
            None, fields, min(batch_size, 1000), None if after is None else hex_of(after)
        )
        try:
            for page in pages:
                waiting += page
                while len(waiting) >= batch_size:
                    yield self._docs(there, waiting[:batch_size], include_image)
                    waiting = waiting[batch_size:]
        except CollectionGone as error:
            raise Unavailable(f"{self.address}: the index was cleared meanwhile") from error
        if waiting:
            yield self._docs(there, waiting, include_image)

    def count(self, filter: Filter | None = None) -> int:
        """See `Index.count`."""
        where = _where(filter)
        return self._with_collection("counting", lambda there: there.count(where) if there else 0)

    def version(self) -> Version:
        """See `Index.version`: another collection after a `clear`; Milvus doesn't count writes."""
        found = self._with_collection("reading the status", lambda there: there and there.name)
        return Version(found, None)

    def clear(self) -> None:
        """See `Index.clear`."""
        self._alias.clear()

    def status(self) -> IndexStatus:
        """See `Index.status`."""

        def run(there: Collection | None) -> IndexStatus:
            rows = there.count(None) if there else 0
            indexed, pending = there.graphs() if there else (0, 0)
            return IndexStatus(
                rows=rows,
                dim=there.stamp.dim if there else None,
                model_digest=there.stamp.model_digest if there else None,
                state="building" if pending else "ready" if indexed else "flat",
                unindexed_rows=max(0, rows - indexed),
                optimize_due=False,  # Milvus sees to it by itself
                uri=str(self.address),
                store="milvus",
            )

        return self._with_collection("reading the status", run)

    def optimize(self) -> IndexStatus:
        """See `Index.optimize`: seals and compacts segments, waits for the graphs (10 minutes at
        most), and removes pictures that no document has any more.
        """

        def run(there: Collection | None) -> None:
            if there is None:
                return
            name = there.name
            call = self._server.call
            call("optimizing", lambda client, timeout: client.flush(name, timeout=timeout))
            call("optimizing", lambda client, timeout: client.compact(name, timeout=timeout))
            deadline = time.monotonic() + _BUILD_SECONDS
            while there.graphs()[1] and time.monotonic() < deadline:
                time.sleep(0.2)

            def wanted() -> set[str]:
                pages = there.pages(None, ["image_digest"], KEYS_A_CALL)
                return {str(entity["image_digest"]) for page in pages for entity in page}

            self._pictures(there).keep_only(wanted)

        self._with_collection("optimizing", run)
        return self.status()

    def close(self) -> None:
        """See `Index.close`."""
        self._server.close()

    def _with_collection(self, action: str, run: Callable[[Collection | None], Result]) -> Result:
        """`run` on the collection there is, again if it was cleared away in the meantime."""
        for _ in range(_ATTEMPTS):
            try:
                return run(self._alias.find())
            except CollectionGone as error:
                gone = error
            except ResultTooLarge as error:
                raise Unavailable(f"{self.address}: {action} failed ({error})") from error
        raise Unavailable(
            f"{self.address}: {action} failed: the index is cleared and made again all the time"
        ) from gone

    def _docs(
        self, there: Collection, entities: list[dict[str, Any]], include_image: bool
    ) -> DocList[ClipDoc]:
        pictures = self._pictures(there)
        docs = DocList[ClipDoc]()
        for entity in entities:
            doc, has_image = to_doc(entity, there.stamp.model_digest)
            if include_image and has_image and doc.image_digest:
                doc.image = pictures.get(doc.image_digest)
            docs.append(doc)
        return docs

    def _pictures(self, there: Collection) -> PictureFolder:
        return PictureFolder(self.options.pictures / there.name)


def _where(given: Filter | None) -> str | None:
    node = parse_filter(given)
    return None if node is None else to_expression(node)


def _fields(include_embedding: bool) -> list[str]:
    return ["document", *["embedding"] * include_embedding]
