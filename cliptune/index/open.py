"""From a URI to the store behind it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from cliptune.errors import BadInput
from cliptune.extras import need

if TYPE_CHECKING:
    from cliptune.index.base import Index


def is_server(uri: str) -> bool:
    """Whether `uri` is a server's address, not a folder's path."""
    return uri.lower().startswith(("http://", "https://"))


def folder_of(uri: str | Path) -> Path | None:
    """The folder that a path or a `file://` URI names, absolute; None if it is another address."""
    path = _path_of(str(uri))
    return None if path is None else Path(path).expanduser().absolute()


def _path_of(uri: str) -> str | None:
    scheme, has_scheme, rest = uri.partition("://")
    if not has_scheme:
        return uri
    return rest if scheme.lower() == "file" else None


def absolute_uri(uri: str | Path) -> str:
    """The same index's address whatever the working directory: a folder's path made absolute."""
    return str(uri) if "://" in str(uri) else str(Path(uri).absolute())


def open_index(uri: str | Path, **options: object) -> Index:
    """Open the index at `uri`, or make it.

    A path (or `file://` URI) is a folder, kept by LanceDB: see `LanceIndex`, whose
    `LanceOptions` are the `options`. `http://host:19530/collection` (or `https://`, or
    `…/database/collection`) is a collection of a Milvus server: see `MilvusIndex`, whose
    `MilvusOptions` are the `options`; some may stand in the address (`?consistency=session`).
    Any other scheme raises `BadInput`.
    """
    text = str(uri)
    if is_server(text):
        from cliptune.index.milvus.server import MilvusAddress, options_of
        from cliptune.index.milvus.store import MilvusIndex

        address = MilvusAddress.parse(text)
        return MilvusIndex(address, options_of(address, options))
    path = _path_of(text)
    if path is None:
        raise BadInput(
            f"{text!r}: an index is a folder's path, or a Milvus server's "
            f"address (http:// or https://); got the scheme {text.partition('://')[0]!r}"
        )
    if not path.strip() or "\0" in path:
        raise BadInput(f"{uri!r}: an index is a folder's path")
    need("index", "an index in a folder")
    from cliptune.index.lance.folder import LanceOptions
    from cliptune.index.lance.store import LanceIndex

    known = [field.name for field in fields(LanceOptions)]
    for name in options:
        if name not in known:
            raise BadInput(f"{name}: no option of a folder's index; there are {', '.join(known)}")
    return LanceIndex(path, LanceOptions(**options))  # type: ignore[arg-type] # checks them
