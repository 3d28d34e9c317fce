"""Data sets by name: `push` once, name them in `fit`, `pull` anywhere that shares the store.

A data set is a file under `CLIPTUNE_HOME/data` in DocArray's binary format (one protobuf a
document, each gzipped): `DocList[ClipDoc].load_binary(path, 'protobuf', 'gzip')` reads it too.
Names that begin with `s3://bucket/` keep the same file in S3. DocArray's own stores are not
used: the one for S3 pickles, and reading a pickle runs whatever code its writer put into it;
the one for files cuts names at their last dot.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.errors import AlreadyExists, BadData, NotFound, Unavailable, near_matches
from cliptune.files import write_bytes
from cliptune.home import data_dir
from cliptune.names import DATA_SET

_SUFFIX = ".docs"
MAX_DOCUMENT_BYTES = 128 * 2**20
"""Of one unzipped document: its picture (at most `pictures.images.MAX_BYTES`) and the rest."""
MAX_UNZIPPED_BYTES = 2**30
MAX_UNZIPPED_RATIO = 20
"""More than both, and a data set is refused: pictures barely compress, texts some ten times."""
_HEADER_BYTES = 9
"""Of DocArray's binary stream: a version and the number of documents."""


def push(docs: DocList[ClipDoc], name: str, *, replace: bool = False) -> str:
    """Keep `docs` under `name`; returns the name.

    Raises:
        AlreadyExists: the name is in use and `replace` is not given.
        BadInput: the name has other characters than letters, digits, `.`, `_`, `-`.
        Unavailable: the S3 store can't be reached, or `cliptune[s3]` is not installed.
    """
    if not docs:
        raise BadData("no documents to push")
    if name.startswith("s3://"):
        with _open_s3(name, "wb") as file:
            file.write(dump_documents(docs))
        return name
    path = _path(DATA_SET.check(name))
    if path.exists() and not replace:
        raise AlreadyExists(f"a data set {name!r} is there already: give replace=True")
    write_bytes(path, dump_documents(docs))
    return name


def pull(name: str) -> DocList[ClipDoc]:
    """The data set that was pushed as `name`.

    Raises:
        NotFound: there is none; the message lists near names.
    """
    if name.startswith("s3://"):
        with _open_s3(name, "rb") as file:
            return parse_documents(file.read(), name)
    path = _path(DATA_SET.look_up(name))
    if not path.is_file():
        raise NotFound(f"no data set {name!r}: {near_matches(name, list_pushed())}")
    return parse_documents(path.read_bytes(), str(path))


def list_pushed() -> list[str]:
    """The names of the local data sets, sorted."""
    return sorted(path.name.removesuffix(_SUFFIX) for path in data_dir().glob(f"*{_SUFFIX}"))


def delete_pushed(name: str) -> None:
    """Remove the local data set `name`.

    Raises:
        NotFound: there is none.
    """
    path = _path(DATA_SET.look_up(name))
    if not path.is_file():
        raise NotFound(f"no data set {name!r}: {near_matches(name, list_pushed())}")
    path.unlink()


def dump_documents(docs: DocList[ClipDoc]) -> bytes:
    """Documents as bytes, in DocArray's binary format."""
    data = DocList[ClipDoc](docs).to_bytes(protocol="protobuf", compress="gzip")
    return data or b""


def parse_documents(data: bytes, where: str) -> DocList[ClipDoc]:
    """What `dump_documents` wrote; `where` is named in errors.

    Raises:
        BadData: the bytes are damaged or something else, a document unzips to more than
            `MAX_DOCUMENT_BYTES`, or all to more than the larger of `MAX_UNZIPPED_BYTES` and
            `MAX_UNZIPPED_RATIO` times the bytes.
    """
    docs = DocList[ClipDoc]()
    left = max(MAX_UNZIPPED_BYTES, MAX_UNZIPPED_RATIO * len(data))
    try:
        for number, frame in enumerate(_frames(data)):
            document = _unzip(frame, min(left, MAX_DOCUMENT_BYTES), number)
            left -= len(document)
            # The protocol is given, never taken from the data or from a file's name.
            docs.append(ClipDoc.from_bytes(document, protocol="protobuf"))
    except Exception as error:
        # Of a hostile document DocArray raises whatever protobuf, pydantic or NumPy do.
        raise BadData(f"{where} is not a data set, or is damaged: {error}") from error
    return docs


def _frames(data: bytes) -> Iterator[memoryview]:
    """Each document's gzipped bytes in DocArray's stream.

    DocArray itself reads past the end without a word, and unzips whatever size it comes to.
    """
    count = int.from_bytes(data[1:_HEADER_BYTES], "big")
    view, position = memoryview(data), _HEADER_BYTES
    if data[:1] != b"\x02":
        raise ValueError("it is no DocArray stream")
    for _ in range(count):
        head = view[position : position + 4]
        start = position + 4
        position = start + int.from_bytes(head, "big")
        if len(head) < 4 or position > len(data):
            raise ValueError("it ends in the middle of a document")
        yield view[start:position]
    if position != len(data):
        raise ValueError("it goes on after its last document")


def _unzip(frame: memoryview, limit: int, number: int) -> bytes:
    """Unzip the gzipped document `number`; never makes more than `limit` + 1 bytes of it."""
    gunzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    document = gunzip.decompress(frame, limit + 1)
    if len(document) > limit:
        raise ValueError(f"document {number} unzips to more than the {limit} bytes allowed to it")
    if not gunzip.eof or gunzip.unused_data:
        raise ValueError(f"document {number} is not one whole gzip stream")
    return document


def _path(name: str) -> Path:
    return data_dir() / f"{name}{_SUFFIX}"


class _open_s3:  # noqa: N801 - reads as a statement
    """`s3://bucket/name` as a file; whatever the S3 client raises becomes one clear error."""

    def __init__(self, name: str, mode: str) -> None:
        self.name, self.mode = name, mode

    def __enter__(self) -> Any:
        try:
            import boto3  # noqa: F401 - smart_open imports it only when it connects
            from smart_open import open as open_remote
        except ImportError as error:
            raise Unavailable("data sets in S3 need: pip install 'cliptune[s3]'") from error
        try:
            self.file = open_remote(f"{self.name}{_SUFFIX}", self.mode)
        except Exception as error:
            raise Unavailable(f"S3 data set {self.name!r}: {error}") from error
        return self.file

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        try:
            self.file.__exit__(kind, error, trace)
        except Exception as s3_error:
            raise Unavailable(f"S3 data set {self.name!r}: {s3_error}") from s3_error
