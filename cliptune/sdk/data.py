"""Data sets by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docarray import DocList

    from cliptune.data.source import Data
    from cliptune.data.tables.options import CsvOptions
    from cliptune.documents import ClipDoc


def push(
    data: Data,
    name: str,
    csv_options: CsvOptions | Mapping[str, object] | None = None,
    *,
    replace: bool = False,
) -> None:
    """Store documents, a table or a folder of pictures as the data set `name`.

    `csv_options` are as `fit`'s.

    Raises:
        AlreadyExists: the name is in use and `replace` is not given.
        BadInput: the name is not allowed.
        BadData: `data` can't be read.
    """
    from cliptune.data.source import load_documents
    from cliptune.data.store import push as store

    store(load_documents(data, csv_options=csv_options, role="data"), name, replace=replace)


def pull(name: str) -> DocList[ClipDoc]:
    """The data set `name`: one that was `push`ed, or of the built-in catalogue.

    Raises:
        NotFound: there is none; the message lists near names.
    """
    from cliptune.data.source import load_documents

    return load_documents(name, role="data")
