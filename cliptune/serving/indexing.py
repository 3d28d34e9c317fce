"""What the indexer executor does: documents in and out of an index."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from docarray import DocList

from cliptune.documents import ClipDoc, Match, SearchResult
from cliptune.errors import BadInput
from cliptune.serving import tags
from cliptune.serving.requests import (
    DeleteParameters,
    GetParameters,
    IndexParameters,
    SearchParameters,
    check_docs,
    name,
)

if TYPE_CHECKING:  # importing it imports LanceDB, which must not happen before Jina's fork
    from cliptune.generations.live import LiveIndex
    from cliptune.index import Index

log = logging.getLogger("cliptune")


def add(
    index: Index, docs: DocList[ClipDoc], parameters: IndexParameters | None = None
) -> DocList[ClipDoc]:
    """Store `docs`; returns their ids, and their embeddings if asked for.

    Raises:
        BadInput: a document can't be stored.
        ModelMismatch: the index holds embeddings of another model.
    """
    check_docs(docs)
    tags.unpack(docs)
    index.add(docs)
    if parameters is None or not parameters.include_embedding:
        return DocList[ClipDoc]([ClipDoc(id=doc.id) for doc in docs])
    return DocList[ClipDoc](
        ClipDoc(id=doc.id, embedding=doc.embedding, model_digest=doc.model_digest) for doc in docs
    )


def search(
    index: Index, docs: DocList[ClipDoc], parameters: SearchParameters
) -> DocList[SearchResult]:
    """Each query with its matches; a query's picture and embedding are not sent back.

    Raises:
        BadFilter: the filter is wrong.
        ModelMismatch: the index holds embeddings of another model.
    """
    check_docs(docs)
    by_model: dict[str, list[int]] = {}
    for position, doc in enumerate(docs):
        if doc.embedding is None or doc.model_digest is None:
            raise BadInput(f"{name(position, doc)} has neither a text nor a picture")
        by_model.setdefault(doc.model_digest, []).append(position)
    found: dict[int, DocList[Match]] = {}
    # Several only for a moment, where one encoder has switched to another model before the other.
    for digest, positions in by_model.items():
        matches = index.search(
            np.stack([np.asarray(docs[position].embedding) for position in positions]),
            digest,
            limit=parameters.limit,
            offset=parameters.offset,
            filter=parameters.filter,
            score_threshold=parameters.score_threshold,
            exact=parameters.exact,
        )
        found |= dict(zip(positions, matches, strict=True))
    total = index.count(parameters.filter) if parameters.include_total else None
    results = DocList[SearchResult](
        SearchResult(
            id=doc.id,
            text=doc.text,
            tags=doc.tags,
            model_digest=doc.model_digest,
            matches=found[position],
            total=total,
        )
        for position, doc in enumerate(docs)
    )
    tags.pack(results)
    return results


def delete(index: Index, docs: DocList[ClipDoc], parameters: DeleteParameters) -> dict[str, Any]:
    """Delete by ids (of `docs`, or the parameter) or by filter.

    Raises:
        BadInput: neither is given.
        BadFilter: the filter is wrong.
    """
    ids = [str(doc.id) for doc in docs] + list(parameters.ids or [])
    if not ids and parameters.ids is None and parameters.filter is None:
        raise BadInput("delete needs ids or a filter; clear deletes everything")
    given = parameters.ids is not None or bool(docs)
    return {"deleted": index.delete(ids=ids if given else None, filter=parameters.filter)}


def get(index: Index, docs: DocList[ClipDoc], parameters: GetParameters) -> DocList[ClipDoc]:
    """The stored documents with the ids of `docs`."""
    check_docs(docs)
    found = index.get(
        [str(doc.id) for doc in docs],
        include_embedding=parameters.include_embedding,
        include_image=parameters.include_image,
    )
    tags.pack(found)
    return found


def status(index: LiveIndex) -> dict[str, Any]:
    """The current generation's index, all generations, and how far a swap is."""
    from cliptune.generations.progress import read_progress

    found = index.status().to_dict()
    if generations := index.generations():
        found["generations"] = generations
    if progress := read_progress(index.state):
        found["swap"] = progress
    # Where `cliptune swap` finds what it works on.
    found |= {"index_uri": _shown(index.state.index_uri), "state": str(index.state.folder)}
    return found


def _shown(uri: str) -> str:
    """A URI without the name and password that it may hold."""
    parts = urlsplit(uri)
    if not parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class Tidier:
    """Optimises an index in the background, once its writes have paused."""

    def __init__(self, index: Index, pause: float = 5.0) -> None:
        """Begin to wait for writes.

        Args:
            index: it is searched and written to meanwhile, as its interface allows.
            pause: seconds without a write before the work starts.
        """
        self.index = index
        self.pause = pause
        self._written = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="cliptune-tidy", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Note that something was written."""
        self._written.set()

    def close(self) -> None:
        """End after what is being done now."""
        self._ended.set()
        self._written.set()
        self._thread.join(timeout=30)

    def _work(self) -> None:
        while not self._ended.is_set():
            self._written.wait()
            while self._written.is_set() and not self._ended.is_set():
                self._written.clear()
                self._ended.wait(self.pause)
            if self._ended.is_set():
                return
            try:
                if self.index.status().optimize_due:
                    self.index.optimize()
            except Exception:
                log.exception("the index could not be optimised; it is searched as it is")
