"""What commands are given: tables, read and told about; runs and artifacts, and their models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cliptune.cli.terminal import notices
from cliptune.errors import CliptuneError, NotFound

if TYPE_CHECKING:
    from docarray import DocList

    from cliptune.data.summary import DataSummary
    from cliptune.data.tables.options import CsvOptions
    from cliptune.data.validation import Needs
    from cliptune.documents import ClipDoc
    from cliptune.models.loading import ClipModel


def read(data: str, table: CsvOptions, role: str, needs: Needs) -> DocList[ClipDoc]:
    """The documents of `data` that have all of `needs`; says what was understood."""
    from cliptune.data.source import read_documents

    given = read_documents(data, csv_options=table, role=role, needs=needs)
    tell(given.summary)
    return given.docs


def read_searched(
    queries: str, index: str | None, table: CsvOptions, role: str = "", *, readable: bool = False
) -> tuple[DocList[ClipDoc], DocList[ClipDoc]]:
    """Queries, and the pictures that they search (None: their own); says what was understood.

    With `readable`, pictures that can't be decoded are left out, too: for what would stop at one.

    Raises:
        NotFound, BadData: as `read_documents`; or more than a tenth of the pictures can't be read.
    """
    from cliptune.data.pictures.pixels import readable_only
    from cliptune.data.validation import ANSWER, QUERY

    if index is None:
        docs = read(queries, table, f"{role}queries", QUERY | ANSWER)
        docs = readable_only(docs) if readable else docs
        return docs, docs
    query_docs = read(queries, table, f"{role}queries", QUERY)
    index_docs = read(index, table, f"{role}index", ANSWER)
    return query_docs, readable_only(index_docs) if readable else index_docs


def tell(summary: DataSummary) -> None:
    """Tell on stderr what was understood of a data set."""
    for level, line in summary.lines():
        style = "yellow" if level == "WARNING" else None
        notices.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def table_options_of(model: str | Path) -> Mapping[str, object] | None:
    """How the tables were read that a run, or the artifact at a path, was fine-tuned on."""
    from cliptune.models.artifact import is_artifact, open_artifact
    from cliptune.sdk.models import find_artifact

    try:
        path = find_artifact(model)
        if not is_artifact(path):
            return None
        # No tower's weights are checked for it: whoever loads them does.
        config = open_artifact(path, only=()).config
    except (CliptuneError, OSError):
        return None  # a model's name, or one that can't be opened: loading it says why
    kept = config.get("csv_options")
    return kept if isinstance(kept, dict) else None


def index_there(uri: str) -> str:
    """The address of an index that is there already, whatever the working directory.

    Raises:
        NotFound: there is no such folder.
    """
    from cliptune.index.open import absolute_uri

    if "://" in uri:
        return uri
    folder = Path(uri).expanduser()
    if not folder.is_dir():
        raise NotFound(f"no index at {uri!r}")
    return absolute_uri(folder)


def load_tuned(run: str) -> ClipModel:
    """The model of a run's name or of an artifact's path.

    Raises:
        NotFound: neither is there.
        NotReady, RunFailed: the run has no artifact.
    """
    from cliptune.models.loading import load_model, pick_device
    from cliptune.sdk.models import find_artifact

    return load_model(find_artifact(run), device=str(pick_device(None)))


def load_pretrained(tuned: ClipModel, before: str | None) -> ClipModel:
    """The model `before`, or else the base model of `tuned`, on the same device.

    Raises:
        CliptuneError: it can't be loaded, as `load_model` says.
    """
    from cliptune.models.loading import load_model

    device = str(next(tuned.clip.parameters()).device)
    if before is not None:
        return load_model(before, device=device)
    try:
        return load_model(tuned.base, device=device)
    except CliptuneError as error:
        raise type(error)(f"no base model, so give one by --before: {error}") from error
