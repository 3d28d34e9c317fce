"""DocArray 0.41, mended as it is imported, whoever imports it; it is no longer maintained.

It imports torch, TensorFlow and JAX wherever they are installed, for documents with tensors of
theirs: three seconds and 450 MB of every client and gateway, which have none. So those that
nobody has imported by then are out of its sight: who declares a document with a `TorchTensor`
imports torch before DocArray.

On Python 3.12 and later a field `DocList[X]` can't be declared: there `DocList[X]` is a
`types.GenericAlias` of a class that knows its X already, and reading a class's annotations
subscribes that class once more (`typing._eval_type`), which DocArray refuses.

`mend` is called where the package `cliptune` is imported, before any document is declared.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import GenericAlias, ModuleType
from typing import Any

from cliptune.extras import hidden

_TENSORS = ("torch", "tensorflow", "jax")


def mend() -> None:
    """Mend DocArray: as soon as it is imported, or now if it is."""
    if "docarray" in sys.modules:
        _mend_imported()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds DocArray where it is, and has it mended; it is asked once."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Leave all other modules to the finders after this one."""
        if name != "docarray":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_mend(module: ModuleType) -> None:
                with hidden(*_TENSORS):
                    load(module)
                _mend_imported()

            vars(spec.loader)["exec_module"] = load_and_mend
        return spec


def _mend_imported() -> None:
    if sys.version_info >= (3, 12):
        _allow_subscribing_again()


def _allow_subscribing_again() -> None:
    """Have `DocList[X].__origin__[X]` be `DocList[X]` once more."""
    from docarray import DocList
    from docarray.base_doc import AnyDoc

    subscribe = DocList.__class_getitem__.__func__  # type: ignore[attr-defined]

    def __class_getitem__(cls: type[DocList[Any]], item: Any) -> Any:  # noqa: N807
        if cls.doc_type is not AnyDoc and item in (cls.doc_type, (cls.doc_type,)):
            return GenericAlias(cls, item)
        return subscribe(cls, item)

    DocList.__class_getitem__ = classmethod(__class_getitem__)  # type: ignore[assignment]
