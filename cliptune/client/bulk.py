"""Indexing millions: read and sent at once, without what is there already, and nothing lost."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from docarray import DocList

from cliptune.client.client import Client
from cliptune.client.retries import Retries
from cliptune.data.pictures.images import image_bytes
from cliptune.data.pictures.slices import place_of
from cliptune.documents import ClipDoc
from cliptune.errors import BadInput, CliptuneError, ModelMismatch
from cliptune.index.checks import check_id
from cliptune.index.tags import same_tags
from cliptune.protocol.redaction import shown_link

PATIENCE = Retries(6, first_pause=2.0, longest_pause=30.0)
"""A batch is sent again while the server can't be reached, for about a minute."""


@dataclass(frozen=True)
class LeftOut:
    """A document that was not indexed."""

    id: str
    uri: str | None
    reason: str


@dataclass
class Indexed:
    """What `index_all` has done."""

    indexed: int = 0
    """Documents sent and stored."""
    unchanged: int = 0
    """Documents that the index had already, as they are."""
    left_out: list[LeftOut] = field(default_factory=list)
    """Those that could not be read, or that the server refused."""

    @property
    def seen(self) -> int:
        """Documents dealt with."""
        return self.indexed + self.unchanged + len(self.left_out)


def index_all(
    client: Client,
    docs: Iterable[ClipDoc],
    *,
    batch_size: int = 64,
    workers: int = 4,
    progress: Callable[[Indexed], None] = lambda so_far: None,
) -> Indexed:
    """Index `docs`, but those which the server's index has already, as they are.

    A document is there already if the index, of the model that the server serves, has its id with
    the same picture (by SHA-256), text, label, link and tags. So what was cut short goes on when it
    is repeated, and a catalogue that has changed a little is brought up to date in the time that
    reading it takes.

    Several batches are under way at once: while the server embeds one, others are read.

    Args:
        client: of a search Flow.
        docs: with `image`, a `data:` URI or a local path; read one batch after the other, so
            that they may be more than the memory holds.
        batch_size: documents in a batch.
        workers: batches under way at once.
        progress: called after each batch.

    Returns:
        The counts, and which documents were left out and why.

    Raises:
        ModelMismatch: the index holds embeddings of another model.
        Unavailable: the server can't be reached, or can't store more. Call again to go on.
    """
    if workers < 1:
        raise BadInput(f"workers is {workers}: expected 1 or more")
    done = Indexed()
    _check_model(client)
    with ThreadPoolExecutor(workers, thread_name_prefix="cliptune-index") as pool:
        under_way: deque[Future[Indexed]] = deque()
        try:
            for batch in _batches(docs, batch_size):
                under_way.append(pool.submit(_index_batch, client, batch))
                if len(under_way) > workers:
                    _add(done, under_way.popleft().result(), progress)
            while under_way:
                _add(done, under_way.popleft().result(), progress)
        finally:
            for future in under_way:
                future.cancel()
    return done


def _check_model(client: Client) -> None:
    status = client.status()
    if not status["searchable"]:
        raise ModelMismatch(
            "the index holds embeddings of another model than the server serves: clear it, or "
            "serve its model"
        )


def _batches(docs: Iterable[ClipDoc], batch_size: int) -> Iterator[list[ClipDoc]]:
    if batch_size < 1:
        raise BadInput(f"batch_size is {batch_size}: expected 1 or more")
    iterator = iter(docs)
    while batch := list(islice(iterator, batch_size)):
        yield batch


def _add(done: Indexed, batch: Indexed, progress: Callable[[Indexed], None]) -> None:
    done.indexed += batch.indexed
    done.unchanged += batch.unchanged
    done.left_out += batch.left_out
    progress(done)


def _index_batch(client: Client, batch: list[ClipDoc]) -> Indexed:
    done = Indexed()
    read = []
    for doc in batch:
        try:
            check_id(doc.id)
            image = image_bytes(doc, allow_files=True)
        except BadInput as error:
            done.left_out.append(LeftOut(str(doc.id), doc.uri, str(error)))
            continue
        digest = hashlib.sha256(image).hexdigest()
        fields = {"image": image, "image_digest": digest, "uri": place_of(doc.uri), "texts": None}
        read.append(doc.model_copy(update=fields))
    ids = [str(doc.id) for doc in read]
    stored = PATIENCE.call(lambda: client.get(ids)) if ids else DocList[ClipDoc]()
    there = {doc.id: doc for doc in stored}
    changed = [doc for doc in read if not _same(doc, there.get(doc.id))]
    done.unchanged = len(read) - len(changed)
    if changed:
        indexed, refused = PATIENCE.call(lambda: _send(client, changed))
        done.indexed += indexed
        done.left_out += refused
    return done


def _same(doc: ClipDoc, other: ClipDoc | None) -> bool:
    fields = ("image_digest", "text", "label")
    return (
        other is not None
        and all(getattr(doc, name) == getattr(other, name) for name in fields)
        # Local paths are told to the operator alone, and the picture itself is compared.
        and shown_link(doc.uri) == shown_link(other.uri)
        and same_tags(doc.tags, other.tags)
    )


def _send(client: Client, docs: list[ClipDoc]) -> tuple[int, list[LeftOut]]:
    """Index `docs` but for those at fault: how many, and why the others were refused."""
    refused: list[LeftOut] = []

    def note(error: CliptuneError, failed: DocList[ClipDoc]) -> None:
        if not isinstance(error, BadInput):
            raise error
        refused.extend(LeftOut(str(doc.id), doc.uri, str(error)) for doc in failed)

    batch_size = min(len(docs), client.max_docs)
    return client.index(docs, batch_size, on_error=note), refused
