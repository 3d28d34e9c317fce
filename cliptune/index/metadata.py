"""Whose embeddings an index holds, how it keeps them, and the file that says so in a folder.

`cliptune-index.json`, the stamp, names the folder's one table: it is written whole (beside, then
renamed), after the table that it names, and removed before that table is.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from cliptune.errors import BadInput, DamagedIndex
from cliptune.files import write_text
from cliptune.index.durable import sync_path
from cliptune.version import __version__

Storage = Literal["float32", "float16"]
"""How an index keeps embeddings: as they are, or at half the room."""
STAMP_NAME = "cliptune-index.json"
REPAIR = "`cliptune index repair {folder}` finds the tables and makes it anew"
"""What a user can do whose index has lost what says which tables it has."""
FORMAT = 2
"""The newest format that is read. 2 has `storage`; what is kept as float32 is still written as 1,
which earlier versions of cliptune can read."""
CREATED_BY = f"cliptune {__version__}"
_UNIT_ENOUGH = 1e-3


@dataclass(frozen=True)
class EmbeddingSpace:
    """What makes embeddings comparable: one model made them."""

    model_digest: str
    dim: int


RECALL = 0.98
"""The share of the true ten nearest that an ANN index is tuned to find, where none is named."""


@dataclass(frozen=True)
class TunedSearch:
    """How an index's ANN index is searched, as measured on its own documents."""

    nprobes: int
    """Partitions that are searched."""
    refine_factor: int
    """So many times the matches asked for are scored again with the full embeddings."""
    rows: int
    """Documents that there were."""
    recall: float
    """The share of the true ten nearest that it found."""
    asked: Literal["documents", "queries"] = "documents"
    """What was searched for: documents of the index, or queries that were given."""

    def holds_for(self, rows: int) -> bool:
        """Whether a table of so many rows is still much like the one that was measured."""
        return rows <= 2 * self.rows

    @classmethod
    def from_json(cls, content: object) -> TunedSearch | None:
        """What a stamp says of it; None if it says nothing.

        Raises:
            BadInput: it can't be used.
        """
        if content is None:
            return None
        try:
            tuned = cls(**content)  # type: ignore[arg-type] # else a TypeError
            counts = (tuned.nprobes, tuned.refine_factor, tuned.rows)
            if all(type(one) is int and one > 0 for one in counts):
                return tuned
        except TypeError:
            pass
        raise BadInput(
            f"tuned: expected positive nprobes, refine_factor, rows, got {content!r:.80}"
        )


@dataclass(frozen=True)
class Stamp(EmbeddingSpace):
    """What `cliptune-index.json` says."""

    table: str
    """Name of the table in the folder."""
    storage: Storage = "float32"
    created_by: str = field(default=CREATED_BY)
    tuned: TunedSearch | None = None
    """How it is searched; None: by rule. Earlier versions of cliptune pass over it."""

    @classmethod
    def read(cls, folder: Path) -> Stamp | None:
        """The folder's stamp, None if it has none.

        Raises:
            BadInput: it is of a newer format.
            DamagedIndex: it can't be used.
        """
        path, advice = folder / STAMP_NAME, REPAIR.format(folder=folder)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise DamagedIndex(f"{path}: can't be read ({error})") from error
        try:
            content = json.loads(text)
            version = int(content["version"])
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedIndex(
                f"{path}: not the stamp of a cliptune index ({error!r}); {advice}"
            ) from error
        check_format(path, version, FORMAT, content.get("created_by"))
        try:
            stamp = cls(
                table=content["table"],
                model_digest=content["model_digest"],
                dim=content["dim"],
                storage=check_storage(content.get("storage", "float32")),
                created_by=str(content.get("created_by", "")),
                tuned=TunedSearch.from_json(content.get("tuned")),
            )
        except KeyError as error:
            raise DamagedIndex(f"{path}: the stamp lacks {error}; {advice}") from error
        except BadInput as error:
            raise DamagedIndex(f"{path}: {error}; {advice}") from error
        # The table's name becomes part of a path.
        plain = isinstance(stamp.table, str) and stamp.table.replace("-", "").isalnum()
        if not plain or not isinstance(stamp.model_digest, str) or not isinstance(stamp.dim, int):
            raise DamagedIndex(f"{path}: the stamp has unusable values; {advice}")
        return stamp

    def write(self, folder: Path) -> None:
        """Write it to the folder, durably."""
        content = asdict(self)
        if self.storage == "float32":
            del content["storage"]
        if self.tuned is None:
            del content["tuned"]
        content["version"] = FORMAT if "storage" in content else 1
        write_text(folder / STAMP_NAME, json.dumps(content, indent=2) + "\n", private=True)
        sync_path(folder)

    @staticmethod
    def remove(folder: Path) -> None:
        """Remove the folder's stamp, durably."""
        (folder / STAMP_NAME).unlink(missing_ok=True)
        sync_path(folder)


@dataclass(frozen=True)
class Repaired:
    """What a repair has done."""

    what: str
    """The file, or the name, that was made anew."""
    rows: int
    """Documents that are found again."""


def check_format(where: object, version: int, newest: int, created_by: object) -> None:
    """Raise `BadInput` for an index whose format is newer than the `newest` that is read."""
    if version > newest:
        raise BadInput(
            f"{where}: the index was written in format {version} by "
            f"{created_by or 'a newer cliptune'!s:.80}; this {CREATED_BY} reads formats up to "
            f"{newest}. Upgrade cliptune"
        )


def check_storage(value: object) -> Storage:
    """`value`, if it is a storage that there is; anything else raises `BadInput`."""
    for known in ("float32", "float16"):
        if value == known:
            return known
    raise BadInput(f"storage: expected one of {', '.join(get_args(Storage))}, got {value!r}")


def as_stored(embeddings: np.ndarray, storage: Storage) -> np.ndarray:
    """Embeddings float32 [N, D] as the index keeps them: float32 or float16 [N, D].

    float16 reaches from 6e-8 to 65,504 only, and a cosine is about the direction: what is kept
    has unit length. Its cosine with any query is within 0.0005 of the embedding's, for CLIP's
    embeddings within 0.00005. What comes out of such an index goes into another one unchanged.
    """
    if storage == "float32":
        return embeddings
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    # Rounding leaves the length a little off; those are not scaled, and so not rounded, twice.
    lengths[np.abs(lengths - 1) < _UNIT_ENOUGH] = 1
    return np.asarray(embeddings / lengths, np.float16)
