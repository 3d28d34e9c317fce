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

import os
from array import array
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NoReturn, TypedDict, Unpack

from docarray import DocList

from cliptune.data.pictures.download import download_once
from cliptune.data.pictures.slices import PicturePack, slice_uri
from cliptune.data.summary import DataSummary
from cliptune.data.tables.columns import Column, is_elsewhere, is_picture
from cliptune.data.tables.identity import Identities, key_of, row_digest, sha256_of
from cliptune.data.tables.opening import open_file
from cliptune.data.tables.options import CsvOptions
from cliptune.data.tables.pair_cells import values_of
from cliptune.data.tables.roles import choose_roles
from cliptune.data.tables.row_documents import DocumentMaker, text_of
from cliptune.data.tables.rows import MAX_TEXT, Row, Rows, Unusable
from cliptune.data.validation import (
    ANYTHING,
    PAIR,
    PICTURE,
    TEXT,
    Needs,
    Problem,
    check_part,
    is_missing,
    what_is_missing,
)
from cliptune.documents import ClipDoc
from cliptune.errors import BadData
from cliptune.settings import current

_CHUNK = 256
_CHUNK_OF_PICTURES = 32
_CHUNK_BYTES = 2**26
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
        self._reads_pairs = (needs or PAIR) if TEXT in (needs or PAIR) else ANYTHING
        """What of pairs matters: to an index neither weights nor wrong answers."""
        self._columns = self._survey()
        self.roles = choose_roles(rows.where, self._columns, options, needs)
        self._maker = DocumentMaker(rows, self._columns, self.roles, options)
        if not keep_untitled and self.roles.texts:
            self.needs = needs | {TEXT}
        self.summary = DataSummary(role, rows.where, notes=list(rows.notes))
        if "" in rows.columns:
            self.summary.notes.append("a column without a name is not read")
        self.unread = 0
        """Pictures that can't be read, so that ids could not be made of them."""
        if options.downloads:
            self._download()
        self._ids: list[str | None] = []
        """By document; None: it is left out."""
        self._places: array[int] | None = None
        """By document: its picture's offset and size in the pack; (0, 0): it has none there."""
        self._paths: dict[int, str] = {}
        """By document: where pictures are that the table only names, among those that it holds."""
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
        return (doc for _, doc in self.numbered())

    def numbered(self) -> Iterator[tuple[int, ClipDoc]]:
        """The documents, each with its row's number: from 0, those that are left out count.

        Raises:
            BadData: the table has changed since it was looked through.
        """
        return self._documents(self._pack is None)

    def _documents(self, reads_pictures: bool) -> Iterator[tuple[int, ClipDoc]]:
        """As `numbered`; without `reads_pictures` those that the table holds are not read."""
        try:
            rows = zip(self._ids, self._each(reads_pictures=reads_pictures), strict=True)
            row_number, place = -1, ""
            for number, (doc_id, row) in enumerate(rows):
                row_number += row.place != place  # a row may be several documents
                place = row.place
                if doc_id is None:
                    continue
                doc = self._maker.document(row, doc_id)
                if doc.image is not None and self._pack is not None:
                    doc.image, doc.uri = None, self._address(number)
                yield row_number, doc
        except ValueError as error:
            if isinstance(error, BadData):
                raise
            raise BadData(f"{self.rows.where} has changed since it was looked through") from error

    def _each(self, *, reads_pictures: bool = True) -> Iterator[Row]:
        """The rows, of those with several pictures one for each, and one for each wrong picture.

        Without `reads_pictures` those that the table holds itself need not be read.
        """
        image = self.roles.image
        others = set(self.rows.pictures) - {image, self.roles.negative}
        if image is None:
            yield from self.rows.read(others)
            return
        is_inside = image in self.rows.pictures and image not in self.rows.lists
        skips = is_inside and not reads_pictures
        for row in self.rows.read({*others, image} if skips else others):
            cell = _INSIDE if skips else row.cells.get(image)
            for one in (cell or [None]) if isinstance(cell, list) else [cell]:
                yield (
                    row
                    if one is row.cells.get(image)
                    else replace(row, cells={**row.cells, image: one})
                )
            if self.roles.negatives_are_pictures and self._reads_pairs >= PAIR:
                yield from self._wrong(row)

    def _wrong(self, row: Row) -> Iterator[Row]:
        """For each picture in the column of wrong answers the row with that one as its picture."""
        image, label, given = self.roles.image, self.roles.label, self.roles.id
        assert image is not None  # noqa: S101 - `choose_roles` has seen to it
        for number, picture in enumerate(values_of(row.cells.get(self.roles.negative or "")), 1):
            cells = {**row.cells, image: picture}
            cells |= {name: None for name in (label, self.roles.grade) if name is not None}
            if given is not None and (doc_id := text_of(row.cells.get(given))) is not None:
                cells[given] = f"{doc_id}-wrong-{number}"
            yield replace(row, cells=cells, is_wrong=True)

    def every_row(self) -> Iterator[tuple[Row, ClipDoc]]:
        """Each row, those that are left out too, and its document without an id.

        Of pictures that the table holds they have the digest. A row with several comes as often.
        """
        for row in self._each():
            doc = self._maker.document(row)
            yield row, doc.model_copy(update={"image": None, "image_digest": sha256_of(doc.image)})

    def documents(self) -> DocList[ClipDoc]:
        """All documents."""
        return DocList[ClipDoc](iter(self))

    def _download(self) -> None:
        """Fetch what is given by URL, where pictures are needed, and say how many."""
        pictures = map(self._maker.picture, self._each()) if PICTURE in self.needs else ()
        urls = [uri for uri in pictures if isinstance(uri, str) and is_elsewhere(uri)]
        if not urls:
            return
        downloads = self._maker.downloads = download_once(urls)
        count, fetched = len(downloads.files), downloads.fetched
        self.summary.notes.append(
            f"{count} pictures by URL: {fetched} fetched, {count - fetched} were there; "
            f"{len(downloads.problems)} could not be"
        )

    def _survey(self) -> dict[str, Column]:
        columns = {name: Column(name) for name in self.rows.columns}
        for name in self.rows.pictures:
            columns[name] = Column(name, filled=1, pictures=1, lists=name in self.rows.lists)
        for row in self.rows.read(self.rows.pictures):
            for name, value in row.cells.items():
                if is_missing(value):
                    continue
                for one in value if isinstance(value, list) else (value,):
                    if isinstance(one, str) and len(one) > MAX_TEXT and not is_picture(one):
                        raise BadData(
                            f"{self.rows.where}, {row.place}: column {name!r} has a cell of "
                            f"{len(one)} characters, the limit is {MAX_TEXT}"
                        )
                columns[name].add(value)
        columns.pop("", None)
        return columns

    def _address(self, number: int) -> str | None:
        """Where the picture of the document `number` is, in the pack or beside it."""
        assert self._pack is not None  # noqa: S101 - for the type checker
        assert self._places is not None  # noqa: S101 - likewise
        offset, size = self._places[2 * number : 2 * number + 2]
        return slice_uri(self._pack, offset, size) if size else self._paths.get(number)

    def _identify(self, has_fixed_ids: bool, pack: PicturePack | None = None) -> None:
        """Give each row its id, and find those that are left out and the duplicates."""
        column = self.roles.id
        if column is not None and not self._ids_of_column(column, has_fixed_ids, pack):
            columns = list(self._columns)
            self.roles = choose_roles(
                self.rows.where,
                {name: self._columns[name] for name in columns if name != column},
                self.options,
                self.needs,
            )
            tags = {*self.roles.tags, column}
            self.roles = replace(self.roles, tags=tuple(n for n in columns if n in tags))
            self._maker.roles = self.roles
            column = None
        if column is None:
            identities = self._look(None, pack)
            self.summary.duplicates = identities.made_distinct()
            self._ids = identities.keys

    def _ids_of_column(self, column: str, has_fixed_ids: bool, pack: PicturePack | None) -> bool:
        """Ids as the column has them; whether they are distinct."""
        identities = self._look(column, pack)
        self.summary.duplicates, clash = identities.without_duplicates()
        self._ids = identities.keys
        if clash is None:
            return True
        doc_id = identities.keys[clash[0]]
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
        identities, problems, places = Identities(), list[Problem](), array("q")
        self.unread = 0
        self._paths.clear()
        judged, root = self._judged(), self.rows.root

        def key(given: tuple[Row, ClipDoc, str | None]) -> str:
            row, doc, _ = given
            doc_id = None if column is None else text_of(row.cells.get(column))
            return key_of(doc, root) if doc_id is None else doc_id

        with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="cliptune-ids") as pool:
            for chunk in self._chunks(judged):
                keys = pool.map(key, chunk) if column is None else map(key, chunk)
                for (row, doc, reason), doc_id in zip(chunk, keys, strict=True):
                    if pack is not None and doc.uri and reason is None:
                        self._paths[len(identities.keys)] = doc.uri
                    if reason is not None:
                        problems.append(Problem(len(identities.keys), doc_id, reason, row.place))
                        identities.add(None)
                    elif column is None:
                        identities.add(doc_id, row_digest(doc))
                    else:
                        identities.add(doc_id, row_digest(doc, doc.uri, sha256_of(doc.image)))
                    self.unread += doc_id.startswith("file-") and column is None
                    places.extend(_packed(doc, reason, pack))
        self.summary.left_out, self._places = problems, places
        return identities

    def _chunks(
        self, judged: Iterator[tuple[Row, ClipDoc, str | None]]
    ) -> Iterator[list[tuple[Row, ClipDoc, str | None]]]:
        """The rows in lists, of as many as are looked at at once; few where pictures are large."""
        chunk, size = list[tuple[Row, ClipDoc, str | None]](), 0
        for one in judged:
            chunk.append(one)
            size += len(one[1].image or b"")
            if len(chunk) == self._chunk or size > _CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
        yield chunk

    def _place(self, number: int) -> str:
        """Where the document `number` stands."""
        return next(islice(self._each(reads_pictures=False), number, None)).place

    def _judged(self) -> Iterator[tuple[Row, ClipDoc, str | None]]:
        """Each row, its document, and why it can't be used."""
        for row in self._each():
            doc = self._maker.document(row)
            reason = what_is_missing(doc, self.needs)
            if reason is None and self._reads_pairs:
                reason = self._maker.fault(row)
            if reason is not None and doc.text is None and TEXT in self.needs:
                reason = self._maker.why_untitled(row)
            if PICTURE in self.needs and doc.uri and is_elsewhere(doc.uri):
                if (downloads := self._maker.downloads) is None:
                    advice = self.options.download_advice
                    refuse_elsewhere(self.rows.where, self.role, doc.uri, row.place, advice)
                reason = reason or f"no picture: {downloads.problems[doc.uri]}"
            picture = self._maker.picture(row)
            if PICTURE in self.needs and isinstance(picture, Unusable):
                reason = f"no picture: {picture.reason}"
            yield row, doc, reason

    def _describe(self) -> None:
        summary = self.summary
        summary.rows = len(self._ids)
        summary.columns = self.roles.described()
        if summary.rows == 0:
            raise BadData(f"{self.rows.where} has no rows")
        summary.add(doc for _, doc in self._documents(reads_pictures=False))
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


def _packed(doc: ClipDoc, reason: str | None, pack: PicturePack | None) -> tuple[int, ...]:
    """Where the picture of `doc` is in the pack now; nothing without one."""
    if pack is None:
        return ()
    return pack.add(doc.image) if doc.image and reason is None else (0, 0)
