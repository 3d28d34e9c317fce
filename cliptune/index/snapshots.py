"""Snapshots: an index's documents in a folder of Parquet files, for any store to restore.

snapshot/
  manifest.json             whose embeddings, how many documents, each file's SHA-256
  documents-00000.parquet   id, text, uri, label, tags (JSON), image, image_digest, embedding
  …
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from docarray import DocList
from pydantic import BaseModel, Field, ValidationError

from cliptune.documents import ClipDoc
from cliptune.errors import AlreadyExists, BadData, BadInput, NotFound
from cliptune.files import new_folder, write_text
from cliptune.index.base import Index
from cliptune.index.lance.rows import to_docs
from cliptune.index.migrate import BATCH
from cliptune.index.tags import plain_tags, to_json

FORMAT = 1
MANIFEST = "manifest.json"
_BATCHES_A_FILE = 40
_TEXTS = ("id", "text", "uri", "label", "image_digest")


class Part(BaseModel):
    """One of a snapshot's files."""

    name: str = Field(pattern=r"^documents-\d{5,}\.parquet$")
    rows: int
    sha256: str


class SnapshotManifest(BaseModel):
    """What a snapshot holds."""

    format: int
    model_digest: str | None
    dim: int | None
    rows: int
    images: bool
    """Whether the pictures' bytes are there."""
    created: str
    files: list[Part]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest in `folder`.

        Raises:
            NotFound: there is none.
            BadData: it can't be used, or a newer cliptune wrote it.
        """
        path = folder / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.get("format", 0) > FORMAT:
                raise BadData(f"{path}: of format {content['format']}; upgrade cliptune to read it")
            return cls.model_validate(content)
        except OSError as error:
            raise NotFound(f"{folder} is no snapshot: {path.name}: {error.strerror}") from error
        except (ValueError, AttributeError, ValidationError) as error:
            raise BadData(f"{path}: not the manifest of a snapshot ({error})") from error


def write_snapshot(
    index: Index,
    folder: str | Path,
    *,
    include_images: bool = True,
    progress: Callable[[int], None] = lambda done: None,
) -> SnapshotManifest:
    """Write all documents of `index` to a new `folder`, whole or not at all.

    A folder's index is written as it was when the snapshot began, while searches and writes go
    on. Of another store each document is as it was when it was read.

    Args:
        index: read from.
        folder: must not exist.
        include_images: the pictures' bytes too; without them the snapshot is small, and what is
            restored can't show pictures nor be embedded by another model.
        progress: called with the number of documents written so far.

    Raises:
        AlreadyExists: there is something at `folder`.
    """
    folder = Path(folder).expanduser().absolute()
    if folder.exists():
        raise AlreadyExists(f"{folder}: a snapshot is a new folder, and this exists")
    with new_folder(folder, private=True) as beside:
        batches = index.scan(batch_size=BATCH, include_embedding=True, include_image=include_images)
        files: list[Part] = []
        digest, dim = None, None
        while first := next(batches, None):
            path = beside / f"documents-{len(files):05d}.parquet"
            rows, digest, dim = 0, first[0].model_digest, len(np.asarray(first[0].embedding))
            with pq.ParquetWriter(path, _schema(dim)) as writer:
                for batch in (first, *islice(batches, _BATCHES_A_FILE - 1)):
                    writer.write_table(_to_table(batch, writer.schema))
                    rows += len(batch)
            files.append(Part(name=path.name, rows=rows, sha256=_sha256(path)))
            progress(sum(part.rows for part in files))
        manifest = SnapshotManifest(
            format=FORMAT,
            model_digest=digest,
            dim=dim,
            rows=sum(part.rows for part in files),
            images=include_images,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            files=files,
        )
        write_text(beside / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    return manifest


def restore_snapshot(
    folder: str | Path,
    index: Index,
    *,
    replace: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> SnapshotManifest:
    """Write the documents of the snapshot in `folder` to `index`, which then holds just these.

    All files are checked against the manifest before anything is written.

    Args:
        folder: as `write_snapshot` made it.
        index: empty, unless `replace` is given. After a restore that was cut short, repeat it
            with `replace`.
        replace: clear the index first.
        progress: called with the number of documents written so far.

    Raises:
        NotFound: `folder` is no snapshot.
        BadData: a file is missing or damaged; the index is as it was.
        BadInput: the index isn't empty.
    """
    folder = Path(folder).expanduser().absolute()
    manifest = SnapshotManifest.read(folder)
    for part in manifest.files:
        path = folder / part.name
        if not path.is_file() or _sha256(path) != part.sha256:
            raise BadData(f"{path} is missing or damaged: the snapshot can't be restored")
    if index.count() and not replace:
        raise BadInput(
            f"{index.status().uri} holds {index.count()} documents: restore into an empty index, "
            "or replace what it holds"
        )
    index.clear()
    done = 0
    for part in manifest.files:
        for batch in pq.ParquetFile(folder / part.name).iter_batches(batch_size=BATCH):
            rows = pa.Table.from_batches([batch])
            index.add(DocList[ClipDoc](to_docs(rows, str(manifest.model_digest))))
            done += len(batch)
            progress(done)
    return manifest


def _schema(dim: int) -> pa.Schema:
    return pa.schema(
        [
            *(pa.field(name, pa.string()) for name in _TEXTS),
            pa.field("tags", pa.string()),
            pa.field("image", pa.large_binary()),
            pa.field("embedding", pa.list_(pa.float32(), dim)),
        ]
    )


def _to_table(docs: DocList[ClipDoc], schema: pa.Schema) -> pa.Table:
    columns = {
        **{name: [getattr(doc, name) for doc in docs] for name in _TEXTS},
        "tags": [to_json(plain_tags(doc.tags)) for doc in docs],
        "image": [doc.image for doc in docs],
        "embedding": [np.asarray(doc.embedding) for doc in docs],
    }
    return pa.table(columns, schema=schema)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
