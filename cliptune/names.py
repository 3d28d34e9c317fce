"""Names of what cliptune keeps: one rule for each kind, when one is made and when it is looked up.

Most names become a part of a path, so that nothing but these rules stands between a client's text
and the file system.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from cliptune.errors import BadInput, NotFound, shown

_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)


@dataclass(frozen=True)
class NameRule:
    """What can be the name of a kind of thing: letters, digits, `.`, `_` and `-`.

    The first one is a letter or a digit, and `..` stands nowhere in it.
    """

    kind: str
    """As errors call it: `run`, `data set`, …"""
    longest: int
    """Characters of a name at most."""

    def allows(self, name: Any) -> bool:
        """Whether something of this kind can have the name."""
        return (
            isinstance(name, str)
            and len(name) <= self.longest
            and _FORM.fullmatch(name) is not None
            and ".." not in name
        )

    def check(self, name: Any, what: str | None = None) -> str:
        """`name`, for something that is to be made.

        Args:
            name: what was given.
            what: the argument that it was given as; None: the kind's name.

        Raises:
            BadInput: nothing of this kind can be called so.
        """
        if not self.allows(name):
            raise BadInput(f"{what or f'{self.kind} name'} is {shown(name)}: use {self}")
        return str(name)

    def look_up(self, name: Any) -> str:
        """`name`, for something that should be there.

        Raises:
            NotFound: nothing of this kind can be called so, and so there is none.
        """
        if not self.allows(name):
            raise NotFound(f"no {self.kind} {shown(name)}: names are {self}")
        return str(name)

    def __str__(self) -> str:
        """The rule in words."""
        return (
            f"1 to {self.longest} letters, digits, '.', '_' and '-', beginning with a letter or a "
            "digit, without '..'"
        )


RUN = NameRule("run", 100)
EXPERIMENT = NameRule("experiment", 100)
DATA_SET = NameRule("data set", 128)
API_KEY = NameRule("key", 64)
