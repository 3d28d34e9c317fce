"""The name of an index in a Milvus server, and the collection that it stands for now."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from typing import Any

from cliptune.errors import BadInput, DamagedIndex, Unavailable
from cliptune.index.milvus.collection import Collection
from cliptune.index.milvus.options import MilvusAddress, MilvusOptions
from cliptune.index.milvus.rows import CollectionStamp, schema
from cliptune.index.milvus.server import CollectionGone, MilvusServer
from cliptune.index.pictures import PictureFolder

_LOOKS, _BETWEEN_LOOKS = 5, 0.5


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
        name = self.address.collection
        try:
            found = self._server.call(
                "looking for the collection",
                lambda client, timeout: client.describe_collection(name, timeout=timeout),
            )
        except CollectionGone:
            self._check_no_orphans()
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

    def orphans(self) -> list[Collection]:
        """The index's collections that have no name any more: left over, or robbed of it.

        A collection is the index's by its name, and cliptune's by its description.
        """
        found = []
        pattern = re.compile(rf"{self.address.collection}_[0-9a-f]{{12}}")
        for name in self._collections("looking for the collection"):
            if pattern.fullmatch(name) is None:
                continue
            try:
                described = self._server.call(
                    "looking for the collection",
                    lambda client, timeout: client.describe_collection(name, timeout=timeout),  # noqa: B023
                )
                stamp = CollectionStamp.from_description(described["description"], name)
            except (CollectionGone, BadInput):  # gone by now, or a stranger's
                continue
            if not described["aliases"]:
                found.append(Collection(self._server, name, stamp))
        return found

    def adopt(self, name: str) -> None:
        """Let the index's name stand for the collection `name` again."""
        self._server.call(
            "naming the collection",
            lambda client, timeout: client.create_alias(
                name, self.address.collection, timeout=timeout
            ),
        )

    def _check_no_orphans(self) -> None:
        """Raise `DamagedIndex` if there are documents that the name stood for."""
        for look in range(_LOOKS):
            held = [one.name for one in self.orphans() if self._rows(one)]
            if not held:
                return
            if look + 1 < _LOOKS:  # another process may be clearing it
                time.sleep(_BETWEEN_LOOKS)
                if self._has_alias():
                    return
        raise DamagedIndex(
            f"{self.address}: the alias {self.address.collection!r} is gone, and {', '.join(held)} "
            "with documents is there. Nothing was changed: make the alias again, which `cliptune "
            f"index repair {self.address}` does"
        )

    def _has_alias(self) -> bool:
        name = self.address.collection
        try:
            self._server.call(
                "looking for the collection",
                lambda client, timeout: client.describe_collection(name, timeout=timeout),
            )
        except CollectionGone:
            return False
        return True

    def _rows(self, collection: Collection) -> int:
        try:
            return collection.count(None)
        except CollectionGone:
            return 0

    def clear(self) -> None:
        """Take the alias away, then its collection, and what was left over by others."""
        self._server.check()
        there = self.find()
        name = self.address.collection
        if there and there.name != name:
            self._gone("clearing", lambda client, timeout: client.drop_alias(name, timeout=timeout))
        # Those without a name are left over from clears or first writes that were cut short.
        left_over = [one.name for one in self.orphans()]
        for one in dict.fromkeys([*left_over, *([there.name] if there else [])]):
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
