"""Paths and titles made of a row's columns, such as `images/{id}.jpg`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_BLANK = "\x00"
"""What stands for a blank cell while a title is made."""
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def columns_in(template: str) -> list[str]:
    """The columns that a template names."""
    return _PLACEHOLDER.findall(template)


def fill_template(template: str, cells: Mapping[str, str]) -> str | None:
    """The path that a template makes of a row; None where a column that it names is blank.

    No format(): its attribute and index access is not for values out of a table.
    """
    if any(not cells[name] for name in columns_in(template)):
        return None
    return _PLACEHOLDER.sub(lambda match: cells[match.group(1)], template)


def fill_text(template: str, cells: Mapping[str, str]) -> str | None:
    """The title that a template makes of a row; None where all columns that it names are blank.

    A comma and the like beside a blank one go with it, as do spaces.
    """
    if not any(cells[name] for name in columns_in(template)):
        return None
    parts = _PLACEHOLDER.sub(lambda match: cells[match.group(1)] or _BLANK, template)
    filled = re.sub(rf"[\s,;:|/–—-]*{_BLANK}", "", parts)
    return " ".join(filled.split()).strip(" ,;:|/–—-") or None


def with_columns(template: str, name_of: Callable[[str], str | None]) -> str:
    """`template` with the columns' names as `name_of` writes them."""
    return _PLACEHOLDER.sub(lambda match: f"{{{name_of(match.group(1))}}}", template)
