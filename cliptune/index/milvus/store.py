"""The store beyond one machine: a collection of a Milvus server or cluster."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from docarray import DocList
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from cliptune.documents import ClipDoc, Match
from cliptune.errors import BadInput, Unavailable
from cliptune.index.base import Index, IndexStatus, Parts, Search
from cliptune.index.checks import batched, check_batch
from cliptune.index.facets.column import Column
from cliptune.index.filters.language import Compare, Field, Node
from cliptune.index.filters.warnings import Version
from cliptune.index.milvus.collection import KEYS_A_CALL, Alias, Collection, among_keys, both
from cliptune.index.milvus.pictures import PictureFolder
from cliptune.index.milvus.rows import CollectionStamp, Entity, hex_of, to_doc, to_rows
from cliptune.index.milvus.search import Searcher, to_expression
from cliptune.index.milvus.server import (
    CollectionGone,
    MilvusAddress,
    MilvusOptions,
    MilvusServer,
    ResultTooLarge,
)
from cliptune.index.retries import wait_until
from cliptune.index.words import WordMatch

Result = TypeVar("Result")
MAX_COUNTED = 200_000
"""Documents whose tags are read to be counted: Milvus 2.3 counts documents only, not values."""
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

    def _check_open(self) -> None:
        self._server.check()

    def _add(self, docs: DocList[ClipDoc]) -> int:
        def run(there: Collection | None) -> int:
            batch = check_batch(docs, there.stamp if there else None)
            rows = to_rows(batch, store_images=self.options.store_images)
            if there is None:
                stamp = CollectionStamp(batch.space.model_digest, batch.space.dim)
                there = self._alias.make(stamp)
                if there is None:  # another writer was first, perhaps with another model
                    raise CollectionGone("another writer has made it")
            self._pictures(there).add(
                (str(row["image_digest"]), doc.image)
                for row, doc in zip(rows, batch.docs, strict=True)
                if row["image_digest"] and doc.image is not None
            )
            there.upsert(rows)
            return len(rows)

        return self._with_collection("writing", run)

    def _search(self, search: Search) -> list[list[Match]]:
        def run(there: Collection | None) -> list[list[Match]]:
            queries = search.queries(there.stamp if there else None)
            if not there or not search.limit or not len(queries):
                return [[] for _ in queries]
            searcher = Searcher(there, _expression(search.where), self.options.ef)
            find = searcher.exact if search.exact else searcher.nearest
            return find(queries, search.limit)

        return self._with_collection("searching", run)

    @property
    def no_words(self) -> str:
        """See `Index.no_words`: BM25 came with Milvus 2.5, collections here are made for 2.3."""
        return "documents in Milvus are not found by words (hybrid); those in a folder are"

    def _word_search(self, search: Search) -> list[list[WordMatch]]:
        raise BadInput(self.no_words)

    def _delete(self, ids: list[str] | None, where: Node | None) -> int:
        """The documents are found first, and then deleted by their ids."""
        wanted = None if ids is None else [hex_of(one) for one in ids]
        condition = _expression(where)

        def matching(there: Collection) -> Iterator[str]:
            if wanted is None:
                conditions = [condition]
            elif condition is None:
                yield from there.by_key(wanted, [])
                return
            else:
                parts = batched(wanted, KEYS_A_CALL)
                conditions = [both(among_keys(part), condition) for part in parts]
            for one in conditions:
                for page in there.pages(one, [], KEYS_A_CALL):
                    yield from (entity["id"] for entity in page)

        def run(there: Collection | None) -> int:
            keys = list(matching(there)) if there else []
            if there:
                there.delete(keys)
            return len(keys)

        return self._with_collection("deleting", run)

    def _get(self, ids: list[str], parts: Parts) -> DocList[ClipDoc]:
        keys = [hex_of(one) for one in ids]

        def run(there: Collection | None) -> DocList[ClipDoc]:
            if there is None:
                return DocList[ClipDoc]()
            by_key = there.by_key(keys, _fields(parts))
            entities = [by_key[key] for key in keys if key in by_key]
            return self._docs(there, entities, parts.image)

        return self._with_collection("reading", run)

    def _scan(self, after: str | None, batch_size: int, parts: Parts) -> Iterator[DocList[ClipDoc]]:
        there = self._with_collection("reading", lambda current: current)
        if there is None:
            return
        waiting: list[Entity] = []
        key = None if after is None else hex_of(after)
        pages = there.pages(None, _fields(parts), min(batch_size, 1000), key)
        try:
            for page in pages:
                waiting += page
                while len(waiting) >= batch_size:
                    yield self._docs(there, waiting[:batch_size], parts.image)
                    waiting = waiting[batch_size:]
        except CollectionGone as error:
            raise Unavailable(f"{self.address}: the index was cleared meanwhile") from error
        if waiting:
            yield self._docs(there, waiting, parts.image)

    def _count(self, where: Node | None) -> int:
        condition = _expression(where)
        return self._with_collection(
            "counting", lambda there: there.count(condition) if there else 0
        )

    def _columns(self, paths: Sequence[str], where: Node | None) -> dict[str, Column]:
        condition = _expression(where)

        def run(there: Collection | None) -> dict[str, Column]:
            count = there.count(condition) if there else 0
            if count > MAX_COUNTED:
                raise BadInput(
                    f"{count} documents' values would have to be read to be counted; in Milvus at "
                    f"most {MAX_COUNTED} are: give a filter that leaves fewer"
                )
            pages = there.pages(condition, ["document"], KEYS_A_CALL) if there and count else ()
            tags = [
                json.loads("".join(entity["document"]))["tags"] for page in pages for entity in page
            ]
            return {path: Column.of(tags, path) for path in paths}

        return self._with_collection("counting", run)

    def _sizes(
        self, path: str, values: Mapping[str, str | float | bool], where: Node | None
    ) -> dict[str, int]:
        condition = _expression(where)
        having = {
            key: both(to_expression(Compare(Field(path), "==", value)), condition)
            for key, value in values.items()
        }

        def run(there: Collection | None) -> dict[str, int]:
            # The search before has waited for what was written: counts don't wait once more each.
            return {
                key: there.count(one, wait=False) if there else 0 for key, one in having.items()
            }

        return self._with_collection("counting", run)

    def version(self) -> Version:
        """See `Index.version`: another collection after a `clear`; Milvus doesn't count writes."""
        name = self._with_collection("reading the status", lambda there: there and there.name)
        return Version(name, None)

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
            client = self._server.client("optimizing")
            client.flush(there.name)
            client.compact(there.name)
            wait_until(lambda: not there.graphs()[1], _BUILD_SECONDS, every=0.2)

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
        retrying = Retrying(
            retry=retry_if_exception_type(CollectionGone),
            stop=stop_after_attempt(_ATTEMPTS),
            reraise=True,
        )
        try:
            return retrying(lambda: run(self._alias.find()))
        except ResultTooLarge as error:
            raise Unavailable(f"{self.address}: {action} failed ({error})") from error
        except CollectionGone as error:
            raise Unavailable(
                f"{self.address}: {action} failed: the index is cleared and made again all the time"
            ) from error

    def _docs(
        self, there: Collection, entities: list[Entity], include_image: bool
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


def _expression(where: Node | None) -> str | None:
    return None if where is None else to_expression(where)


def _fields(parts: Parts) -> list[str]:
    return ["document", *["embedding"] * parts.embedding]
