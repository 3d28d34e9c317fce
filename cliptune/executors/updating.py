"""What the indexer does for `/update`: parts of stored documents are replaced, the rest stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.protocol import tags
from cliptune.protocol.limits import check_docs

if TYPE_CHECKING:  # importing it imports LanceDB, which must not happen before Jina's fork
    from cliptune.index import Index


def update(index: Index, docs: DocList[ClipDoc]) -> dict[str, Any]:
    """Replace what `docs` have of the stored documents of their ids.

    A picture replaces the picture and its embedding. A text, label or URI replaces the stored one.
    Tags are merged name by name; a tag of None is removed. Where one id comes twice, the later
    document changes what the earlier one made.

    Returns: `updated`, how many were there, and `missing`, the ids that weren't.

    Raises:
        BadInput: a document can't be stored.
        ModelMismatch: the index holds embeddings of another model.
    """
    check_docs(docs)
    tags.unpack(docs)
    ids = list(dict.fromkeys(str(doc.id) for doc in docs))
    stored = index.get(ids, include_embedding=True, include_image=True)
    held = {str(doc.id): doc for doc in stored}
    for doc in docs:
        if (old := held.get(str(doc.id))) is not None:
            _merge(old, doc)
    if held:
        index.add(DocList[ClipDoc](held.values()))
    return {"updated": len(held), "missing": [one for one in ids if one not in held]}


def _merge(old: ClipDoc, new: ClipDoc) -> None:
    for field in ("text", "label", "uri"):
        if (value := getattr(new, field)) is not None:
            setattr(old, field, value)
    if new.image is not None:
        old.image, old.image_digest = new.image, None
        old.embedding, old.model_digest = new.embedding, new.model_digest
    merged = {**old.tags, **new.tags}
    old.tags = {name: value for name, value in merged.items() if value is not None}
