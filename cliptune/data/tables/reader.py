"""Tables of titles and pictures: their rows and columns to documents.

Finetuner's rules hold: no header is needed, the dialect is found, a row holds one picture and one
text in either order. Beyond them columns are named or found by their names, and all that are not
otherwise used become tags. Labels are those of a column alone: what else is the same is decided
where documents are used (`cliptune.data.equivalence`).

A document's id is the row's in the column of ids, or else the SHA-256 of its picture: it stays
the same when rows are inserted, on every machine. Of several rows with one picture each has that
digest and one of the rest of the row, whatever their order; a row that is the same as another in
everything is the same document.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NoReturn, TypedDict, Unpack

from docarray import DocList

from cliptune.data.pictures.download import Downloads, download_once
from cliptune.data.pictures.images import picture_digest
from cliptune.data.summary import DataSummary
from cliptune.data.tables.columns import (
    Column,
    choose_roles,
    fill_template,
    is_elsewhere,
)
from cliptune.data.tables.options import CsvOptions
from cliptune.data.tables.text import Row, Rows, open_rows
from cliptune.data.validation import (
    ANYTHING,
    PICTURE,
    TEXT,
    Needs,
    Problem,
    check_part,
    is_missing,
    what_is_missing,
)
from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadImage

_CHUNK = 256


def read_csv(
    path: str | Path, options: CsvOptions | Mapping[str, object] | None = None
) -> DocList[ClipDoc]:
    """Read the table at `path`: one document a row, with text, uri, label and tags.

    Raises:
        BadData: the file is empty or no text, a row is ragged, a column is missing or can't be
            told, an id is given twice; the message names the line.
    """
    return CsvTable.open(path, options).documents()


class TableSettings(TypedDict, total=False):
    """What a table's documents are for (see `CsvTable`)."""

    needs: Needs
    role: str
    keep_untitled: bool
    has_fixed_ids: bool


