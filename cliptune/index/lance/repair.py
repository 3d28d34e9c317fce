"""Making anew what says which tables an index has, from the tables themselves.

For an index that raises `DamagedIndex`. It is done where the index is, while nobody has it open.
Nothing is ever removed; of what is there, a file that can't be used is kept beside as `*.damaged`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from cliptune.errors import AlreadyExists, BadInput, DamagedIndex, ModelMismatch, NotFound
from cliptune.index.durable import file_lock
from cliptune.index.lance.folder import WRITE_LOCK, table_names
from cliptune.index.lance.rows import TableNote, to_docs
from cliptune.index.metadata import STAMP_NAME, Repaired, Stamp, Storage

if TYPE_CHECKING:
    from lancedb.table import Table

    from cliptune.models.loading import ClipModel

SAMPLE = 8
"""Documents by which it is checked that a model made an index's embeddings."""
LEAST_COSINE = 0.99
"""Engines and precisions differ by less; models by far more."""


@dataclass(frozen=True)
class FoundTable:
    """A table of documents in an index's folder."""

    name: str
    rows: int
    dim: int
    storage: Storage
    model_digest: str | None
    """Whose embeddings these are; None: an earlier cliptune made it, and it doesn't say."""


def find_tables(folder: Path) -> list[FoundTable]:
    """The tables in an index's folder that can be read, the largest first.

    Raises:
        DamagedIndex: none of those that are there can be read.
    """
    from cliptune.index.lance.library import lancedb

    database = lancedb.connect(str(folder))
    tables, problems = [], []
    for name in table_names(folder):
        try:
            tables.append(_describe(name, database.open_table(name)))
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            problems.append(f"{name}: {str(error).splitlines()[0]:.200}")
    if problems and not tables:
        raise DamagedIndex(f"{folder}: no table can be read: {'; '.join(problems)}")
    return sorted(tables, key=lambda one: -one.rows)


def repair_folder(
    folder: Path,
    *,
    table: str | None = None,
    model: Callable[[], ClipModel | None] = lambda: None,
) -> Repaired | None:
    """Write the stamp of the index in `folder` anew; None if it is as it should be.

    Args:
        folder: an index's, or a generation's.
        table: which table is the index, where there are several with documents.
        model: loads the one that made the embeddings, where the table doesn't say. It is checked:
            stored documents are embedded again.

    Raises:
        NotFound: there is no table, or not this one.
        BadInput: the table or the model must be named.
        ModelMismatch: `model` didn't make these embeddings.
    """
    with file_lock(folder / WRITE_LOCK, 0):
        tables = find_tables(folder)
        if _is_sound(folder, tables):
            return None
        chosen = _choose(folder, tables, table)
        digest = chosen.model_digest or _digest_of(folder, chosen, model())
        _keep_aside(folder / STAMP_NAME)
        Stamp(digest, chosen.dim, chosen.name, chosen.storage).write(folder)
    return Repaired(str(folder / STAMP_NAME), chosen.rows)


def _is_sound(folder: Path, tables: list[FoundTable]) -> bool:
    try:
        stamp = Stamp.read(folder)
    except DamagedIndex:
        return False
    if stamp is None:
        return not tables
    return any(
        one.name == stamp.table
        and one.dim == stamp.dim
        and one.storage == stamp.storage
        and one.model_digest in (stamp.model_digest, None)
        for one in tables
    )


def _describe(name: str, table: Table) -> FoundTable:
    kind = table.schema.field("embedding").type
    storage: Storage = "float16" if kind.value_type == pa.float16() else "float32"
    note = TableNote.of(table)
    return FoundTable(
        name, table.count_rows(), kind.list_size, storage, note.model_digest if note else None
    )


def _choose(folder: Path, tables: list[FoundTable], table: str | None) -> FoundTable:
    listed = ", ".join(f"{one.name} ({one.rows} documents)" for one in tables)
    if table is not None:
        for one in tables:
            if one.name == table:
                return one
        raise NotFound(f"{folder} has no table {table!r}; there are {listed or 'none'}")
    held = [one for one in tables if one.rows] or tables
    if not held:
        raise NotFound(f"{folder} has no table of documents: there is nothing to be found again")
    if len(held) > 1:
        raise BadInput(f"{folder} has several tables: {listed}. Name the right one by --table")
    return held[0]


def _digest_of(folder: Path, table: FoundTable, model: ClipModel | None) -> str:
    if model is None:
        raise BadInput(
            f"{folder}: {table.name}, made by an earlier cliptune, doesn't say which model made "
            "its embeddings: give the artifact that was served by --artifact; it is checked"
        )
    cosines = _cosines(folder, table, model)
    if not len(cosines):
        raise BadInput(
            f"{folder}: no document of {table.name} has a picture or a text, so that it can't be "
            "checked which model made its embeddings"
        )
    if np.median(cosines) < LEAST_COSINE:
        raise ModelMismatch(
            f"{folder}: {model.name} didn't make the embeddings of {table.name}: those that it "
            f"makes of the same documents have a cosine of {np.median(cosines):.3f} with them"
        )
    return model.digest


def _cosines(folder: Path, table: FoundTable, model: ClipModel) -> np.ndarray:
    """Between stored embeddings and those that `model` makes of the same documents: [up to N]."""
    from cliptune.index.lance.library import lancedb
    from cliptune.inference import get_tower

    opened = lancedb.connect(str(folder)).open_table(table.name)
    rows = opened.search().select(["id", "text", "uri", "label", "tags", "image", "embedding"])
    docs = to_docs(rows.limit(SAMPLE).to_arrow(), "")
    with_picture = [doc for doc in docs if doc.image is not None]
    texts = [] if with_picture else [doc for doc in docs if doc.text and doc.text.strip()]
    if with_picture:
        made = get_tower(model, "clip-vision").encode([doc.image or b"" for doc in with_picture])
    elif texts:
        made = get_tower(model, "clip-text").encode([str(doc.text) for doc in texts])
    else:
        return np.empty(0)
    kept = np.stack([np.asarray(doc.embedding, np.float64) for doc in with_picture or texts])
    if kept.shape != made.shape:
        return np.zeros(len(kept))
    lengths = np.linalg.norm(kept, axis=1) * np.linalg.norm(made, axis=1)
    return np.asarray(np.sum(kept * made, axis=1) / lengths)


def _keep_aside(path: Path) -> None:
    """Rename a file that can't be used, so that nothing of it is lost."""
    if not path.exists():
        return
    aside = path.with_name(f"{path.name}.damaged")
    if aside.exists():
        raise AlreadyExists(f"{aside} is there from an earlier repair: move it away")
    os.replace(path, aside)
