"""What a file is by its first bytes, whatever its name: which kind of table, or that it is none."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from cliptune.errors import BadData

_LOOKED_AT = 65536
"""Bytes of a file's start, and of its end."""
_EXPORT = "export it as CSV (UTF-8) and give that file"
_PICTURE = "give the folder that it is in, or a table that names it"
_UNPACK = "unpack it and give the table or the folder that is in it"
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xd8\xff", "a JPEG picture", _PICTURE),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture", _PICTURE),
    (b"GIF87a", "a GIF picture", _PICTURE),
    (b"GIF89a", "a GIF picture", _PICTURE),
    (b"II*\0", "a TIFF picture", _PICTURE),
    (b"MM\0*", "a TIFF picture", _PICTURE),
    (b"8BPS\0", "a Photoshop picture", "save it as JPEG or PNG"),
    (b"ORC", "an ORC file", _EXPORT),
    (b"Obj\x01", "an Avro file", _EXPORT),
    (b"SQLite format 3\0", "an SQLite database", _EXPORT),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel or Word file (.xls, .doc)", _EXPORT),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", _EXPORT),
    (b"\x93NUMPY", "a NumPy array", _EXPORT),
    (b"\x80\x02", "a Python pickle", "it isn't read, for it could run any code; " + _EXPORT),
    (b"\x80\x03", "a Python pickle", "it isn't read, for it could run any code; " + _EXPORT),
    (b"\x80\x04", "a Python pickle", "it isn't read, for it could run any code; " + _EXPORT),
    (b"\x80\x05", "a Python pickle", "it isn't read, for it could run any code; " + _EXPORT),
    (b"\x1f\x8b", "a gzip file", _UNPACK),
    (b"BZh", "a bzip2 file", _UNPACK),
    (b"\xfd7zXZ\0", "an xz file", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"%PDF-", "a PDF", "give a table as CSV, or a folder of pictures"),
    (b"\x7fELF", "a program", "give a table as CSV, or a folder of pictures"),
    (b"\x1aE\xdf\xa3", "a video", "give a folder of pictures"),
)
_TARS = (".tar.gz", ".tgz", ".tar")
_TYPED = (".parquet", ".arrow", ".feather", *_TARS)
"""What no text is called by mistake."""
_TEXT_MAGIC = (b"ORC", b"BZh", b"GIF87a", b"GIF89a", b"%PDF-")
"""Those that a table could begin with: they count only in files that hold other bytes than text."""
_ISO_MEDIA = {b"avif": "an AVIF picture", b"avis": "an AVIF picture", b"heic": "a HEIC picture",
              b"heix": "a HEIC picture", b"mif1": "a HEIF picture"}  # fmt: skip


TableKind = Literal["text", "parquet", "arrow", "workbook", "tar"]


def table_kind(path: Path) -> TableKind:
    """How the table at `path` is kept.

    Raises:
        BadData: it is none; the message says what it is, and what to do.
    """
    with path.open("rb") as file:
        head = file.read(_LOOKED_AT)
        file.seek(max(0, path.stat().st_size - _LOOKED_AT))
        tail = file.read(_LOOKED_AT)
    name = path.name.lower()
    if head.startswith(b"PAR1") and _is_binary(head + tail):
        return "parquet"
    if head.startswith((b"ARROW1\0", b"\xff\xff\xff\xff")):
        return "arrow"
    if head[257:262] == b"ustar":
        return "tar"
    if head.startswith(b"PK\x03\x04") and _is_workbook(path):
        return "workbook"
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1") and name.endswith(".xls"):
        return "workbook"
    is_packed = head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"))
    # The oldest tars have no mark.
    if name.endswith(_TARS) and (is_packed or _is_binary(head)):
        return "tar"
    if kind := _other_kind(path, head, tail):
        raise BadData(f"{path} is not a table but {kind[0]}: {kind[1]}")
    if name.endswith(_TYPED) and head.strip():
        begins = head[:60].decode(errors="replace").strip()
        raise BadData(
            f"{path} is no {name.rpartition('.')[2]} file, it begins with {begins!r}: was an error "
            "message saved instead of the table?"
        )
    return "text"


def _other_kind(path: Path, head: bytes, tail: bytes) -> tuple[str, str] | None:
    """(what the file is, what can be done) for a file that is no text; None: it may be a table."""
    for magic, kind, advice in _MAGIC:
        if head.startswith(magic) and (magic not in _TEXT_MAGIC or _is_binary(head + tail)):
            return kind, advice
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "a WebP picture", _PICTURE
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0" and len(head) > 26:
        return "a BMP picture", _PICTURE
    if head[4:8] == b"ftyp":
        is_picture = head[8:12] in _ISO_MEDIA
        return _ISO_MEDIA.get(head[8:12], "a video"), _PICTURE if is_picture else (
            "give a folder of pictures"
        )
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_kind(path)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:200].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page", "was a login or an error page saved instead of the table?"
    if start.startswith(b"<?xml"):
        return "an XML file", _EXPORT
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer", "fetch the file itself: git lfs pull"
    return None


def _is_binary(data: bytes) -> bool:
    """Whether there are bytes that no text has."""
    return any(byte < 9 or 13 < byte < 27 for byte in data)


def _is_workbook(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if "content.xml" in names and "mimetype" in names:
                return b"spreadsheet" in archive.open("mimetype").read(200)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError):
        return False
    return bool(names & {"xl/workbook.xml", "xl/workbook.bin"})


def _zip_kind(path: Path) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return "a damaged zip file", "copy it again"
    if "word/document.xml" in names:
        return "a Word document", _EXPORT
    if "content.xml" in names:
        return "an OpenDocument file of another kind than a spreadsheet", _EXPORT
    if "metadata.yml" in names:
        return "a model's artifact", "give a table as CSV, or a folder of pictures"
    if names and all(name.endswith(".npy") for name in names):
        return "a NumPy archive", _EXPORT
    return "a zip archive", _UNPACK
