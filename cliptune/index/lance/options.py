"""How the embedded store keeps and searches its documents."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from cliptune.errors import BadInput
from cliptune.index.storage import Storage, check_storage


@dataclass(frozen=True)
class LanceOptions:
    """How a `LanceIndex` stores and searches."""

    store_images: bool = True
    """Keep the documents' picture bytes, for `get(include_image=True)`."""
    storage: Storage | None = None
    """How embeddings are kept: 'float32' as they are; 'float16' in half the room, at unit length,
    each score within 0.0005 of the exact one. Chosen when the first documents come; another choice
    for an index that has documents is refused. None: what the index has, 'float32' for a new one.
    The ANN index has 8-bit codes either way, of which the best are scored again by what is kept."""
    ann_threshold: int = 20_000
    """From so many documents on, `optimize` builds an ANN index; below, every search is exact."""
    hnsw_m: int = 20
    """Neighbours of a node in the HNSW graph: more find more and take more room."""
    hnsw_ef_construction: int = 150
    """Candidates considered for a node's neighbours when the graph is built."""
    ef: int = 800
    """Candidates of a graph search, at least twice the matches asked for: more find more. 800
    finds 98 % even among uniformly random ones, and costs little beside what any query does. 100
    missed whole clusters for some queries of a million documents."""
    refine_factor: int = 2
    """So many times the matches asked for are scored again with the full embeddings."""
    max_graphs: int = 6
    """`optimize` gives new documents a graph of their own, and beyond so many graphs builds one
    anew over all: each adds to a search's time."""
    max_fragments: int = 64
    """With more files of rows than that, `optimize` is due."""
    keep_versions: timedelta = timedelta(minutes=10)
    """`optimize` removes the files of table versions older than this."""
    fsync: bool = True
    """Flush each write to disk before it returns, so that it survives a power cut. Without, it
    survives the process's death only, and a transaction takes 15 ms instead of 30 to 100."""
    lock_timeout: float = 60.0
    """Seconds that a write waits for another one before it raises `Unavailable`."""

    def __post_init__(self) -> None:
        """Refuse values that can't work."""
        for name in ("ann_threshold", "hnsw_m", "hnsw_ef_construction", "ef", "refine_factor"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise BadInput(f"{name}: expected an integer of 1 or more, got {value!r}")
        if self.hnsw_m < 2:
            raise BadInput(f"hnsw_m: expected an integer of 2 or more, got {self.hnsw_m}")
        if self.storage is not None:
            check_storage(self.storage)
        if not self.lock_timeout >= 0:
            raise BadInput(f"lock_timeout: expected seconds, got {self.lock_timeout!r}")
