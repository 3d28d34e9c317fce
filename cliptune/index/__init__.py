"""Documents with embeddings, found again by similarity: one interface, two stores behind it:
a folder (LanceDB), and a collection of a Milvus server.

`open_index` opens one, `Index` is the manual, `filters` the filter language's.
"""

from cliptune.index.base import Index, IndexStatus
from cliptune.index.filters.language import Filter
from cliptune.index.filters.parser import parse_filter
from cliptune.index.open import open_index
from cliptune.index.ranking.options import Ranking

__all__ = ["Filter", "Index", "IndexStatus", "Ranking", "open_index", "parse_filter"]
