"""Tables of titles and pictures: their rows and columns to documents.

Finetuner's rules hold: no header is needed, the dialect is found, a row holds one picture and one
text in either order. Beyond them columns are named or found by their names, and all that are not
otherwise used become tags. A row with several pictures is as many documents. Labels are those of
a column alone: what else is the same is decided where documents are used
(`cliptune.data.equivalence`).

A document's id is the row's in the column of ids, or else the SHA-256 of its picture: it stays
the same when rows are inserted, on every machine. Of several rows with one picture each has that
digest and one of the rest of the row, whatever their order; a row that is the same as another in
everything is the same document.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NoReturn, TypedDict, Unpack

from docarray import DocList

from cliptune.data.pictures.download import Downloads, download_once
from cliptune.data.pictures.images import picture_digest
from cliptune.data.pictures.slices import SLICE, PicturePack, slice_uri
from cliptune.data.summary import DataSummary
from cliptune.data.tables.columns import (
    Column,
    Text,
    choose_roles,
    fill_template,
    fill_text,
    is_elsewhere,
)
from cliptune.data.tables.identity import Identities
from cliptune.data.tables.opening import open_file
from cliptune.data.tables.options import CsvOptions
from cliptune.data.tables.rows import Row, Rows, Unusable
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
from cliptune.settings import current

_CHUNK = 256
_CHUNK_OF_PICTURES = 32
_INSIDE = b"in the table"
"""Stands for a picture's bytes where it only matters that there are some."""


def read_csv(
    path: str | Path, options: CsvOptions | Mapping[str, object] | None = None
) -> DocList[ClipDoc]:
    """Read the table at `path`: one document a row, with text, uri, label and tags.

    Raises:
        BadData: the file is empty or no text, a row is ragged, a column is missing or can't be
            told, an id is given twice; the message names the line.
    """
    return Table.open(path, options).documents()


class TableSettings(TypedDict, total=False):
    """What a table's documents are for (see `Table`)."""

    needs: Needs
    role: str
    keep_untitled: bool
    has_fixed_ids: bool
    keeps_pictures: bool


