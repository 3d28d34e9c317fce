"""The name of an index in a Milvus server, and the collection that it stands for now."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any

from cliptune.errors import Unavailable
from cliptune.index.milvus_collection import Collection
from cliptune.index.milvus_options import MilvusAddress, MilvusOptions
from cliptune.index.milvus_rows import CollectionStamp, schema
from cliptune.index.milvus_server import CollectionGone, MilvusServer
from cliptune.index.pictures import PictureFolder


class Alias:
    """An index's name: an alias of the one collection that holds its documents, or of none."""

    def __init__(
        self, server: MilvusServer, address: MilvusAddress, options: MilvusOptions
    ) -> None:
        """Nothing is sent yet."""
        self.address, self.options = address, options
        self._server = server

    def find(self) -> Collection | None:
        """The collection that the alias stands for now."""
        self._server.check()
        name = self.address.collection
        try:
            found = self._server.call(
                "looking for the collection",
                lambda client, timeout: client.describe_collection(name, timeout=timeout),
            )
        except CollectionGone:
            if self.address.database:  # this alone tells a database that isn't there
                self._collections("looking for the collection")
            return None
        stamp = CollectionStamp.from_description(found["description"], str(self.address))
        return Collection(self._server, found["collection_name"], stamp)

    def make(self, stamp: CollectionStamp) -> Collection | None:
        """A new collection, ready and then given the alias; None if another has that by now."""
        name = f"{self.address.collection}_{uuid.uuid4().hex[:12]}"
        options = self.options

        def make(client: Any, timeout: float) -> None:
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
            self._server.call(
                "making the collection",
                lambda client, timeout: client.create_alias(name, alias, timeout=timeout),
            )
        except (Unavailable, CollectionGone):
            found = self.find()
            if found is not None and found.name == name:  # only the answer was lost
                return found
            self._drop(name)
            if found is None:
                raise
            return None
        return Collection(self._server, name, stamp)

    def clear(self) -> None:
        """Take the alias away, then its collection, and what was left over by others."""
        self._server.check()
        there = self.find()
        name = self.address.collection
        if there and there.name != name:
            self._gone("clearing", lambda client, timeout: client.drop_alias(name, timeout=timeout))
        pattern = re.compile(rf"{name}_[0-9a-f]{{12}}")
        listed = self._collections("clearing")
        # Those without the alias are left over from clears or first writes that were cut short.
        for one in [*listed, *([there.name] if there else [])]:
            if pattern.fullmatch(one) or (there and one == there.name):
                self._drop(one)

    def _collections(self, action: str) -> list[str]:
        """The names of all collections; raises `BadInput` if the database isn't there."""
        return list(
            self._server.call(
                action, lambda client, timeout: client.list_collections(timeout=timeout)
            )
        )

    def _drop(self, name: str) -> None:
        self._gone(
            "clearing", lambda client, timeout: client.drop_collection(name, timeout=timeout)
        )
        PictureFolder(self.options.pictures / name).clear()

    def _gone(self, action: str, run: Callable[[Any, float], Any]) -> None:
        """`run`, which takes away what may be gone already."""
        try:
            self._server.call(action, run)
        except CollectionGone:
            return
