"""`cliptune-index.json`: which table of a folder is the index, and whose embeddings it holds.

The file is the index's one pointer: it is written whole (beside, then renamed), after the table
that it names, and removed before that table is.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

from cliptune.errors import BadInput, DamagedIndex
from cliptune.files import write_text
from cliptune.index.durable import sync_path
from cliptune.index.storage import Storage, check_storage

STAMP_NAME = "cliptune-index.json"
REPAIR = "`cliptune index repair {folder}` finds the tables and makes it anew"
"""What a user can do whose index has lost what says which tables it has."""
FORMAT = 2
"""The newest format that is read. 2 has `storage`; what is kept as float32 is still written as 1,
which earlier versions of cliptune can read."""


def _version() -> str:
    try:
        return metadata.version("cliptune")
    except metadata.PackageNotFoundError:  # run from a checkout that isn't installed
        return "(not installed)"


def created_by() -> str:
    """This cliptune and its version, as stamps name it."""
    return f"cliptune {_version()}"


@dataclass(frozen=True)
class Stamp:
    """The stamp's content."""

    table: str
    """Name of the table in the folder."""
    model_digest: str
    dim: int
    storage: Storage = "float32"
    """How the embeddings are kept."""
    created_by: str = field(default_factory=created_by)


def read_stamp(folder: Path) -> Stamp | None:
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
        found = json.loads(text)
        version = int(found["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedIndex(
            f"{path}: not the stamp of a cliptune index ({error!r}); {advice}"
        ) from error
    if version > FORMAT:
        raise BadInput(
            f"{path}: the index was written in format {version} by "
            f"{found.get('created_by', 'a newer cliptune')!s:.80}; this cliptune "
            f"{_version()} reads formats up to {FORMAT}. Upgrade cliptune"
        )
    try:
        stamp = Stamp(
            table=found["table"],
            model_digest=found["model_digest"],
            dim=found["dim"],
            storage=check_storage(found.get("storage", "float32")),
            created_by=str(found.get("created_by", "")),
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


def write_stamp(folder: Path, stamp: Stamp) -> None:
    """Write the stamp durably."""
    content = asdict(stamp)
    if stamp.storage == "float32":
        del content["storage"]
    content["version"] = FORMAT if "storage" in content else 1
    write_text(folder / STAMP_NAME, json.dumps(content, indent=2) + "\n", private=True)
    sync_path(folder)


def remove_stamp(folder: Path) -> None:
    """Remove the stamp durably."""
    (folder / STAMP_NAME).unlink(missing_ok=True)
    sync_path(folder)