class Table:
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
        keeps_pictures: bool = False,
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
            keeps_pictures: write pictures that the table itself holds into a pack, so that its
                documents, all of which are to be kept, have their addresses instead of them.

        Raises:
            BadData: see `read_csv`; or most documents lack what is needed, or pictures would have
                to be fetched.
        """
        self.rows, self.options, self.needs, self.role = rows, options, needs, role
        self._columns = self._survey()
        self.roles = choose_roles(rows.where, self._columns, options, needs)
        self._unread = set(rows.pictures) - {self.roles.image}
        """Columns of other bytes."""
        if not keep_untitled and self.roles.texts:
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
        """By document; None: it is left out."""
        self._places: array[int] | None = None
        """By document: its picture's offset and size in the pack; (0, 0): it has none there."""
        self._pack: Path | None = None
        is_inside = self.roles.image in rows.pictures
        self._chunk = _CHUNK_OF_PICTURES if is_inside else _CHUNK
        if is_inside and keeps_pictures and self.needs != ANYTHING:
            pack = PicturePack(current().cache_dir / "pictures")
            try:
                self._identify(has_fixed_ids, pack)
                self._pack = pack.close()
            except BaseException:
                pack.discard()
                raise
        else:
            self._identify(has_fixed_ids)
        self._describe()

    @classmethod
    def open(
        cls,
        path: str | Path,
        options: CsvOptions | Mapping[str, object] | None = None,
        **settings: Unpack[TableSettings],
    ) -> Table:
        """The table at `path`; `settings` are those of the class.

        Raises:
            BadData: as the class, and it can't be read or is no table.
        """
        parsed = CsvOptions.parse(options)
        return cls(open_file(Path(path), parsed), parsed, **settings)

    def __len__(self) -> int:
        """How many documents it has."""
        return self.summary.usable

    def __iter__(self) -> Iterator[ClipDoc]:
        """The documents, in the order of the rows.

        Raises:
            BadData: the table has changed since it was looked through.
        """
        yield from self._documents(self._pack is None)

    def _documents(self, reads_pictures: bool) -> Iterator[ClipDoc]:
        """The documents; without `reads_pictures` those that the table holds are not read."""
        try:
            rows = zip(self._ids, self._each(reads_pictures=reads_pictures), strict=True)
            for number, (doc_id, row) in enumerate(rows):
                if doc_id is not None:
                    yield self._document(row, doc_id, number)
        except ValueError as error:
            if isinstance(error, BadData):
                raise
            raise BadData(f"{self.rows.where} has changed since it was looked through") from error

    def _each(self, *, reads_pictures: bool = True) -> Iterator[Row]:
        """The rows, of those with several pictures one for each."""
        image = self.roles.image
        is_inside = image in self.rows.pictures
        skips = not reads_pictures and is_inside and not self._columns[str(image)].lists
        for row in self.rows.read({*self._unread, image} if skips else self._unread):  # type: ignore[arg-type]
            if skips:
                yield replace(row, cells={**row.cells, str(image): _INSIDE})
                continue
            cell = row.cells.get(image) if image else None
            if not isinstance(cell, list):
                yield row
                continue
            for one in cell or [None]:
                yield replace(row, cells={**row.cells, str(image): one})

    def every_row(self) -> Iterator[tuple[Row, ClipDoc]]:
        """Each row, those that are left out too, and its document without an id.

        Of pictures that the table holds they have the digest. A row with several comes as often.
        """
        for row in self._each():
            doc = self._document(row)
            yield row, doc.model_copy(update={"image": None, "image_digest": _hash(doc.image)})

    def documents(self) -> DocList[ClipDoc]:
        """All documents."""
        return DocList[ClipDoc](iter(self))

    def _download(self) -> Downloads | None:
        """Fetch what is given by URL, and say how many; None where nothing is needed."""
        self._downloads = None  # so that `_uri` gives the URLs themselves
        urls = [
            uri
            for row in self._each(reads_pictures=False)
            if isinstance(uri := self._picture(row), str) and is_elsewhere(uri)
        ]
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
        for name in self.rows.pictures:
            columns[name] = Column(name, filled=1, pictures=1, lists=name in self.rows.lists)
        for row in self.rows.read(self.rows.pictures):
            for name, value in row.cells.items():
                if not is_missing(value):
                    columns[name].add(value)
        return columns

    def _document(self, row: Row, doc_id: str | None = None, number: int | None = None) -> ClipDoc:
        """The document of a row."""
        roles = self.roles
        texts = self._texts(row)
        label = _text(row.cells.get(roles.label)) if roles.label else None
        cells = {name: row.cells.get(name) for name in roles.tags if name not in self._unread}
        tags = {
            name: self._typed(name, value)
            for name, value in cells.items()
            if isinstance(value, str) or not is_missing(value)
        }
        picture = self._picture(row)
        if picture is _INSIDE and self._pack is not None and number is not None:
            picture = self._address(number)
        return ClipDoc(
            id=doc_id,
            text=next(iter(texts), None),
            texts=texts if len(texts) > 1 else None,
            image=picture if isinstance(picture, bytes) else None,
            uri=picture if isinstance(picture, str) else None,
            label=label,
            tags=tags,
        )

    def _texts(self, row: Row) -> dict[str, float]:
        """The titles of a row with their weights, the first one first."""
        texts: dict[str, float] = {}
        for source in self.roles.texts:
            given = self._values(source, row)
            for text in given:
                texts[text] = texts.get(text, 0.0) + source.weight / len(given)
        return texts

    def _values(self, source: Text, row: Row) -> list[str]:
        if source.template is not None:
            cells = {name: _text(row.cells.get(name)) or "" for name in self.rows.columns}
            text = fill_text(source.template, cells)
            return [] if text is None else [text]
        cell = row.cells.get(source.column or "")
        cells_of = cell if isinstance(cell, list) else [cell]
        return [text for one in cells_of if (text := _text(one)) is not None]

    def _address(self, number: int) -> str | None:
        """Where the picture of the document `number` is in the pack."""
        assert self._pack is not None  # noqa: S101 - for the type checker
        assert self._places is not None  # noqa: S101 - likewise
        offset, size = self._places[2 * number : 2 * number + 2]
        return slice_uri(self._pack, offset, size) if size else None

    def _picture(self, row: Row) -> str | bytes | Unusable | None:
        """A row's picture: its bytes, or where it is."""
        if self.roles.template is not None:
            cells = {name: _text(row.cells.get(name)) or "" for name in self.rows.columns}
            image = fill_template(self.roles.template, cells)
        else:
            cell = row.cells.get(self.roles.image) if self.roles.image else None
            if isinstance(cell, bytes | Unusable):
                return cell
            if isinstance(cell, Mapping):  # as JSON lines may have Hugging Face's structs
                cell = cell.get("path")
            image = _text(cell)
        if image is not None and is_elsewhere(image):
            return self._fetched(image)
        if image is None or image.startswith(("data:", "file:", SLICE)):
            return image
        return self._rooted(image, row)

    def _fetched(self, url: str) -> str:
        return url if self._downloads is None else str(self._downloads.files.get(url, url))

    def _rooted(self, image: str, row: Row) -> str:
        """A relative path from where the table says that pictures are."""
        given = self.options.image_root
        if given is None and self.options.kept is not None:
            kept = self.options.kept.image_root
            given = kept if kept is not None and Path(kept).is_dir() else None
        place = given or row.root or self.rows.root
        if "://" in place:
            return self._fetched(f"{place.rstrip('/')}/{image.lstrip('/')}")
        root = Path(place).expanduser()
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

    def _identify(self, has_fixed_ids: bool, pack: PicturePack | None = None) -> None:
        """Give each row its id, and find those that are left out and the duplicates."""
        column = self.roles.id
        if column is not None and not self._ids_of_column(column, has_fixed_ids, pack):
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
            found = self._look(None, pack)
            self.summary.duplicates = found.made_distinct()
            self._ids = found.keys

    def _ids_of_column(self, column: str, has_fixed_ids: bool, pack: PicturePack | None) -> bool:
        """Ids as the column has them; whether they are distinct."""
        found = self._look(column, pack)
        self.summary.duplicates, clash = found.without_duplicates()
        self._ids = found.keys
        if clash is None:
            return True
        doc_id = found.keys[clash[0]]
        places = " and on ".join(map(self._place, clash))
        if not (self.roles.id_is_given or has_fixed_ids):
            self.summary.notes.append(
                f"column {column!r} has {doc_id!r} on {places}: it isn't taken for the ids, which "
                "are made of the pictures"
            )
            return False
        advice = (
            f" (column {column!r} was taken for the ids; {self.options.option('id_column')} names "
            "another, or none)"
        )
        raise BadData(
            f"{self.rows.where}: the id {doc_id!r} is on {places}"
            f"{'' if self.roles.id_is_given else advice}"
        )

    def _look(self, column: str | None, pack: PicturePack | None) -> Identities:
        """What identifies each document: the ids of `column`, or else its picture.

        Pictures that the table holds go into the pack.
        """
        found, problems, places = Identities(), list[Problem](), array("q")
        self.unread = 0
        judged = self._judged()

        def key(given: tuple[Row, ClipDoc, str | None]) -> str:
            row, doc, _ = given
            doc_id = None if column is None else _text(row.cells.get(column))
            return self._key(doc) if doc_id is None else doc_id

        with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="cliptune-ids") as pool:
            while chunk := list(islice(judged, self._chunk)):
                keys = pool.map(key, chunk) if column is None else map(key, chunk)
                for (row, doc, reason), doc_id in zip(chunk, keys, strict=True):
                    if reason is not None:
                        problems.append(Problem(len(found.keys), doc_id, reason, row.place))
                        found.add(None)
                    elif column is None:
                        found.add(doc_id, _digest_of(doc))
                    else:
                        found.add(doc_id, _digest_of(doc, doc.uri, _hash(doc.image)))
                    self.unread += doc_id.startswith("file-") and column is None
                    places.extend(_packed(doc, reason, pack))
        self.summary.left_out, self._places = problems, places
        return found

    def _place(self, number: int) -> str:
        """Where the document `number` stands."""
        return next(islice(self._each(reads_pictures=False), number, None)).place

    def _key(self, doc: ClipDoc) -> str:
        """What identifies a row: its picture's SHA-256, or else one of the path or the text."""
        if doc.uri is None and doc.image is None:
            return f"text-{_short_hash(doc.text or '')}"
        try:
            return picture_digest(doc)
        except BadImage:
            return f"file-{_short_hash((doc.uri or '').removeprefix(f'{self.rows.root}{os.sep}'))}"

    def _judged(self) -> Iterator[tuple[Row, ClipDoc, str | None]]:
        """Each row, its document, and why it can't be used."""
        for row in self._each():
            doc = self._document(row)
            reason = what_is_missing(doc, self.needs)
            if PICTURE in self.needs and doc.uri and is_elsewhere(doc.uri):
                if self._downloads is None:
                    advice = self.options.download_advice
                    refuse_elsewhere(self.rows.where, self.role, doc.uri, row.place, advice)
                reason = reason or f"no picture: {self._downloads.problems[doc.uri]}"
            picture = self._picture(row)
            if PICTURE in self.needs and isinstance(picture, Unusable):
                reason = f"no picture: {picture.reason}"
            yield row, doc, reason

    def _describe(self) -> None:
        summary = self.summary
        summary.rows = len(self._ids)
        summary.columns = self.roles.described()
        if summary.rows == 0:
            raise BadData(f"{self.rows.where} has no rows")
        summary.add(self._documents(reads_pictures=False))
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


def _packed(doc: ClipDoc, reason: str | None, pack: PicturePack | None) -> tuple[int, ...]:
    """Where the picture of `doc` is in the pack now; nothing without one."""
    if pack is None:
        return ()
    return pack.add(doc.image) if doc.image and reason is None else (0, 0)


def _hash(picture: bytes | None) -> str | None:
    return None if picture is None else hashlib.sha256(picture).hexdigest()


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def _digest_of(doc: ClipDoc, *more: str | None) -> bytes:
    """SHA-256 of what a row says, but for its id and its picture, and of `more`."""
    said = [doc.text, doc.label, doc.tags, *more]
    if doc.texts:
        said.append(doc.texts)
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).digest()
