"""The tables of docs/settings.md, made of `cliptune.settings`.

`python -m scripts.docs.settings` writes them into the page, which is read on a code host as well as
on its site; a test compares the page with them. Each stands between a mark with the name of its
section and an end's.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic.fields import FieldInfo

from cliptune.settings import SECTIONS, Section, about, allowed, variable_of

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
_TABLE = re.compile(r"(<!-- settings: (\w+) -->\n).*?(<!-- end -->)", re.S)


def with_tables(page: str) -> str:
    """`page` with the tables as they should be."""
    sections = {one.__name__.removesuffix("Settings").lower(): one for one in SECTIONS}
    return _TABLE.sub(lambda mark: f"{mark[1]}{table(sections[mark[2]])}{mark[3]}", page)


def table(section: type[Section]) -> str:
    """A section's settings as a table of Markdown."""
    rows = [_row(section, name, field) for name, field in section.model_fields.items()]
    head = ["Variable", "Default", "Allowed", "Meaning", "Asked for by"]
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _row(section: type[Section], name: str, field: FieldInfo) -> list[str]:
    told = about(field)
    default = told.default or _written(field.default)
    meaning = f"{told.unit} {told.meaning}".strip()
    values = allowed(field).removeprefix("a whole number from ")
    return [
        f"`{variable_of(name)}`",
        default,
        values,
        meaning,
        ", ".join(told.read_by or section.read_by),
    ]


def _written(default: object) -> str:
    if default in (None, "", ()):
        return "none"
    number = isinstance(default, bool | float)
    return f"`{default:g}`" if number else f"`{default}`"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")
