"""How a table is read: what a user can say of it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from cliptune.errors import BadInput, near_matches

COLUMN_OPTIONS = ("text_column", "image_column", "label_column", "id_column")
PAIR_OPTIONS = ("weight_column", "grade_column", "negative_column")
"""Columns that say something of a pair. They are never found by their names: a column called
`weight` holds grams more often than clicks."""
_EXCLUSIVE = (("image_column", "image_template"), ("label_column", "group_column"))
_WEIGHTED = re.compile(r"(.+):([-+.\deE]+)", re.DOTALL)


@dataclass(frozen=True)
class CsvOptions:
    """How to read a table. Without any, columns are found by their names and by what is in them."""

    text_column: str | Sequence[str] | None = None
    """The column of titles, by its name in the header. Several, `['title', 'description:0.3']`:
    training draws one each time, by weight (1 where none is given); elsewhere the first that isn't
    blank is the title. A column of lists has several titles, which share its weight."""
    text_template: str | None = None
    """Instead, or before those columns: a title made of columns, `{brand} {title}, {colour}`."""
    image_column: str | None = None
    """The column of picture paths or URIs; relative paths are relative to the table's folder."""
    image_template: str | None = None
    """Instead: a path made of columns, such as `images/{id}.jpg`."""
    label_column: str | None = None
    """Rows of one label are right answers to each other; default: a column called `label`, or
    else those of one title or one picture."""
    group_column: str | None = None
    """Instead: the column of what several rows belong to, such as a product with several pictures.
    As a column of labels, and it stays a tag by which a search's matches can be told apart."""
    id_column: str | None = None
    """The column of ids; default: a column called `id`, or else (and by `none`) the SHA-256 of the
    picture."""
    weight_column: str | None = None
    """The column of how much a pair counts in training, beside others: its clicks, its sales, a
    confidence; of queries, how often they are asked. Numbers above 0; blank is 1. It stays a
    tag."""
    grade_column: str | None = None
    """The column of how right a picture is for its text: whole numbers from 0 (wrong) to 3 (fully
    right); blank is 3. It stays a tag."""
    negative_column: str | None = None
    """The column of wrong answers that look right: ids of other rows, or paths of pictures; of
    several a list (in CSV as JSON, `["12", "15"]`)."""
    encoding: str | None = None
    """Default: found."""
    delimiter: str | None = None
    """What is between the cells, such as `;` or `tab`. Default: found."""
    sheet: str | None = None
    """Of a workbook; default: the first that isn't empty."""
    image_root: str | None = None
    """The folder of relative picture paths; default: the table's."""
    download: bool = False
    """Fetch pictures that are given by http(s) URL, each once, into CLIPTUNE_HOME's cache."""
    as_flags: bool = field(default=False, compare=False, repr=False)
    """Whether errors name these options as the command line does."""
    kept: CsvOptions | None = field(default=None, compare=False, repr=False)
    """Those of the run that is looked at: taken where a table has such columns and nothing else
    is given."""

    def __post_init__(self) -> None:
        """Refuse contradictions and what can't be."""
        for one, other in _EXCLUSIVE:
            if getattr(self, one) and getattr(self, other):
                raise BadInput(
                    f"{self.option(one)} {getattr(self, one)!r} and "
                    f"{self.option(other)} {getattr(self, other)!r} exclude each other"
                )
        if not isinstance(self.text_column, str | None):
            several = tuple(self.text_column)
            object.__setattr__(self, "text_column", several[0] if len(several) == 1 else several)
        if not self.text_column:
            object.__setattr__(self, "text_column", None)
        for name in self.text_columns:
            self._check_weight(name)
        tab = self.delimiter in ("\\t", "tab")
        object.__setattr__(self, "delimiter", "\t" if tab else self.delimiter or None)
        if self.delimiter and (len(self.delimiter) != 1 or self.delimiter in '\r\n"\0'):
            raise BadInput(
                f"{self.option('delimiter')} is {self.delimiter!r}: give one character, such as "
                "',', ';' or '|', or 'tab'"
            )

    @classmethod
    def parse(cls, values: CsvOptions | Mapping[str, object] | None) -> CsvOptions:
        """Options from a mapping; unknown names are refused with near matches."""
        if isinstance(values, CsvOptions):
            return values
        for name, value in (values or {}).items():
            if name not in cls.names():
                raise BadInput(f"unknown CSV option {name!r}: {near_matches(name, cls.names())}")
            if name == "download":
                if not isinstance(value, bool):
                    raise BadInput(f"CSV option download is {value!r}: expected True or False")
            elif name == "text_column" and isinstance(value, list | tuple):
                if not all(isinstance(one, str) for one in value):
                    raise BadInput(f"CSV option {name} is {value!r}: expected texts")
            elif value is not None and not isinstance(value, str | Path):
                raise BadInput(f"CSV option {name} is {value!r}: expected a text")
        given: dict[str, Any] = {
            n: str(v) if isinstance(v, Path) else v for n, v in (values or {}).items()
        }
        return cls(**given)

    @classmethod
    def names(cls) -> list[str]:
        """The options that a user can give."""
        return [one.name for one in fields(cls) if one.name not in ("as_flags", "kept")]

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Those of `text_column`, each perhaps with its weight."""
        if self.text_column is None:
            return ()
        return (self.text_column,) if isinstance(self.text_column, str) else tuple(self.text_column)

    def _check_weight(self, name: str) -> None:
        _, weight = weighted(name)
        if not (0 < weight < math.inf):
            raise BadInput(
                f"{self.option('text_column')} {name!r}: a weight is a number above 0, such as "
                "description:0.3"
            )

    def option(self, name: str) -> str:
        """How an error calls the option `name`: as the user can give it where it is shown."""
        return f"--{name.replace('_', '-')}" if self.as_flags else name

    @property
    def downloads(self) -> bool:
        """Whether pictures are fetched, by these options or by those of the run."""
        return self.download or (self.kept is not None and self.kept.downloads)

    @property
    def download_advice(self) -> str:
        """What to do where pictures would have to be fetched."""
        if self.as_flags:
            return "--download fetches each of them once"
        return "csv_options={'download': True} fetches each of them once"

    def given(self) -> dict[str, str | bool | list[str]]:
        """Those that were given, as JSON."""
        values = {name: getattr(self, name) for name in self.names()}
        if not isinstance(self.text_column, str | None):
            values["text_column"] = list(self.text_column)
        return {name: value for name, value in values.items() if value not in (None, False)}

    def to_keep(self) -> dict[str, object]:
        """What a run keeps of them: a folder as an absolute path, as others look from elsewhere."""
        values: dict[str, object] = {**(self.kept.given() if self.kept else {}), **self.given()}
        for pair in _EXCLUSIVE:
            for one, other in (pair, pair[::-1]):
                if getattr(self, one):
                    values.pop(other, None)
        if self.image_root is not None:
            values["image_root"] = str(Path(self.image_root).absolute())
        return values

    def after(self, kept: Mapping[str, object] | None) -> CsvOptions:
        """These options, with `kept` (of `to_keep`) where nothing is given."""
        return replace(self, kept=CsvOptions.parse(kept)) if kept else self

    def as_preference(self) -> CsvOptions:
        """For another table of the same call: taken where it has such columns."""
        return CsvOptions(as_flags=self.as_flags, kept=self)

    @property
    def names_columns(self) -> bool:
        """Whether the table must have a header."""
        named = (*COLUMN_OPTIONS, *PAIR_OPTIONS, "image_template", "text_template", "group_column")
        return any(getattr(self, name) for name in named)


def weighted(name: str) -> tuple[str, float]:
    """A column's name and its weight, of `description:0.3`; 1 where none is written."""
    match = _WEIGHTED.fullmatch(name)
    if match is None:
        return name, 1.0
    try:
        return match.group(1), float(match.group(2))
    except ValueError:
        return name, 1.0
