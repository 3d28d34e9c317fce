"""From a URI to the store behind it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from cliptune.errors import BadInput, Unavailable
from cliptune.index.base import Index


def open_index(uri: str | Path, **options: Any) -> Index:
    """Open the index at `uri`, or make it.

    A path (or `file://` URI) is a folder, kept by LanceDB: see `LanceIndex`, whose
    `LanceOptions` are the `options`. `http://` and `https://` are reserved for Milvus, which
    isn't supported yet and raises `Unavailable`. Any other scheme raises `BadInput`.
    """
    from cliptune.index.lance import LanceIndex
    from cliptune.index.lance_options import LanceOptions

    text = str(uri)
    if isinstance(uri, str):
        scheme, found, rest = text.partition("://")
        if found and scheme.lower() in ("http", "https"):
            raise Unavailable(
                f"{text!r}: indexes in a Milvus server aren't supported yet; give a folder's path"
            )
        if found and scheme.lower() != "file":
            raise BadInput(f"{text!r}: an index is a folder's path, got the scheme {scheme!r}")
        text = rest if found else text
    if not text.strip() or "\0" in text:
        raise BadInput(f"{uri!r}: an index is a folder's path")
    known = [field.name for field in fields(LanceOptions)]
    for name in options:
        if name not in known:
            raise BadInput(f"{name}: no option of a folder's index; there are {', '.join(known)}")
    return LanceIndex(text, LanceOptions(**options))
