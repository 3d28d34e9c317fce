"""How a table is read: what a user can say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from cliptune.errors import BadInput, near_matches

COLUMN_OPTIONS = ("text_column", "image_column", "label_column", "id_column")


@dataclass(frozen=True)
class CsvOptions:
    """How to read a table. Without any, columns are found by their names and by what is in them."""

    text_column: str | None = None
    """The column of titles, by its name in the header."""
    image_column: str | None = None
    """The column of picture paths or URIs; relative paths are relative to the table's folder."""
    image_template: str | None = None
    """Instead: a path made of columns, such as `images/{id}.jpg`."""
    label_column: str | None = None
    """Rows of one label are right answers to each other; default: a column called `label`, or
    else those of one title or one picture."""
    id_column: str | None = None
    """The column of ids; default: a column called `id`, or else (and by `none`) the SHA-256 of the
    picture."""
    encoding: str | None = None
    """Default: found."""
    delimiter: str | None = None
    """What is between the cells, such as `;` or `tab`. Default: found."""
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
        if self.image_column and self.image_template:
            raise BadInput(
                f"{self.option('image_column')} {self.image_column!r} and "
                f"{self.option('image_template')} {self.image_template!r} exclude each other"
            )
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

    def given(self) -> dict[str, str | bool]:
        """Those that were given, as JSON."""
        values = {name: getattr(self, name) for name in self.names()}
        return {name: value for name, value in values.items() if value not in (None, False)}

    def to_keep(self) -> dict[str, object]:
        """What a run keeps of them: a folder as an absolute path, as others look from elsewhere."""
        values: dict[str, object] = {**(self.kept.given() if self.kept else {}), **self.given()}
        if self.image_column or self.image_template:
            other = "image_template" if self.image_column else "image_column"
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
        return bool(self.image_template) or any(getattr(self, name) for name in COLUMN_OPTIONS)
