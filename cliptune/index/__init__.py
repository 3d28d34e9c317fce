"""Documents with embeddings, found again by similarity: one interface, a store behind it.

`open_index` opens one, `Index` is the manual, `filters` the filter language's.
"""

from cliptune.index.base import Index, IndexStatus
from cliptune.index.filters import Filter, parse_filter
from cliptune.index.open import open_index

__all__ = ["Filter", "Index", "IndexStatus", "open_index", "parse_filter"]
