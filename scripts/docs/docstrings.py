"""An extension of Griffe: docstrings as Markdown.

They mark a block of code by a colon twice, as reStructuredText does; Markdown shows that as it is.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ALONE = re.compile(r"^[ \t]*::[ \t]*\n", re.MULTILINE)
_AFTER_WORDS = re.compile(r"::[ \t]*$", re.MULTILINE)


class PlainCode(griffe.Extension):
    """Take the second colon away, and a line that is nothing else."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Mend the docstring of a module, a class, a function or an attribute."""
        if obj.docstring:
            text = _ALONE.sub("", obj.docstring.value)
            obj.docstring.value = _AFTER_WORDS.sub(":", text)