class CsvTable:
    """The documents of a table, one at a time: for tables whose documents fill the memory.

    `len()` is the number of its documents. All rows are checked when it is made.
    """

    def __init__(
        self,
        rows: Rows,
        options: CsvOptions,
        *,
        needs: Needs = ANYTHING,
        role: str = "data",
        keep_untitled: bool = True,
        has_fixed_ids: bool = False,
    ) -> None:
        """Look through `rows`.

        Args:
            rows: the table.
            options: how it is to be read.
            needs: what each document must have; those without are left out.
            role: what it is for, named in errors.
            keep_untitled: whether documents without a title stay where the table has titles.
            has_fixed_ids: refuse a column `id` that repeats ids, as it is to identify documents
                from now on; else that column is a tag like others.

        Raises:
            BadData: see `read_csv`; or most documents lack what is needed, or pictures would have
                to be fetched.
        """
        self.rows, self.options, self.needs, self.role = rows, options, needs, role
        self._columns = self._survey()
        self.roles = choose_roles(rows.where, self._columns, options, needs)
        if not keep_untitled and self.roles.text is not None:
            self.needs = needs | {TEXT}
        self._decimal = {
            name
            for name, column in self._columns.items()
            if column.is_decimal or (rows.has_commas and column.has_decimal_commas)
        }
        self.summary = DataSummary(role, rows.where, notes=list(rows.notes))
        self.unread = 0
        """Pictures that can't be read, so that ids could not be made of them."""
        self._downloads = self._download() if options.downloads else None
        self._ids: list[str | None] = []
        """By row; None: it is left out."""
        self._identify(has_fixed_ids)
        self._describe()

    @classmethod
    def open(
        cls,
        path: str | Path,
        options: CsvOptions | Mapping[str, object] | None = None,
        **settings: Unpack[TableSettings],
    ) -> CsvTable:
        """The table at `path`; `settings` are those of the class.

        Raises:
            BadData: as the class, and it can't be read or is no table.
        """
        parsed = CsvOptions.parse(options)
        return cls(open_rows(Path(path), parsed), parsed, **settings)

    def __len__(self) -> int:
        """How many documents it has."""
        return self.summary.usable

    def __iter__(self) -> Iterator[ClipDoc]:
        """The documents, in the order of the rows."""
        for doc_id, row in zip(self._ids, self.rows, strict=True):
            if doc_id is not None:
                yield self._document(row, doc_id)

    def every_row(self) -> Iterator[tuple[Row, ClipDoc]]:
        """Each row, those that are left out too, and its document without an id."""
        return ((row, self._document(row)) for row in self.rows)

    def documents(self) -> DocList[ClipDoc]:
        """All documents."""
        return DocList[ClipDoc](iter(self))

    def _download(self) -> Downloads | None:
        """Fetch what is given by URL, and say how many; None where nothing is needed."""
        self._downloads = None  # so that `_uri` gives the URLs themselves
        urls = [uri for row in self.rows if (uri := self._uri(row)) and is_elsewhere(uri)]
        if not urls or PICTURE not in self.needs:
            return None
        downloads = download_once(urls)
        count, fetched = len(downloads.files), downloads.fetched
        self.summary.notes.append(
            f"{count} pictures by URL: {fetched} fetched, {count - fetched} were there; "
            f"{len(downloads.problems)} could not be"
        )
        return downloads

    def _survey(self) -> dict[str, Column]:
        columns = {name: Column(name) for name in self.rows.columns}
        for row in self.rows:
            for name, value in row.cells.items():
                if not is_missing(value):
                    columns[name].add(value)
        return columns

    def _document(self, row: Row, doc_id: str | None = None) -> ClipDoc:
        """The document of a row."""
        roles = self.roles
        text = _text(row.cells.get(roles.text)) if roles.text else None
        label = _text(row.cells.get(roles.label)) if roles.label else None
        cells = {name: row.cells.get(name) for name in roles.tags}
        tags = {
            name: self._typed(name, value)
            for name, value in cells.items()
            if isinstance(value, str) or not is_missing(value)
        }
        return ClipDoc(
            id=doc_id,
            text=text,
            uri=self._uri(row),
            label=label,
            tags=tags,
        )

    def _uri(self, row: Row) -> str | None:
        if self.roles.template is not None:
            cells = {name: _text(row.cells.get(name)) or "" for name in self.rows.columns}
            image = fill_template(self.roles.template, cells)
        else:
            image = _text(row.cells.get(self.roles.image)) if self.roles.image else None
        if image is not None and is_elsewhere(image) and self._downloads is not None:
            return str(self._downloads.files.get(image, image))
        if image is None or is_elsewhere(image) or image.startswith(("data:", "file:")):
            return image
        given = self.options.image_root
        if given is None and self.options.kept is not None:
            kept = self.options.kept.image_root
            given = kept if kept is not None and Path(kept).is_dir() else None
        root = Path(given).expanduser() if given else self.rows.root
        # Tables made on Windows; a file that is really called so is found, too.
        if "\\" in image and os.sep == "/" and not (root / image).exists():
            image = image.replace("\\", "/")
        return str(root / image)

    def _typed(self, column: str, value: object) -> object:
        """A cell as a number where it is one, so that tags can be compared.

        A column that is all numbers has numbers, `12.50` too (and `12,50` where commas separate
        no cells); elsewhere '007', '12.50' and 'nan' are texts: what would not come back as it was.
        """
        if not isinstance(value, str):
            return value
        if column in self._decimal and not is_missing(value):
            text = value.strip()
            if self._columns[column].has_decimal_commas and self.rows.has_commas:
                text = text.replace(".", "").replace(",", ".")
            return float(text) if "." in text else int(text)
        for kind in (int, float):
            try:
                number = kind(value)
            except ValueError:
                continue
            return number if str(number) == value.strip() else value
        return value

    def _identify(self, has_fixed_ids: bool) -> None:
        """Give each row its id, and find those that are left out and the duplicates."""
        column = self.roles.id
        if column is not None and not self._ids_of_column(column, has_fixed_ids):
            columns = self.rows.columns
            self.roles = choose_roles(
                self.rows.where,
                {name: self._columns[name] for name in columns if name != column},
                self.options,
                self.needs,
            )
            tags = {*self.roles.tags, column}
            self.roles = replace(self.roles, tags=tuple(n for n in columns if n in tags))
            column = None
        if column is None:
            self._ids_of_pictures()

    def _ids_of_column(self, column: str, has_fixed_ids: bool) -> bool:
        """Ids as the column has them; whether they are distinct."""
        ids: list[str | None] = []
        seen: dict[str, tuple[str, bytes]] = {}
        problems: list[Problem] = []
        duplicates = 0
        for number, (row, doc, reason) in enumerate(self._judged()):
            given = _text(row.cells.get(column))
            doc_id = self._key(doc) if given is None else given
            if reason is not None:
                problems.append(Problem(number, doc_id, reason, row.place))
                ids.append(None)
                continue
            content = _digest_of(doc, doc.uri)
            place, other = seen.setdefault(doc_id, (row.place, content))
            if place == row.place:
                ids.append(doc_id)
            elif other == content:
                duplicates += 1
                ids.append(None)
            elif self.roles.id_is_given or has_fixed_ids:
                advice = (
                    ""
                    if self.roles.id_is_given
                    else (
                        f" (column {column!r} was taken for the ids; "
                        f"{self.options.option('id_column')} names another, or none)"
                    )
                )
                raise BadData(
                    f"{self.rows.where}: the id {doc_id!r} is on {place} and on {row.place}{advice}"
                )
            else:
                self.summary.notes.append(
                    f"column {column!r} has {doc_id!r} on {place} and on {row.place}: it isn't "
                    "taken for the ids, which are made of the pictures"
                )
                return False
        self._ids, self.summary.left_out, self.summary.duplicates = ids, problems, duplicates
        return True

    def _ids_of_pictures(self) -> None:
        """Ids made of the pictures' digests, and of the rest of the row where that isn't enough."""
        keys: list[str] = []
        contents: list[bytes | None] = []
        problems: list[Problem] = []
        places: list[int] = []
        judged = self._judged()
        with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="cliptune-ids") as pool:
            while chunk := list(islice(judged, _CHUNK)):
                for (row, doc, reason), key in zip(
                    chunk, pool.map(lambda one: self._key(one[1]), chunk), strict=True
                ):
                    if reason is not None:
                        problems.append(Problem(len(keys), key, reason, row.place))
                    else:
                        places.append(len(keys))
                    keys.append(key)
                    self.unread += key.startswith("file-")
                    contents.append(None if reason is not None else _digest_of(doc))
        times = Counter(keys[place] for place in places)
        seen: set[str] = set()
        for key, content in zip(keys, contents, strict=True):
            if content is None:
                self._ids.append(None)
                continue
            doc_id = key if times[key] == 1 else f"{key}-{content.hex()[:16]}"
            self._ids.append(None if doc_id in seen else doc_id)
            self.summary.duplicates += doc_id in seen
            seen.add(doc_id)
        self.summary.left_out = problems

    def _key(self, doc: ClipDoc) -> str:
        """What identifies a row: its picture's SHA-256, or else one of the path or the text."""
        if doc.uri is None:
            return f"text-{_short_hash(doc.text or '')}"
        try:
            return picture_digest(doc)
        except BadImage:
            return f"file-{_short_hash(doc.uri.removeprefix(f'{self.rows.root}{os.sep}'))}"

    def _judged(self) -> Iterator[tuple[Row, ClipDoc, str | None]]:
        """Each row, its document, and why it can't be used."""
        for row in self.rows:
            doc = self._document(row)
            reason = what_is_missing(doc, self.needs)
            if PICTURE in self.needs and doc.uri and is_elsewhere(doc.uri):
                if self._downloads is None:
                    advice = self.options.download_advice
                    refuse_elsewhere(self.rows.where, self.role, doc.uri, row.place, advice)
                reason = reason or f"no picture: {self._downloads.problems[doc.uri]}"
            yield row, doc, reason

    def _describe(self) -> None:
        summary = self.summary
        summary.rows = len(self._ids)
        summary.columns = self.roles.described()
        if summary.rows == 0:
            raise BadData(f"{self.rows.where} has no rows")
        summary.add(iter(self))
        check_part(summary.left_out, summary.rows, f"{self.role} ({self.rows.where})")
        for name in self.roles.tags:
            if self.rows.has_commas and self._columns[name].has_unclear_commas:
                summary.notes.append(
                    f"column {name!r} stays text: whether its commas are decimal ones can't be told"
                )


def refuse_elsewhere(where: str, role: str, uri: str, place: str, advice: str) -> NoReturn:
    """Refuse a data set whose pictures would have to be fetched; `advice` says what to do.

    Raises:
        BadData: always; the message says what to do.
    """
    raise BadData(
        f"{role} ({where}): the picture on {place} is at {uri[:120]!r}, and pictures are not "
        f"fetched unasked: {advice}"
    )


def _text(value: object) -> str | None:
    """A cell as a text without spaces around it; None where nothing is in it."""
    return None if is_missing(value) else str(value).strip()


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def _digest_of(doc: ClipDoc, *more: str | None) -> bytes:
    """SHA-256 of what a row says, but for its id and its picture, and of `more`."""
    said = [doc.text, doc.label, doc.tags, *more]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).digest()
