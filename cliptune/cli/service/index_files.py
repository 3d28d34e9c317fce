"""`cliptune index migrate|snapshot|restore|repair|tune`: indexes as a whole, opened directly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cliptune.cli.inputs import index_there
from cliptune.cli.options import of_setting
from cliptune.cli.terminal import console, progress_bar
from cliptune.errors import BadInput, NotFound
from cliptune.index.metadata import RECALL

if TYPE_CHECKING:
    import numpy as np

    from cliptune.index.base import Index
    from cliptune.index.versions.versioned_index import VersionedIndex

Uri = Annotated[
    str, typer.Argument(help="An index: its folder, or http://host:19530/collection in Milvus.")
]


def register(group: typer.Typer) -> None:
    """Add the commands to `cliptune index`."""
    group.command(epilog="Example: cliptune index tune shop-index --artifact tuned.zip")(tune)
    group.command(epilog="Example: cliptune index repair shop-index")(repair)
    group.command(epilog="Example: cliptune index migrate shop-index http://milvus:19530/shop")(
        migrate
    )
    group.command(epilog="Example: cliptune index snapshot shop-index backups/2026-11-24")(snapshot)
    group.command(epilog="Example: cliptune index restore backups/2026-11-24 shop-index")(restore)


def migrate(
    source: Uri,
    target: Uri,
    storage: Annotated[
        str | None,
        typer.Option(
            help="How a new folder keeps embeddings: float32, or float16 at half the room."
        ),
    ] = None,
) -> None:
    """Copy an index into another one, of another kind or elsewhere.

    Both are opened directly; the source may be served meanwhile. After an interruption, give the
    same command again: it goes on where it was. In the end the numbers are compared, and a sample
    of the documents and searches.
    """
    from cliptune.index.migrate import migrate as copy

    with (
        _existing(source) as there,
        _open(target, storage) as new,
        progress_bar(stays=True) as report,
    ):
        total = there.count()
        done = copy(there, new, progress=lambda done: report("copying", done, total))
    others = f"; {done.others} others stay in the target" if done.others else ""
    console.print(
        f"{done.copied} documents copied, {done.unchanged} were there already{others}. "
        f"{done.compared} were compared: all the same"
    )


def snapshot(
    index: Uri,
    folder: Annotated[Path, typer.Argument(help="The new folder to write.")],
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="The pictures themselves too.")
    ] = True,
) -> None:
    """Write all documents of an index to a folder of Parquet files, while it is served."""
    from cliptune.index.snapshots import write_snapshot

    with _existing(index) as there, progress_bar(stays=True) as report:
        total = there.count()
        written = write_snapshot(
            there,
            folder,
            include_images=pictures,
            progress=lambda done: report("writing", done, total),
        )
    console.print(f"{written.rows} documents in {folder}")


def restore(
    snapshot: Annotated[Path, typer.Argument(help="A snapshot's folder.")],
    index: Uri,
    replace: Annotated[bool, typer.Option("--replace", help="Clear the index first.")] = False,
) -> None:
    """Fill an index with a snapshot's documents, of which the files are checked first."""
    from cliptune.index.snapshots import SnapshotManifest, restore_snapshot

    rows = SnapshotManifest.read(snapshot).rows
    with _open(index) as target, progress_bar(stays=True) as report:
        restore_snapshot(
            snapshot,
            target,
            replace=replace,
            progress=lambda done: report("restoring", done, rows),
        )
    console.print(f"{rows} documents in {index}")


def repair(
    index: Uri,
    artifact: Annotated[
        str | None,
        typer.Option(help="The model that made the embeddings, where the tables don't say."),
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="Which table is the index, where several have documents.")
    ] = None,
    state: Annotated[Path | None, of_setting("generations", "--state")] = None,
) -> None:
    """Find the tables of an index again that has lost what says which they are.

    Give it where the index is, with the server stopped. Nothing is deleted: a file that can't be
    used is kept beside as *.damaged.
    """
    from cliptune.index.versions.repair import repair as repair_index
    from cliptune.sdk.models import find_artifact

    model = None if artifact is None else find_artifact(artifact)
    done = repair_index(index, state, artifact=model, table=table)
    for one in done:
        console.print(f"made anew: {one.what}", highlight=False, soft_wrap=True)
    if not done:
        console.print("The index is as it should be: nothing was changed.")


def tune(
    index: Uri,
    artifact: Annotated[
        str | None,
        typer.Option(help="The index's model: it is tuned for titles, embedded by it."),
    ] = None,
    recall: Annotated[
        float, typer.Option(help="So much of each query's ten nearest is to be found.")
    ] = RECALL,
    queries: Annotated[int, typer.Option(min=10, max=10_000, help="How many are asked.")] = 200,
) -> None:
    """Measure what searches find, and choose the cheapest that find enough.

    Searches through the ANN index of a folder are compared with exact ones, while it is served.
    The choice is kept in the index and holds from the next search on. With --artifact the queries
    are titles of documents, as people's are; without, documents' own embeddings, which are easier.
    """
    with _existing(index) as there, progress_bar(stays=True) as report:
        asked, digest = None, None
        if artifact is not None:
            asked, digest = _embedded_titles(there, artifact, queries)
        tuned = there.tune(
            asked,
            digest,
            recall=recall,
            progress=lambda done, most: report("measuring", done, most),
        )
    console.print(
        f"{tuned.nprobes} partitions are searched, and {tuned.refine_factor} times the matches "
        f"compared exactly: {tuned.recall:.1%} of the ten nearest found",
        highlight=False,
    )
    if tuned.recall < recall:
        console.print(f"[yellow]No setting finds {recall:.1%}: this one finds most.[/]")


def _embedded_titles(index: Index, artifact: str, count: int) -> tuple[np.ndarray, str]:
    """Titles of documents, embedded: float32 [Q, D] and the model's digest."""
    from cliptune.inference.encode import encode
    from cliptune.inference.engines import get_tower
    from cliptune.models.loading import load_model
    from cliptune.sdk.models import find_artifact

    titles: dict[str, None] = {}
    for batch in index.scan():
        titles |= dict.fromkeys(str(doc.text) for doc in batch if doc.text)
        if len(titles) >= count:
            break
    if not titles:
        raise BadInput("no document has a title: leave --artifact out, to ask by documents")
    tower = get_tower(load_model(find_artifact(artifact)), "clip-text")
    return encode(tower, list(titles)[:count]), tower.digest


def _existing(uri: str) -> VersionedIndex:
    """The index at `uri`; one that isn't there is not made."""
    index = _open(index_there(uri))
    if "://" in uri and index.status().model_digest is None:
        index.close()
        raise NotFound(f"no index at {uri!r}, or an empty one")
    return index


def _open(uri: str, storage: str | None = None) -> VersionedIndex:
    """The index at `uri`: of several generations, the current one's."""
    from cliptune.index.versions.versioned_index import VersionedIndex
    from cliptune.settings import Settings

    return VersionedIndex(uri, Settings.read().generations_of(uri), storage=storage)
