"""Products with pictures, and their embeddings by a model."""

from __future__ import annotations

from pathlib import Path

from docarray import DocList

from cliptune.documents import ClipDoc
from tests.pictures import picture


def products(count: int, start: int = 0) -> DocList[ClipDoc]:
    return DocList[ClipDoc](
        ClipDoc(id=f"p{i:04}", text=f"product {i}", image=picture(i), tags={"n": i})
        for i in range(start, start + count)
    )


def embed(model: Path, docs: DocList[ClipDoc]) -> DocList[ClipDoc]:
    """Copies of `docs` with `model`'s embeddings."""
    from cliptune.inference import get_tower

    tower = get_tower(model, "clip-vision")
    vectors = tower.encode([doc.image for doc in docs])
    return DocList[ClipDoc](
        doc.model_copy(update={"embedding": vector, "model_digest": tower.digest})
        for doc, vector in zip(docs, vectors, strict=True)
    )
