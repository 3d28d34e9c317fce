"""What a file is by its first bytes, so that a picture given as a table is called a picture."""

from __future__ import annotations

import io
import zipfile

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
    (b"PAR1", "a Parquet file", _EXPORT),
    (b"ARROW1\0", "an Arrow file", _EXPORT),
    (b"\xff\xff\xff\xff", "an Arrow stream", _EXPORT),
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
_TEXT_MAGIC = (b"PAR1", b"ORC", b"BZh", b"GIF87a", b"GIF89a", b"%PDF-")
"""Those that a table could begin with: they count only in files that hold other bytes than text."""
_ISO_MEDIA = {b"avif": "an AVIF picture", b"avis": "an AVIF picture", b"heic": "a HEIC picture",
              b"heix": "a HEIC picture", b"mif1": "a HEIF picture"}  # fmt: skip


def kind_of(data: bytes) -> tuple[str, str] | None:
    """(what the file is, what can be done) for a file that is no text; None: it may be a table."""
    head = data[:8192]
    for magic, kind, advice in _MAGIC:
        if head.startswith(magic) and (magic not in _TEXT_MAGIC or _is_binary(data)):
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
    if head[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_kind(data)
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
    return any(byte < 9 or 13 < byte < 27 for byte in data[:65536] + data[-65536:])


def _zip_kind(data: bytes) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return "a damaged zip file", "copy it again"
    if "xl/workbook.xml" in names or "xl/workbook.bin" in names:
        return "an Excel workbook", "save the sheet as 'CSV UTF-8' and give that file"
    if "content.xml" in names:
        return "an OpenDocument file", _EXPORT
    if "word/document.xml" in names:
        return "a Word document", _EXPORT
    if "metadata.yml" in names:
        return "a model's artifact", "give a table as CSV, or a folder of pictures"
    if names and all(name.endswith(".npy") for name in names):
        return "a NumPy archive", _EXPORT
    return "a zip archive", _UNPACK
