"""Data sets of Hugging Face's library: folders that it saved, and names on the hub (`hf:ORG/NAME`).

Their tables are Arrow's, mapped from disk. What the hub is asked for, the library keeps in its own
cache; it runs no code of a data set's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cliptune.data.tables.formats.arrow import ArrowRows, readable
from cliptune.errors import BadData, BadInput, NotFound, Unavailable
from cliptune.extras import need

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

HUB = "hf:"
_SAVED, _SAVED_SPLITS = "state.json", "dataset_dict.json"


def is_saved(folder: Path) -> bool:
    """Whether `folder` was written by `save_to_disk`."""
    return (folder / _SAVED).is_file() or (folder / _SAVED_SPLITS).is_file()


def open_saved(folder: Path) -> ArrowRows:
    """The rows of a data set that `save_to_disk` wrote.

    Raises:
        BadData: it is damaged, or has several splits.
    """
    need("datasets", "a data set of Hugging Face's library")
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever reading its JSON and Arrow files comes to
        raise BadData(f"{folder} is no whole data set of save_to_disk: {_words(error)}") from error
    if isinstance(loaded, datasets.DatasetDict):
        splits = sorted(loaded)
        if len(splits) != 1:
            raise BadData(
                f"{folder} has the splits {', '.join(splits)}: give one of them, such as "
                f"{folder / splits[0]}"
                if splits
                else f"{folder} has no splits"
            )
        loaded = loaded[splits[0]]
    return _rows(str(folder), str(folder), loaded)


def open_hub(name: str) -> ArrowRows:
    """The rows of `hf:ORG/NAME`, `hf:ORG/NAME:SPLIT` or `hf:ORG/NAME/CONFIG:SPLIT`.

    Raises:
        BadInput: the name is of another form, or a split has to be named.
        NotFound: there is no such data set, configuration or split.
        Unavailable: the hub can't be reached and the data set isn't kept here.
    """
    need("datasets", "a data set of the hub")
    import datasets

    path, _, split = name.removeprefix(HUB).partition(":")
    parts = path.split("/")
    if not (1 <= len(parts) <= 3 and all(parts)) or path.startswith((".", "~")):
        raise BadInput(f"{name!r}: expected hf:ORG/NAME, or hf:ORG/NAME:SPLIT")
    repository, config = "/".join(parts[:2]), parts[2] if len(parts) == 3 else None
    try:
        loaded = datasets.load_dataset(repository, config, split=split or None)
    except ConnectionError as error:
        raise Unavailable(
            f"{name}: the hub can't be reached, and the data set isn't in the library's cache here "
            f"(HF_DATASETS_CACHE): {_words(error)}"
        ) from error
    except (FileNotFoundError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise NotFound(f"{name}: {_words(error)}") from error
    if isinstance(loaded, dict):
        splits = sorted(map(str, loaded))
        if len(splits) != 1:
            raise BadInput(
                f"{name} has the splits {', '.join(splits)}: give one, such as {name}:{splits[0]}"
            )
        loaded = loaded[splits[0]]
    return _rows(name, ".", loaded)


def _rows(where: str, root: str, data_set: datasets.Dataset) -> ArrowRows:
    arrow = data_set.with_format("arrow")

    def batches(columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        for table in arrow.select_columns(list(columns)).iter(size):
            yield from table.combine_chunks().to_batches()

    with readable(where):
        schema = data_set.features.arrow_schema
    return ArrowRows(where, root, schema, batches)


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
