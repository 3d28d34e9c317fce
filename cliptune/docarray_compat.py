"""DocArray 0.41 on Python 3.12 and later, where a field `DocList[X]` can't be declared otherwise.

There `DocList[X]` is a `types.GenericAlias` of a class that knows its X already, and reading a
class's annotations subscribes that class once more (`typing._eval_type`), which DocArray refuses.
DocArray is no longer maintained, so it is mended here; to be imported before a document is
declared, and before Jina is imported.
"""

from __future__ import annotations

import sys
from types import GenericAlias
from typing import Any

from docarray import DocList
from docarray.base_doc import AnyDoc


def _allow_subscribing_again() -> None:
    """Have `DocList[X].__origin__[X]` be `DocList[X]` once more."""
    subscribe = DocList.__class_getitem__.__func__  # type: ignore[attr-defined]

    def __class_getitem__(cls: type[DocList[Any]], item: Any) -> Any:  # noqa: N807
        if cls.doc_type is not AnyDoc and item in (cls.doc_type, (cls.doc_type,)):
            return GenericAlias(cls, item)
        return subscribe(cls, item)

    DocList.__class_getitem__ = classmethod(__class_getitem__)  # type: ignore[assignment]


if sys.version_info >= (3, 12):
    _allow_subscribing_again()
