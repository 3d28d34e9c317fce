"""An extension of Griffe: docstrings, and descriptions of pydantic's fields, as Markdown.

Docstrings mark a block of code by a colon twice, as reStructuredText does; Markdown shows that as
it is.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import griffe

_ALONE = re.compile(r"^[ \t]*::[ \t]*\n", re.MULTILINE)
_AFTER_WORDS = re.compile(r"::[ \t]*$", re.MULTILINE)


def plain(docstring: str) -> str:
    """The text without the second colon, and without a line that is nothing else."""
    return _AFTER_WORDS.sub(":", _ALONE.sub("", docstring))


class PlainDocstrings(griffe.Extension):
    """Make Markdown of what the code says about itself."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Give what a class overrides the docstring of what it overrides, as `help()` does."""
        for module in (pkg, *_modules(pkg)):
            for cls in module.classes.values():
                for name, member in cls.members.items():
                    if not member.is_alias and not member.docstring:
                        member.docstring = _inherited(cls, name)

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Mend the docstring of a module, a class, a function or an attribute."""
        if obj.docstring:
            obj.docstring.value = plain(obj.docstring.value)

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Take a field's description for its docstring, and its default for its value."""
        call = attr.value
        if not isinstance(call, griffe.ExprCall) or call.canonical_path != "pydantic.Field":
            return
        named = {a.name: a.value for a in call.arguments if isinstance(a, griffe.ExprKeyword)}
        with suppress(ValueError):  # made at run time, as an f-string
            words = ast.literal_eval(str(named.get("description", "''")))
            attr.docstring = griffe.Docstring(words, parent=attr) if words else None
        first = call.arguments[0] if call.arguments else None
        attr.value = None if isinstance(first, griffe.ExprKeyword) else first


def _modules(package: griffe.Module) -> Iterator[griffe.Module]:
    for module in package.modules.values():
        if not module.is_alias:
            yield module
            yield from _modules(module)


def _inherited(cls: griffe.Class, name: str) -> griffe.Docstring | None:
    """The docstring of `name` in the nearest base that has one."""
    with suppress(ValueError):  # bases of no one order
        for base in cls.mro():
            member = base.members.get(name)
            if member is not None and member.docstring:
                return member.docstring
    return None
