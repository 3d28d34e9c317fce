"""From a URI to the store behind it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from cliptune.errors import BadInput
from cliptune.index.base import Index


def is_server(uri: str) -> bool:
    """Whether `uri` is a server's address, not a folder's path."""
    return uri.lower().startswith(("http://", "https://"))


def absolute_uri(uri: str | Path) -> str:
    """The same index's address whatever the working directory: a folder's path made absolute."""
    return str(uri) if "://" in str(uri) else str(Path(uri).absolute())


def open_index(uri: str | Path, **options: Any) -> Index:
    """Open the index at `uri`, or make it.

    A path (or `file://` URI) is a folder, kept by LanceDB: see `LanceIndex`, whose
    `LanceOptions` are the `options`. `http://host:19530/collection` (or `https://`, or
    `…/database/collection`) is a collection of a Milvus server: see `MilvusIndex`, whose
    `MilvusOptions` are the `options`; some may stand in the address (`?consistency=session`).
    Any other scheme raises `BadInput`.
    """
    text = str(uri)
    if isinstance(uri, str):
        scheme, found, rest = text.partition("://")
        if is_server(text):
            return _open_milvus(text, options)
        if found and scheme.lower() != "file":
            raise BadInput(
                f"{text!r}: an index is a folder's path, or a Milvus server's "
                f"address (http:// or https://); got the scheme {scheme!r}"
            )
        text = rest if found else text
    from cliptune.index.lance.options import LanceOptions
    from cliptune.index.lance.store import LanceIndex

    if not text.strip() or "\0" in text:
        raise BadInput(f"{uri!r}: an index is a folder's path")
    known = [field.name for field in fields(LanceOptions)]
    for name in options:
        if name not in known:
            raise BadInput(f"{name}: no option of a folder's index; there are {', '.join(known)}")
    return LanceIndex(text, LanceOptions(**options))


def _open_milvus(uri: str, options: dict[str, Any]) -> Index:
    from cliptune.index.milvus.options import MilvusAddress, options_of
    from cliptune.index.milvus.store import MilvusIndex

    address = MilvusAddress.parse(uri)
    return MilvusIndex(address, options_of(address, options))
