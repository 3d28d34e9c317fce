"""Data sets for a train Flow: read here, and sent there in parts, unless they are there already."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress

from docarray import DocList

from cliptune.client.grpc_transport import GrpcTransport
from cliptune.client.inputs import MAX_BATCH_BYTES
from cliptune.data.pictures.images import image_bytes
from cliptune.data.tables.options import CsvOptions
from cliptune.data.validation import Needs
from cliptune.documents import ClipDoc
from cliptune.errors import AlreadyExists, CliptuneError
from cliptune.protocol import endpoints

log = logging.getLogger("cliptune")
TableOptions = CsvOptions | Mapping[str, object] | None
_SENT = ("id", "text", "texts", "label", "weight", "grade", "negatives", "tags")
"""What is sent of a document, with its picture."""


class DataSets:
    """The data sets of a train Flow."""

    def __init__(self, transport: GrpcTransport, max_docs: int) -> None:
        """Take the way there, and how many documents are taken in one request."""
        self._transport, self.max_docs = transport, max_docs

    def push(self, data: object, name: str, csv_options: TableOptions, *, replace: bool) -> None:
        """As `RemoteSession.push`."""
        from cliptune.data.source import load_documents

        if not replace and self._is_there(name):
            raise AlreadyExists(f"a data set {name!r} is there already: give replace=True")
        docs = load_documents(data, csv_options=csv_options, role="data")
        sent = DocList[ClipDoc](
            d.model_copy(update={"image": _picture(d), "uri": None}) for d in docs
        )
        self._upload(sent, name, replace=replace)

    def name_of(self, data: object, csv_options: TableOptions, role: str, needs: Needs) -> str:
        """The name that the server knows `data` by, after sending what it doesn't have.

        `role` is what it is for, as the log and errors say. Documents that lack something of
        `needs` stay here, and are named in the log.
        """
        from cliptune.data.source import read_documents
        from cliptune.data.store import is_url, list_pushed
        from cliptune.data.tables.opening import names_table

        is_here = isinstance(data, str) and (names_table(data) or is_url(data))
        if isinstance(data, str) and not is_here and data not in list_pushed():
            return data
        read = read_documents(data, csv_options=csv_options, role=role, needs=needs)
        for level, line in read.summary.lines():
            log.log(logging.getLevelName(level), "%s", line)
        sent = DocList[ClipDoc](
            ClipDoc(image=_picture(doc), **{field: getattr(doc, field) for field in _SENT})
            for doc in read.docs
        )
        name = f"upload-{_digest(sent)[:24]}"
        if not self._is_there(name):
            with suppress(AlreadyExists):  # another client sent the same meanwhile
                self._upload(sent, name)
        return name

    def _is_there(self, name: str) -> bool:
        return self._send(DocList[ClipDoc](), {"name": name})

    def _upload(self, docs: DocList[ClipDoc], name: str, *, replace: bool = False) -> None:
        batches = list(_batches(docs, self.max_docs))
        # Parts of one upload never meet those of another of the same name.
        upload = {"name": name, "upload": uuid.uuid4().hex, "parts": len(batches)}
        for part, batch in enumerate(batches):
            self._send(batch, {**upload, "part": part, "replace": replace})

    def _send(self, docs: DocList[ClipDoc], parameters: Mapping[str, object]) -> bool:
        """Send a part, or ask; returns whether the data set is there then."""
        answer = self._transport.post(endpoints.DATA, docs, parameters)[0].result
        return bool(json.loads(answer)["stored"])


def _digest(docs: DocList[ClipDoc]) -> str:
    """SHA-256 of what training and evaluation read of documents; of ids, where some name others."""
    are_named = any(doc.negatives for doc in docs)
    digest = hashlib.sha256()
    for doc in docs:
        pair = {"weight": doc.weight, "grade": doc.grade, "negatives": doc.negatives}
        named = {name: value for name, value in pair.items() if value is not None}
        further: list[object] = [doc.texts, named, {"id": doc.id} if are_named else None]
        for part in (doc.text, doc.label, doc.image, *filter(None, further)):
            encoded = part if isinstance(part, bytes) else repr(part).encode()
            digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def _picture(doc: ClipDoc) -> bytes | None:
    if doc.image is None and not doc.uri:
        return None
    try:
        return image_bytes(doc, allow_files=True)
    except CliptuneError:
        return b""  # the run counts it among the pictures that can't be read


def _batches(docs: DocList[ClipDoc], max_docs: int) -> Iterator[DocList[ClipDoc]]:
    batch, size = DocList[ClipDoc](), 0
    for doc in docs:
        weight = len(doc.image or b"")
        if batch and (len(batch) == max_docs or size + weight > MAX_BATCH_BYTES):
            yield batch
            batch, size = DocList[ClipDoc](), 0
        batch.append(doc)
        size += weight
    if batch:
        yield batch
