"""Finding again what an index holds that has lost what says so: all its generations."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cliptune.errors import DamagedIndex, NotFound
from cliptune.index.lance.repair import repair_folder
from cliptune.index.metadata import Repaired
from cliptune.index.open import folder_of
from cliptune.index.versions import locks
from cliptune.index.versions.manifest import MANIFEST, Generations
from cliptune.models.loading import load_model

if TYPE_CHECKING:
    from cliptune.models.loading import ClipModel


def repair(
    index_uri: str | Path,
    generations_folder: str | Path | None = None,
    *,
    artifact: str | Path | None = None,
    table: str | None = None,
) -> list[Repaired]:
    """Make anew what is missing or damaged of what says which tables an index has.

    Args:
        index_uri: as `open_index` takes it.
        generations_folder: where its manifest is; None: `manifest.default_folder`.
        artifact: the model whose embeddings these are, where the tables don't say.
        table: which one is the index, where several have documents.

    Returns:
        What was made anew; nothing, if the index is as it should be.

    Raises:
        NotFound: there is nothing that could be found again.
        BadInput: the table or the artifact must be given.
        DamagedIndex: it can't be known what the index is.
        ModelMismatch: the artifact didn't make the embeddings.
    """
    generations = Generations(index_uri, generations_folder)
    folder = folder_of(generations.index_uri)
    if folder is not None and not folder.is_dir():
        raise NotFound(f"no index at {generations.index_uri!r}")
    done = []
    if generations.folder.is_dir():
        with locks.swapping(generations.folder):
            done += _repair_manifest(generations)
    if folder is None:
        from cliptune.index.milvus.collection import repair_alias
        from cliptune.index.milvus.server import MilvusAddress, options_of

        address = MilvusAddress.parse(generations.index_uri)
        renamed = repair_alias(address, options_of(address, {}), table)
        return done + ([renamed] if renamed else [])
    folders = {0: folder}
    for path in folder.glob("generation-*"):
        if (name := path.name.removeprefix("generation-")).isdigit() and path.is_dir():
            folders[int(name)] = path
    for number, one in folders.items():
        repaired = repair_folder(
            one,
            table=table if not number else None,
            model=partial(_model, generations.folder / str(number) / "artifact", artifact),
        )
        done += [repaired] if repaired else []
    return done


def _model(kept: Path, given: str | Path | None) -> ClipModel | None:
    """A generation's model: the one kept, or else the one given."""
    if kept.is_dir():
        return load_model(kept)
    return load_model(given) if given is not None else None


def _repair_manifest(generations: Generations) -> list[Repaired]:
    try:
        generations.read()
        return []
    except DamagedIndex as error:
        manifest = generations.read_copy()
        if manifest is None:
            raise DamagedIndex(
                f"{error}. Its copy is gone too, so that it can't be known which generation was "
                "served: look at each by `cliptune serve --index INDEX/generation-N --artifact "
                f"{generations.folder}/N/artifact`"
            ) from None
    path = generations.folder / MANIFEST
    if path.exists():
        os.replace(path, path.with_name(f"{MANIFEST}.damaged"))
    generations.write(manifest)
    return [Repaired(str(path), len(manifest.by_slot))]
