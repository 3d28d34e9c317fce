"""Whatever names a data set, to documents: documents, a table, a folder, a name."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from docarray import DocList

from cliptune.data.pictures.download import download_once
from cliptune.data.pictures.images import SUFFIXES
from cliptune.data.store import is_url, list_pushed, pull
from cliptune.data.summary import DataSummary
from cliptune.data.tables.columns import is_elsewhere
from cliptune.data.tables.formats.imagefolder import METADATA
from cliptune.data.tables.opening import TABLE_SUFFIXES, names_table, open_table
from cliptune.data.tables.options import CsvOptions
from cliptune.data.tables.reader import Table, TableSettings, refuse_elsewhere
from cliptune.data.validation import (
    ANYTHING,
    PAIR,
    PICTURE,
    Needs,
    Problem,
    check_part,
    is_blank,
    split_complete,
    what_is_missing,
)
from cliptune.demo.catalogue import CATALOGUE_NAMES, load_catalogue
from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadInput, NotFound, near_matches, shown

_OTHER_TABLES = tuple(suffix for suffix in TABLE_SUFFIXES if suffix != ".txt")
_CAPTIONS = (".txt", ".caption", ".json")


Data = DocList[ClipDoc] | Sequence[ClipDoc] | str | Path
"""Documents, a path, or the name of a data set."""


class DataSetName(str):
    """The name of a data set as a type of its own: `load_documents` takes it for no path."""


class Documents(Protocol):
    """Documents one after the other, how many there are, and what was understood of them."""

    summary: DataSummary

    def __len__(self) -> int:
        """Their number."""
        ...

    def __iter__(self) -> Iterator[ClipDoc]:
        """The documents."""
        ...


def load_documents(
    data: object,
    *,
    csv_options: CsvOptions | Mapping[str, object] | None = None,
    role: str = "data",
) -> DocList[ClipDoc]:
    """Documents from `data`, complete or not (see `read_documents`).

    `data` may be documents (a DocList or a list of ones with `text`, `image` or `uri`), the path
    of a CSV, TSV or JSON lines file (see `cliptune.data.tables.reader`), the path of a folder of
    pictures (by its `metadata.csv` or `metadata.jsonl`, if it has one; else each one's text is its
    folder's name, or in a flat folder its file name), the name of a built-in data set
    (`catalogue-train`, …), or the name of one that was pushed. `role` is named in errors.

    Raises:
        NotFound: neither a path nor a known name; the message lists near names.
        BadData: nothing in it, it can't be read, or an id is given to several documents.
    """
    return read_documents(data, csv_options=csv_options, role=role).docs


@dataclass
class DataSet:
    """Documents, and what was understood of where they come from."""

    docs: DocList[ClipDoc]
    summary: DataSummary


def read_documents(
    data: object,
    *,
    csv_options: CsvOptions | Mapping[str, object] | None = None,
    role: str = "data",
    needs: Needs = ANYTHING,
) -> DataSet:
    """The documents of `data` (see `load_documents`) that have all of `needs`, and a summary.

    Those that lack something are left out; the summary names them.

    Raises:
        NotFound, BadData: as `load_documents`; or more than half of the documents lack something,
            or pictures that are needed would have to be fetched.
    """
    if isinstance(data, str | Path):
        is_set = isinstance(data, DataSetName)
        given = _data_set(str(data)) if is_set else _from_name(str(data), csv_options, role, needs)
        if isinstance(given, Table):
            docs, summary = given.documents(), given.summary
            _check_ids(docs, role)
            return DataSet(docs, summary)
        docs = DocList[ClipDoc](iter(given))
        source, notes = str(data), list(getattr(given, "notes", ()))
    elif isinstance(data, DocList | list | tuple):
        docs = DocList[ClipDoc]([_clip_doc(doc, i, role) for i, doc in enumerate(data)])
        source, notes = None, []
    else:
        raise BadInput(
            f"{role} is a {type(data).__name__}: give documents, a path, or a data set's name"
        )
    if not docs:
        raise BadData(f"{role} has no documents")
    _check_ids(docs, role)
    options = CsvOptions.parse(csv_options)
    unfetched: dict[str, str] = {}
    if PICTURE in needs and options.downloads:
        docs, unfetched = _fetched(docs)
    elif PICTURE in needs:
        _refuse_elsewhere(docs, role, source, options.download_advice)
    kept, problems = split_complete(docs, needs, role, unfetched)
    summary = DataSummary(role, source, rows=len(docs), left_out=problems, notes=notes)
    return DataSet(kept, summary.add(kept))


def _fetched(docs: DocList[ClipDoc]) -> tuple[DocList[ClipDoc], dict[str, str]]:
    """The documents with paths for their pictures' URLs, and why some URLs have none."""
    given = [doc.uri for doc in docs if doc.image is None and doc.uri and is_elsewhere(doc.uri)]
    if not given:
        return docs, {}
    downloads = download_once(given)
    paths = {url: str(path) for url, path in downloads.files.items()}
    return DocList[ClipDoc](
        [
            doc.model_copy(update={"uri": paths[doc.uri]})
            if doc.image is None and doc.uri in paths
            else doc
            for doc in docs
        ]
    ), downloads.problems


def stream_documents(
    data: str | Path,
    *,
    csv_options: CsvOptions | Mapping[str, object] | None = None,
    role: str = "data",
    keep_untitled: bool = False,
) -> Documents:
    """The documents of a data set to be indexed, one after the other.

    `data` is what `load_documents` takes, but documents themselves. The documents of a table or
    a folder are made as they are asked for. Left out are those without a picture and, where
    others have titles, those without a title, unless `keep_untitled`.

    Raises:
        NotFound, BadData: as `read_documents`; or a table's column `id` repeats ids.
    """
    docs = _from_name(str(data), csv_options, role, frozenset({PICTURE}), keep_untitled)
    if isinstance(docs, Table):
        return docs
    is_titled = not keep_untitled and any(not is_blank(doc.text) for doc in docs)
    return _Complete(docs, PAIR if is_titled else frozenset({PICTURE}), str(data), role)


class _Complete:
    """The documents of others that have all of `needs`."""

    def __init__(self, docs: Iterable[ClipDoc], needs: Needs, source: str, role: str) -> None:
        self._docs, self._needs = docs, needs
        self.summary = DataSummary(role, source, notes=list(getattr(docs, "notes", ())))
        for position, doc in enumerate(docs):
            self.summary.rows += 1
            if doc.uri and is_elsewhere(doc.uri) and doc.image is None:
                advice = "push the data set with its pictures (`image`)"
                refuse_elsewhere(source, role, doc.uri, f"document {position}", advice)
            reason = what_is_missing(doc, needs)
            if reason is not None:
                self.summary.left_out.append(Problem(position, str(doc.id), reason))
        self.summary.add(iter(self))
        check_part(self.summary.left_out, self.summary.rows, role)

    def __len__(self) -> int:
        return self.summary.usable

    def __iter__(self) -> Iterator[ClipDoc]:
        return (doc for doc in self._docs if what_is_missing(doc, self._needs) is None)


def known_names() -> list[str]:
    """The names that `load_documents` knows: built-in ones and those pushed on this machine."""
    return [*CATALOGUE_NAMES, *list_pushed()]


def _data_set(name: str) -> DocList[ClipDoc]:
    return load_catalogue(name) if name in CATALOGUE_NAMES else pull(name)


def _from_name(
    name: str,
    csv_options: CsvOptions | Mapping[str, object] | None,
    role: str,
    needs: Needs,
    keep_untitled: bool | None = None,
) -> Iterable[ClipDoc]:
    """The documents of a name; `keep_untitled` is given where they are to be indexed."""
    if name in CATALOGUE_NAMES or (is_url(name) and not names_table(name)):
        return _data_set(name)
    path = Path(name)
    options = CsvOptions.parse(csv_options)
    table = TableSettings(
        needs=needs,
        role=role,
        keep_untitled=keep_untitled is not False,
        has_fixed_ids=keep_untitled is not None,
        keeps_pictures=keep_untitled is None,
    )
    if (opened := open_table(name, options)) is not None:
        rows, options = opened
        return Table(rows, options, **table)
    if os.path.isdir(name):  # False for what can be no path, too
        return PictureFolder(path)
    if path.suffix.lower() in TABLE_SUFFIXES or "/" in name:
        raise NotFound(f"{role}: no file at {name[:200]!r}")
    if name in list_pushed():
        return pull(name)
    raise NotFound(
        f"{role}: {shown(name)} is neither a file nor the name of a data set; "
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
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        self.pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
        self.notes = _unread(folder, files)
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


def _unread(folder: Path, files: Sequence[Path]) -> list[str]:
    """What to say of tables and captions beside pictures, of which the folder's names are taken."""
    notes = []
    tables = [path for path in files if path.suffix.lower() in _OTHER_TABLES]
    if tables:
        named = ", ".join(str(path.relative_to(folder)) for path in tables[:3])
        notes.append(
            f"the titles are names of folders or files; not read: {named}"
            f"{' …' if len(tables) > 3 else ''}. Give the table itself, or call it {METADATA[0]} "
            "with a column file_name, to take its titles"
        )
    stems = {path.with_suffix("") for path in files if path.suffix.lower() in SUFFIXES}
    captions = [p for p in files if p.suffix.lower() in _CAPTIONS and p.with_suffix("") in stems]
    if captions:
        notes.append(
            f"{len(captions)} files beside pictures, such as {captions[0].name}, are not read: "
            "make a table of them to take them as titles"
        )
    return notes


def _refuse_elsewhere(docs: Sequence[ClipDoc], role: str, source: str | None, advice: str) -> None:
    for position, doc in enumerate(docs):
        if doc.image is None and doc.uri and is_elsewhere(doc.uri):
            refuse_elsewhere(source or "documents", role, doc.uri, f"document {position}", advice)


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


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _clip_doc(doc: object, position: int, role: str) -> ClipDoc:
    if isinstance(doc, ClipDoc):
        # One without an id gets one: several would all be called None.
        return doc if doc.id else doc.model_copy(update={"id": ClipDoc().id})
    known = ("id", "text", "image", "uri", "label", "tags")
    given = {name: getattr(doc, name, None) for name in known}
    # What pandas has for an empty cell is nothing, too.
    values = {n: v for n, v in given.items() if v is not None and not _is_nan(v)}
    if not values.keys() & {"text", "image", "uri"}:
        raise BadData(
            f"{role}: document {position} is a {type(doc).__name__} without text, image or uri"
        )
    try:
        return ClipDoc(**values)
    except ValueError as error:
        raise BadData(f"{role}: document {position}: {error}") from error
