"""Documents in a run's folder: protobuf in parts, so that memory stays bounded; never pickle."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

from docarray import DocList

from cliptune.data.source import DataSetName, load_documents
from cliptune.documents import ClipDoc
from cliptune.errors import BadData
from cliptune.runs.record import DataReference

_PART = 512


def store_documents(docs: Sequence[ClipDoc], folder: Path) -> None:
    """Write `docs` into the new folder `folder`.

    Relative paths of pictures become absolute: the run may go on in another working directory.
    """
    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, len(docs), _PART)):
        part = DocList[ClipDoc]([_anchored(doc) for doc in docs[start : start + _PART]])
        part.save_binary(folder / f"part-{number:06d}", protocol="protobuf")


def stored_documents(folder: Path, count: int) -> DocList[ClipDoc]:
    """The `count` documents that were written into `folder`, in their order.

    Raises:
        BadData: some are missing.
    """
    docs = DocList[ClipDoc]()
    for part in sorted(folder.glob("part-*")):
        docs.extend(DocList[ClipDoc].load_binary(part, protocol="protobuf", streaming=True))
    if len(docs) != count:
        raise BadData(f"{folder} holds {len(docs)} documents, {count} were written")
    return docs


def is_reference(value: object) -> TypeGuard[DataReference]:
    """Whether `value`, of a run's record, stands for documents (see `cliptune.runs.plan`)."""
    return isinstance(value, dict) and ("stored" in value or "name" in value)


def referred_documents(reference: DataReference, folder: Path) -> DocList[ClipDoc]:
    """The documents that a reference in the record of the run in `folder` stands for.

    Raises:
        NotFound, BadData: they are not there any more.
    """
    if "stored" in reference:
        return stored_documents(folder / "data" / reference["stored"], reference["documents"])
    return load_documents(DataSetName(reference["name"]))


def _anchored(doc: ClipDoc) -> ClipDoc:
    uri = doc.uri
    if not uri or "://" in uri or uri.startswith("data:") or os.path.isabs(uri):
        return doc
    return doc.model_copy(update={"uri": os.path.abspath(uri)})
