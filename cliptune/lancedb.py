"""An embedding function for LanceDB's tables: `cliptune`, which asks a search Flow.

::

    import cliptune.lancedb   # registers it
    from lancedb.embeddings import get_registry
    from lancedb.pydantic import LanceModel, Vector

    clip = get_registry().get("cliptune").create(server="grpc://localhost:51000")

    class Product(LanceModel):
        picture: bytes = clip.SourceField()
        vector: Vector(clip.ndims()) = clip.VectorField()

    table = db.create_table("products", schema=Product)
    table.add([{"picture": Path("boots.jpg").read_bytes()}])
    table.search("red rain boots").limit(5).to_list()

A table keeps the server's address and the model's digest. Rows and queries of another model are
refused: they would find something, and not what was asked for.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Self

from cliptune.extras import need

need("index", "cliptune.lancedb")

import numpy as np
import pyarrow as pa
from lancedb.embeddings import EmbeddingFunction, register
from numpy.typing import NDArray

from cliptune.client.client import Client
from cliptune.client.inputs import to_doc
from cliptune.documents import ClipDoc
from cliptune.errors import ModelMismatch, Unavailable

Embedding = NDArray[np.float32]


@register("cliptune")
class CliptuneEmbeddings(EmbeddingFunction):
    """Texts and pictures to embeddings float32 [D] of unit length, by a search Flow's two towers.

    A source column holds pictures (encoded bytes, paths, `data:` URIs) or texts: see
    `cliptune.client.inputs.to_doc`. A query is a text, a picture's bytes, or a PIL image. An API
    key is never kept in a table: CLIPTUNE_API_KEY and CLIPTUNE_CA_FILE are read where it is used.
    """

    server: str | None = None
    """The address of the search Flow; None: CLIPTUNE_SEARCH_SERVER."""
    model_digest: str | None = None
    """The model that the table's embeddings are of; None: the one that is served."""
    dimensions: int | None = None
    """Numbers in an embedding; None: as that model has."""

    @classmethod
    def create(cls, **kwargs: Any) -> Self:
        """Make one, and note which model is served, if the arguments don't say.

        Raises:
            Unavailable: the server can't be reached, or has no text encoder.
        """
        made: Self = super().create(**kwargs)
        if made.model_digest is None or made.dimensions is None:
            tower = _client(made.server).status()["model"]
            if not tower:
                raise Unavailable("the service has no text encoder")
            made.model_digest = made.model_digest or str(tower["model_digest"])
            made.dimensions = int(tower["output_dim"])
            # What a table keeps of it.
            noted = {"model_digest": made.model_digest, "dimensions": made.dimensions}
            made._original_args = {**kwargs, **noted}
        return made

    def ndims(self) -> int:
        """Numbers in an embedding."""
        return int(self.dimensions or 0)

    def compute_query_embeddings(self, *args: Any, **kwargs: Any) -> list[Embedding | None]:
        """The embedding of the one query given; raises as `compute_source_embeddings`."""
        [query] = args or kwargs.values()
        doc = ClipDoc(text=str(query)) if isinstance(query, str) else to_doc(query, 0)
        return [self._embedded([doc])[0]]

    def compute_source_embeddings(self, *args: Any, **kwargs: Any) -> list[Embedding | None]:
        """The embeddings of the one column given; None where it holds nothing.

        Raises:
            BadInput, BadImage: an item can't be embedded; `position` is its place.
            ModelMismatch: the server's model is not that of the table.
        """
        [items] = args or kwargs.values()
        if isinstance(items, pa.Array | pa.ChunkedArray):
            items = items.to_pylist()
        given = [items] if isinstance(items, str | bytes) else list(items)
        docs = {i: to_doc(item, i) for i, item in enumerate(given) if not _is_empty(item)}
        embeddings = dict(zip(docs, self._embedded(list(docs.values())), strict=True))
        return [embeddings.get(position) for position in range(len(given))]

    def compute_query_embeddings_with_retry(
        self, *args: Any, **kwargs: Any
    ) -> list[Embedding | None]:
        """As without: the client repeats what it makes sense to, LanceDB whatever fails."""
        return self.compute_query_embeddings(*args, **kwargs)

    def compute_source_embeddings_with_retry(
        self, *args: Any, **kwargs: Any
    ) -> list[Embedding | None]:
        """Likewise."""
        return self.compute_source_embeddings(*args, **kwargs)

    def _embedded(self, docs: list[ClipDoc]) -> list[Embedding]:
        embedded = _client(self.server).encode(docs) if docs else ()
        for doc in embedded:
            if doc.model_digest != self.model_digest:
                raise ModelMismatch(
                    f"the table's embeddings are of model {self.model_digest:.12}, the server's "
                    f"are of {doc.model_digest:.12}: embed the table anew, or ask a server of "
                    "that model"
                )
        return [np.asarray(doc.embedding, np.float32) for doc in embedded]


def _is_empty(item: object) -> bool:
    return item is None or (isinstance(item, str | bytes) and not item.strip())


@lru_cache
def _client(server: str | None) -> Client:
    """One client for all functions of a server, which have to be comparable and hashable."""
    return Client.from_environment(server)
