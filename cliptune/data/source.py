"""Whatever names a data set, to documents: documents, a table, a folder, a name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from docarray import DocList

from cliptune.data.catalogue import CATALOGUE_NAMES, load_catalogue
from cliptune.data.csv import CsvOptions, CsvTable
from cliptune.data.images import SUFFIXES
from cliptune.data.store import list_pushed, pull
from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadInput, NotFound, near_matches

_TABLES = (".csv", ".tsv", ".txt")


class DataSetName(str):
    """The name of a data set as a type of its own: `load_documents` takes it for no path."""


class Documents(Protocol):
    """Documents one after the other, and how many there are."""

    def __len__(self) -> int:
        """Their number."""
        ...

    def __iter__(self) -> Iterator[ClipDoc]:
        """The documents."""
        ...


def load_documents(
    data: Any,
    *,
    csv_options: CsvOptions | Mapping[str, Any] | None = None,
    role: str = "data",
) -> DocList[ClipDoc]:
    """Documents from `data`.

    `data` may be documents (a DocList or a list of ones with `text`, `image` or `uri`), the path
    of a CSV or TSV file (see `cliptune.data.csv`), the path of a folder of pictures (each one's
    text is its folder's name, or in a flat folder its file name), the name of a built-in data
    set (`catalogue-train`, …), or the name of one that was pushed. `role` is named in errors.

    Raises:
        NotFound: neither a path nor a known name; the message lists near names.
        BadData: nothing in it, it can't be read, or an id is given to several documents.
    """
    if isinstance(data, DataSetName):
        docs = DocList[ClipDoc](iter(_data_set(data)))
    elif isinstance(data, str | Path):
        found = _from_name(str(data), csv_options, role)
        docs = DocList[ClipDoc](iter(found))
    elif isinstance(data, DocList | list | tuple):
        docs = DocList[ClipDoc]([_clip_doc(doc, i, role) for i, doc in enumerate(data)])
    else:
        raise BadInput(
            f"{role} is a {type(data).__name__}: give documents, a path, or a data set's name"
        )
    if not docs:
        raise BadData(f"{role} has no documents")
    _check_ids(docs, role)
    return docs


def stream_documents(
    data: str | Path,
    *,
    csv_options: CsvOptions | Mapping[str, Any] | None = None,
    role: str = "data",
) -> Documents:
    """The documents of a data set one after the other, and `len()`, their number.

    `data` is what `load_documents` takes, but documents themselves. The documents of a table or
    a folder are made as they are asked for.

    Raises:
        NotFound, BadData: as `load_documents`; what is wrong in a table's row, when it is read.
    """
    return _from_name(str(data), csv_options, role)


def known_names() -> list[str]:
    """The names that `load_documents` knows: built-in ones and those pushed on this machine."""
    return [*CATALOGUE_NAMES, *list_pushed()]


def _data_set(name: str) -> Documents:
    return load_catalogue(name) if name in CATALOGUE_NAMES else pull(name)


def _from_name(
    name: str, csv_options: CsvOptions | Mapping[str, Any] | None, role: str
) -> Documents:
    if name in CATALOGUE_NAMES or name.startswith("s3://"):
        return _data_set(name)
    path = Path(name)
    if path.is_dir():
        return PictureFolder(path)
    if path.is_file():
        return CsvTable(path, csv_options)
    if path.suffix.lower() in _TABLES or "/" in name:
        raise NotFound(f"{role}: no file at {name!r}")
    if name in list_pushed():
        return pull(name)
    raise NotFound(
        f"{role}: {name!r} is neither a file nor the name of a data set; "
        f"{near_matches(name, known_names())}"
    )


class PictureFolder:
    """The pictures in a folder and its subfolders as documents, one at a time.

    A picture's id is its path in the folder, its text its folder's name, or in the folder itself
    its own.
    """

    def __init__(self, folder: Path) -> None:
        """Find the pictures.

        Raises:
            BadData: there are none.
        """
        self.folder = folder
        self.pictures = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not self.pictures:
            raise BadData(f"no pictures in the folder {folder} (of {', '.join(SUFFIXES)})")

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.pictures)

    def __iter__(self) -> Iterator[ClipDoc]:
        """The documents, in the order of their paths."""
        for picture in self.pictures:
            inner = picture.relative_to(self.folder)
            words = inner.parent.name if len(inner.parts) > 1 else picture.stem
            text = " ".join(words.replace("_", " ").replace("-", " ").split())
            yield ClipDoc(id=inner.as_posix(), text=text, uri=str(picture))


def _check_ids(docs: DocList[ClipDoc], role: str) -> None:
    """Refuse ids given twice: an index keeps one of such documents, and matches name either."""
    positions: dict[str, list[int]] = {}
    for position, doc in enumerate(docs):
        if doc.id is not None:
            positions.setdefault(str(doc.id), []).append(position)
    repeated = {doc_id: places for doc_id, places in positions.items() if len(places) > 1}
    if repeated:
        shown = [
            f"{doc_id!r} (documents {', '.join(map(str, places[:5]))}"
            f"{', …' if len(places) > 5 else ''})"
            for doc_id, places in list(repeated.items())[:3]
        ]
        more = ", …" if len(repeated) > 3 else ""
        raise BadData(
            f"{role}: {len(repeated)} id(s) are given to several documents: "
            f"{', '.join(shown)}{more}"
        )


def _clip_doc(doc: Any, position: int, role: str) -> ClipDoc:
    if isinstance(doc, ClipDoc):
        return doc
    known = ("id", "text", "image", "uri", "label", "tags")
    values = {name: getattr(doc, name) for name in known if getattr(doc, name, None) is not None}
    if not values.keys() & {"text", "image", "uri"}:
        raise BadData(
            f"{role}: document {position} is a {type(doc).__name__} without text, image or uri"
        )
    try:
        return ClipDoc(**values)
    except ValueError as error:
        raise BadData(f"{role}: document {position}: {error}") from error
