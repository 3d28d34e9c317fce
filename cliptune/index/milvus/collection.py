"""One collection of a Milvus server: reads and writes, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from cliptune.index.milvus.expression import both
from cliptune.index.milvus.rows import CollectionStamp
from cliptune.index.milvus.server import MilvusServer, ResultTooLarge

KEYS_A_CALL = 10_000
_ENTITIES_A_CALL = 1000
_ROWS_A_WRITE = 1000
_BYTES_A_WRITE = 16 << 20


class Collection:
    """The collection `name`, which `stamp` describes.

    `keys` are primary keys: ids in hexadecimal (`milvus_keys.hex_of`). Its methods raise
    `CollectionGone` if it was cleared away.
    """

    def __init__(self, server: MilvusServer, name: str, stamp: CollectionStamp) -> None:
        """Nothing is sent yet."""
        self.server = server
        self.name = name
        self.stamp = stamp
        self._level = server.options.consistency.capitalize()

    def upsert(self, rows: list[dict[str, Any]]) -> None:
        """Write the entities; acknowledged ones are in the server's log."""
        start = 0
        while start < len(rows):
            part: list[dict[str, Any]] = []
            size = 0
            for row in rows[start : start + _ROWS_A_WRITE]:
                size += 4 * self.stamp.dim + sum(map(len, row["document"])) + 40 * len(row["terms"])
                if part and size > _BYTES_A_WRITE:
                    break
                part.append(row)
            start += len(part)
            self.server.call(
                "writing",
                lambda client, timeout: client.upsert(self.name, part, timeout=timeout),  # noqa: B023
            )

    def delete(self, keys: list[str]) -> None:
        """Delete the entities with these keys."""
        for start in range(0, len(keys), KEYS_A_CALL):
            among = among_keys(keys[start : start + KEYS_A_CALL])
            self.server.call(
                "deleting",
                lambda client, timeout: client.delete(self.name, filter=among, timeout=timeout),  # noqa: B023
                loads=self.name,
            )

    def graphs(self) -> tuple[int, int]:
        """(entities in graphs, entities that graphs are being built for)."""
        found = self.server.call(
            "reading the status",
            lambda client, timeout: client.describe_index(self.name, "embedding", timeout=timeout),
        )
        return int(found.get("indexed_rows", 0)), int(found.get("pending_index_rows", 0))

    def search(
        self, queries: np.ndarray, k: int, where: str | None, ef: int
    ) -> list[list[dict[str, Any]]]:
        """Milvus' own `k` nearest of each query in float32 [Q, D], with their documents."""
        return self.server.call(
            "searching",
            lambda client, timeout: client.search(
                self.name,
                data=list(queries),
                limit=k,
                filter=where or "",
                output_fields=["document"],
                anns_field="embedding",
                search_params={"metric_type": "COSINE", "params": {"ef": min(ef, 32_768)}},
                consistency_level=self._level,
                timeout=timeout,
            ),
            loads=self.name,
        )

    def count(self, where: str | None, *, wait: bool = True) -> int:
        """How many entities `where` leaves; without `wait`, as the server knows it just now."""
        [row] = self.server.call(
            "counting",
            lambda client, timeout: client.query(
                self.name,
                filter=where or "",
                output_fields=["count(*)"],
                consistency_level=self._level if wait else "Eventually",
                timeout=timeout,
            ),
            loads=self.name,
        )
        return int(row["count(*)"])

    def by_key(self, keys: list[str], fields: list[str]) -> dict[str, dict[str, Any]]:
        """The entities with these keys, by key."""
        found: dict[str, dict[str, Any]] = {}
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
            found |= {entity["id"]: entity for entity in entities}
            start += len(part)
        return found

    def pages(
        self, where: str | None, fields: list[str], rows: int, after: str | None = None
    ) -> Iterator[list[dict[str, Any]]]:
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

    def _query(
        self, where: str, fields: list[str], limit: int | None = None
    ) -> list[dict[str, Any]]:
        # As Milvus' own iterators ask for a page: the first keys (perhaps less than `limit`), not
        # just any. Without a limit these settings would leave entities out.
        paged = {"limit": limit, "iterator": "True", "reduce_stop_for_best": "True"}
        return list(
            self.server.call(
                "reading",
                lambda client, timeout: client.query(
                    self.name,
                    filter=where,
                    output_fields=["id", *fields],
                    consistency_level=self._level,
                    timeout=timeout,
                    **(paged if limit else {}),
                ),
                loads=self.name,
            )
        )


def among_keys(keys: list[str]) -> str:
    """The expression for the entities with these keys."""
    return f"id in [{', '.join(f'{chr(34)}{key}{chr(34)}' for key in keys)}]"
