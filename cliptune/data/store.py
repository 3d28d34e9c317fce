"""Data sets by name: `push` once, name them in `fit`, `pull` anywhere that shares the store.

A data set is a file under `CLIPTUNE_HOME/data` in DocArray's binary format (one protobuf a
document, each gzipped): `DocList[ClipDoc].load_binary(path, 'protobuf', 'gzip')` reads it too.
A URL keeps the same file where fsspec reaches it: `s3://bucket/name`, `gs://bucket/name`,
`file:///folder/name`, … It is there whole or not at all, as object stores show nothing else.
DocArray's own stores are not used: the one for S3 pickles, and reading a pickle runs whatever code
its writer put into it; the one for files cuts names at their last dot.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import fsspec
from docarray import DocList
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from cliptune.documents import ClipDoc
from cliptune.errors import (
    AlreadyExists,
    BadData,
    BadInput,
    CliptuneError,
    NotFound,
    Unavailable,
    near_matches,
    shown,
)
from cliptune.files import write_bytes
from cliptune.names import DATA_SET
from cliptune.settings import current

_SUFFIX = ".docs"
MAX_DOCUMENT_BYTES = 128 * 2**20
"""Of one unzipped document: its picture (at most `CLIPTUNE_MAX_PICTURE`) and the rest."""
MAX_UNZIPPED_BYTES = 2**30
MAX_UNZIPPED_RATIO = 20
"""More than both, and a data set is refused: pictures barely compress, texts some ten times."""
_HEADER_BYTES = 9
"""Of DocArray's binary stream: a version and the number of documents."""


def push(docs: DocList[ClipDoc], name: str, *, replace: bool = False) -> str:
    """Keep `docs` under `name`; returns the name.

    Raises:
        AlreadyExists: the name is in use and `replace` is not given.
        BadInput: the name has other characters than letters, digits, `.`, `_`, `-`, or is a URL
            of an unknown kind.
        NotFound: of a URL, there is no such bucket.
        Unavailable: its store can't be reached, or `cliptune[s3]` is not installed.
    """
    if not docs:
        raise BadData("no documents to push")
    if is_url(name):
        _push_to_url(dump_documents(docs), name, replace=replace)
        return name
    path = _path(DATA_SET.check(name))
    if path.exists() and not replace:
        raise _in_use(name)
    write_bytes(path, dump_documents(docs))
    return name


def pull(name: str) -> DocList[ClipDoc]:
    """The data set that was pushed as `name`.

    Raises:
        NotFound: there is none; the message lists near names.
        BadInput, Unavailable: as `push`, of a URL.
    """
    if is_url(name):
        return parse_documents(_pull_from_url(name), name)
    path = _path(DATA_SET.look_up(name))
    if not path.is_file():
        raise NotFound(f"no data set {name!r}: {near_matches(name, list_pushed())}")
    return parse_documents(path.read_bytes(), str(path))


def list_pushed() -> list[str]:
    """The names of the local data sets, sorted."""
    files = current().data_dir.glob(f"*{_SUFFIX}")
    return sorted(path.name.removesuffix(_SUFFIX) for path in files)


def is_url(name: str) -> bool:
    """Whether a data set's name says where it is, such as `s3://bucket/name`.

    What lies on the web is none: nothing is fetched from there unasked.
    """
    scheme, mark, _ = name.partition("://")
    return bool(mark) and scheme.lower() not in ("http", "https")


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
    return current().data_dir / f"{name}{_SUFFIX}"


def located(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, and the path of its file there.

    Raises:
        BadInput: nothing is known of such URLs.
        Unavailable: what speaks to such stores isn't installed.
    """
    scheme = url.partition("://")[0].lower()
    if scheme not in fsspec.available_protocols() or "::" in url:
        known = "s3://, gs://, az://, file://"
        raise BadInput(f"{shown(url)}: unknown kind of URL; there are {known} and others")
    try:
        system, path = fsspec.url_to_fs(url)
    except ImportError as error:
        package = "'cliptune[s3]'" if scheme in ("s3", "s3a") else "what fsspec needs for it"
        raise Unavailable(f"{scheme}:// needs: pip install {package} ({error})") from error
    except Exception as error:
        raise store_failure(url, error) from error
    return system, path


def _push_to_url(data: bytes, url: str, *, replace: bool) -> None:
    system, path = located(f"{url}{_SUFFIX}")
    if isinstance(system, LocalFileSystem):
        if Path(path).exists() and not replace:
            raise _in_use(url)
        return write_bytes(Path(path), data)
    try:
        if not replace and system.exists(path):
            raise _in_use(url)
        system.pipe_file(path, data)
    except Exception as error:
        raise store_failure(url, error) from error


def _pull_from_url(url: str) -> bytes:
    system, path = located(f"{url}{_SUFFIX}")
    try:
        return bytes(system.cat_file(path))
    except Exception as error:
        raise store_failure(url, error) from error


def store_failure(url: str, error: Exception, what: str = "data set") -> CliptuneError:
    """What to tell the user of an error of a store's client."""
    if isinstance(error, CliptuneError):
        return error
    words = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, FileNotFoundError):
        return NotFound(f"no {what} at {shown(url)}, or no such bucket: {words}")
    advice = ""
    if isinstance(error, PermissionError) or "credential" in words.lower():
        advice = (
            "; who you are is taken from where the store's own tools take it, for S3 "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE"
        )
    return Unavailable(f"{what} {shown(url)}: {words}{advice}")


def _in_use(name: str) -> AlreadyExists:
    return AlreadyExists(f"a data set {name!r} is there already: give replace=True")
