"""An index's collection in a Milvus server, and its name, which is the collection's alias."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from cliptune.errors import BadInput, DamagedIndex, Unavailable
from cliptune.index.checks import batched
from cliptune.index.metadata import Repaired
from cliptune.index.milvus.pictures import PictureFolder
from cliptune.index.milvus.rows import CollectionStamp, Entity, schema
from cliptune.index.milvus.server import (
    CollectionGone,
    MilvusAddress,
    MilvusOptions,
    MilvusServer,
    ResultTooLarge,
)
from cliptune.index.retries import wait_until

if TYPE_CHECKING:
    from pymilvus import MilvusClient

KEYS_A_CALL = 10_000
_ENTITIES_A_CALL = 1000
_ROWS_A_WRITE = 1000
_BYTES_A_WRITE = 16 << 20
_SETTLING = 6.0
"""Seconds that another process may take to clear an index's collection, and that a busy server may
take to tell of a new alias."""
EVERYTHING = 'id != ""'


class Hit(TypedDict):
    """A found entity, and its cosine."""

    entity: Entity
    distance: float


class Description(TypedDict):
    """What the server says of a collection, as far as it is read."""

    collection_name: str
    description: str
    aliases: list[str]


class Collection:
    """The collection `name`, which `stamp` describes.

    `keys` are primary keys: ids in hexadecimal (`rows.hex_of`). Its methods raise
    `CollectionGone` if it was cleared away.
    """

    def __init__(self, server: MilvusServer, name: str, stamp: CollectionStamp) -> None:
        """Nothing is sent yet."""
        self.server = server
        self.name = name
        self.stamp = stamp
        self._level = server.options.consistency.capitalize()

    def upsert(self, rows: list[Entity]) -> None:
        """Write the entities; acknowledged ones are in the server's log."""
        start = 0
        while start < len(rows):
            part: list[Entity] = []
            size = 0
            for row in rows[start : start + _ROWS_A_WRITE]:
                size += 4 * self.stamp.dim + sum(map(len, row["document"])) + 40 * len(row["terms"])
                if part and size > _BYTES_A_WRITE:
                    break
                part.append(row)
            start += len(part)
            self.server.client("writing").upsert(self.name, part)

    def delete(self, keys: list[str]) -> None:
        """Delete the entities with these keys."""
        for among in map(among_keys, batched(keys, KEYS_A_CALL)):
            self.server.client("deleting", loads=self.name).delete(self.name, filter=among)

    def graphs(self) -> tuple[int, int]:
        """(entities in graphs, entities that graphs are being built for)."""
        client = self.server.client("reading the status")
        graph: dict[str, int] = client.describe_index(self.name, "embedding")
        return int(graph.get("indexed_rows", 0)), int(graph.get("pending_index_rows", 0))

    def search(self, queries: np.ndarray, k: int, where: str | None, ef: int) -> list[list[Hit]]:
        """Milvus' own `k` nearest of each query in float32 [Q, D], with their documents."""
        hits: list[list[Hit]] = self.server.client("searching", loads=self.name).search(
            self.name,
            data=list(queries),
            limit=k,
            filter=where or "",
            output_fields=["document"],
            anns_field="embedding",
            search_params={"metric_type": "COSINE", "params": {"ef": min(ef, 32_768)}},
            consistency_level=self._level,
        )
        return hits

    def count(self, where: str | None, *, wait: bool = True) -> int:
        """How many entities `where` leaves; without `wait`, as the server knows it just now."""
        [row] = self.server.client("counting", loads=self.name).query(
            self.name,
            filter=where or "",
            output_fields=["count(*)"],
            consistency_level=self._level if wait else "Eventually",
        )
        return int(row["count(*)"])

    def by_key(self, keys: list[str], fields: list[str]) -> dict[str, Entity]:
        """The entities with these keys, by key."""
        by_key: dict[str, Entity] = {}
        start, step = 0, KEYS_A_CALL if not fields else _ENTITIES_A_CALL
        while start < len(keys):
            part = keys[start : start + step]
            try:
                entities = self._query(among_keys(part), fields)
            except ResultTooLarge:
                if step == 1:
                    raise
                step = max(1, step // 4)
                continue
            by_key |= {entity["id"]: entity for entity in entities}
            start += len(part)
        return by_key

    def pages(
        self, where: str | None, fields: list[str], rows: int, after: str | None = None
    ) -> Iterator[list[Entity]]:
        """What `where` leaves in ascending order of keys, beyond the key `after`, page by page."""
        rows = min(rows, KEYS_A_CALL)
        while True:
            beyond = f'id > "{after}"' if after is not None else None
            try:
                page = self._query(both(where, beyond), fields, rows)
            except ResultTooLarge:
                if rows == 1:
                    raise
                rows = max(1, rows // 4)
                continue
            if not page:
                return
            page.sort(key=lambda entity: str(entity["id"]))
            yield page
            after = page[-1]["id"]

    def _query(self, where: str, fields: list[str], limit: int | None = None) -> list[Entity]:
        # As Milvus' own iterators ask for a page: the first keys (perhaps less than `limit`), not
        # just any. Without a limit these settings would leave entities out.
        paged = {"limit": limit, "iterator": "True", "reduce_stop_for_best": "True"}
        entities = self.server.client("reading", loads=self.name).query(
            self.name,
            filter=where,
            output_fields=["id", *fields],
            consistency_level=self._level,
            **(paged if limit else {}),
        )
        return list(entities)


def quoted(digits: str) -> str:
    """A string of hexadecimal digits in an expression, which needs no escapes."""
    assert not digits or digits.isalnum()  # noqa: S101
    return f'"{digits}"'


def among_keys(keys: Sequence[str]) -> str:
    """The expression for the entities with these keys."""
    return f"id in [{', '.join(map(quoted, keys))}]"


def both(*expressions: str | None) -> str:
    """All of the expressions; None asks nothing."""
    given = [f"({one})" for one in expressions if one is not None]
    return " and ".join(given) or EVERYTHING


class Alias:
    """An index's name: an alias of the one collection that holds its documents, or of none."""

    def __init__(
        self, server: MilvusServer, address: MilvusAddress, options: MilvusOptions
    ) -> None:
        """Nothing is sent yet."""
        self.address, self.options = address, options
        self._server = server

    def find(self) -> Collection | None:
        """The collection that the alias stands for now; None if there never was one.

        Raises:
            DamagedIndex: the alias is gone, and a collection of its documents is there.
        """
        self._server.check()
        there: Collection | None = None
        held: list[str] = []

        def is_sound() -> bool:
            nonlocal there, held
            there = self._current()
            held = [] if there else [one.name for one in self.orphans() if _holds_documents(one)]
            return not held

        if wait_until(is_sound, _SETTLING, every=0.5):
            return there
        raise DamagedIndex(
            f"{self.address}: the alias {self.address.collection!r} is gone, and {', '.join(held)} "
            "with documents is there. Nothing was changed: make the alias again, which `cliptune "
            f"index repair {self.address}` does"
        )

    def _current(self) -> Collection | None:
        """The collection that the alias stands for; None if the alias isn't there."""
        try:
            described = self._describe(self.address.collection)
        except CollectionGone:
            return None
        stamp = CollectionStamp.from_description(described["description"], str(self.address))
        return Collection(self._server, described["collection_name"], stamp)

    def _describe(self, name: str) -> Description:
        client = self._server.client("looking for the collection")
        described: Description = client.describe_collection(name)
        return described

    def make(self, stamp: CollectionStamp) -> Collection | None:
        """A new collection, ready and then given the alias; None if another has that by now."""
        name = f"{self.address.collection}_{uuid.uuid4().hex[:12]}"
        options = self.options

        def make(client: MilvusClient, timeout: float) -> None:
            graph = client.prepare_index_params()
            graph.add_index(
                "embedding",
                index_name="embedding",
                index_type="HNSW",
                metric_type="COSINE",
                params={"M": options.hnsw_m, "efConstruction": options.hnsw_ef_construction},
            )
            client.create_collection(
                name,
                schema=schema(stamp),
                index_params=graph,
                num_shards=options.shards,
                consistency_level="Strong",
                timeout=timeout,
            )

        alias = self.address.collection
        try:
            self._server.call("making the collection", make)
            self._server.client("making the collection").create_alias(name, alias)
        except (Unavailable, CollectionGone):
            there = self.find()
            if there is not None and there.name == name:  # only the answer was lost
                return there
            self._drop(name)
            if there is None:
                raise
            return None
        return Collection(self._server, name, stamp)

    def orphans(self) -> list[Collection]:
        """The index's collections that have no name any more: left over, or robbed of it.

        A collection is the index's by its name, and cliptune's by its description. Raises
        `BadInput` if the database isn't there.
        """
        nameless = []
        client = self._server.client("looking for the collection")
        pattern = re.compile(rf"{self.address.collection}_[0-9a-f]{{12}}")
        for name in filter(pattern.fullmatch, client.list_collections()):
            try:
                described = self._describe(name)
                stamp = CollectionStamp.from_description(described["description"], name)
            except (CollectionGone, BadInput):  # gone by now, or a stranger's
                continue
            if not described["aliases"]:
                nameless.append(Collection(self._server, name, stamp))
        return nameless

    def adopt(self, name: str) -> None:
        """Let the index's name stand for the collection `name` again."""
        self._server.client("naming the collection").create_alias(name, self.address.collection)

    def clear(self) -> None:
        """Take the alias away, then its collection, and what was left over by others."""
        self._server.check()
        there = self.find()
        name = self.address.collection
        if there and there.name != name:
            with suppress(CollectionGone):
                self._server.client("clearing").drop_alias(name)
        # Those without a name are left over from clears or first writes that were cut short.
        left_over = [one.name for one in self.orphans()]
        for one in dict.fromkeys([*left_over, *([there.name] if there else [])]):
            self._drop(one)

    def _drop(self, name: str) -> None:
        with suppress(CollectionGone):
            self._server.client("clearing").drop_collection(name)
        PictureFolder(self.options.pictures / name).clear()


def _holds_documents(collection: Collection) -> bool:
    try:
        return collection.count(None) > 0
    except CollectionGone:
        return False


def repair_alias(
    address: MilvusAddress, options: MilvusOptions, name: str | None
) -> Repaired | None:
    """Let an index's name stand for its collection again; None if it does.

    Args:
        address: of the index.
        options: as for the index.
        name: which collection it is, where there are several with documents.

    Raises:
        BadInput: there are several, or none.
    """
    server = MilvusServer(address, options)
    try:
        alias = Alias(server, address, options)
        try:
            alias.find()
            return None
        except DamagedIndex:
            rows_of = {one.name: one.count(None) for one in alias.orphans()}
        held = {one: rows for one, rows in rows_of.items() if rows and name in (None, one)}
        if len(held) != 1:
            listed = ", ".join(f"{one} ({rows} documents)" for one, rows in held.items())
            raise BadInput(f"{address}: name the right collection by --table: {listed or 'none'}")
        [(chosen, rows)] = held.items()
        alias.adopt(chosen)
    finally:
        server.close()
    return Repaired(f"{address} (for {chosen})", rows)
