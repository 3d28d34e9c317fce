"""What was understood of a data set, said before it is trained on, evaluated or indexed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TypedDict

from cliptune.data.tally import Tally
from cliptune.data.validation import Problem, is_blank
from cliptune.documents import ClipDoc

SAMPLES = 3
NAMED_PROBLEMS = 5
_LONGEST = 60


class SummaryRecord(TypedDict):
    """What a run keeps of a `DataSummary`."""

    rows: int
    used: int
    left_out: int
    columns: dict[str, str]
    lines: list[tuple[str, str]]
    """(log level, text)"""


@dataclass
class DataSummary:
    """A data set as it was understood."""

    role: str
    """What it is for, such as `train_data`."""
    source: str | None = None
    """Its path or name; None for documents."""
    rows: int = 0
    """All there were."""
    usable: int = 0
    duplicates: int = 0
    """Rows that are the same as an earlier one in everything."""
    left_out: list[Problem] = field(default_factory=list)
    columns: Mapping[str, str] = field(default_factory=dict)
    """What each column was taken for, of a table: `{'titles': 'name', …}`."""
    notes: list[str] = field(default_factory=list)
    """What else the user should know, such as a guessed encoding."""
    labels: Tally = field(default_factory=Tally)
    """How many documents have each label of their own."""
    titles: Tally = field(default_factory=Tally)
    """How many documents without a label have each title, in upper or lower case."""
    samples: list[tuple[str | None, str]] = field(default_factory=list)
    """(title, picture) of some documents."""

    def add(self, docs: Iterable[ClipDoc]) -> DataSummary:
        """Count the usable `docs`; returns itself."""
        for doc in docs:
            self.usable += 1
            if doc.label is not None and not is_blank(doc.label):
                self.labels.add(doc.label)
            elif doc.text is not None and not is_blank(doc.text):
                self.titles.add(" ".join(doc.text.casefold().split()))
            if len(self.samples) < SAMPLES:
                self.samples.append((doc.text, _picture(doc)))
        return self

    def lines(self) -> list[tuple[str, str]]:
        """(log level, text) of each line; the first says how many there are, INFO or WARNING."""
        source = f" {self.source}:" if self.source else ""
        counts = f"{self.role}:{source} {self.rows} documents"
        if self.usable != self.rows or self.left_out:
            counts += f", {self.usable} used"
        if self.left_out:
            counts += f", {len(self.left_out)} left out"
        if self.duplicates:
            counts += f", {self.duplicates} the same as another"
        said = [("INFO", counts)]
        if self.columns:
            taken = "; ".join(f"{what}: {column}" for what, column in self.columns.items())
            said.append(("INFO", f"{self.role}: {taken}"))
        said += [("WARNING", f"{self.role}: {note}") for note in self.notes]
        said += [
            ("WARNING", f"{self.role}: left out: {problem}")
            for problem in self.left_out[:NAMED_PROBLEMS]
        ]
        if len(self.left_out) > NAMED_PROBLEMS:
            more = len(self.left_out) - NAMED_PROBLEMS
            said.append(("WARNING", f"{self.role}: left out: {more} more"))
        for what, counted in (("label", self.labels), ("different title", self.titles)):
            if not len(counted):
                continue
            number = len(counted)
            largest, count = counted.counts()[0]
            groups = f"{self.role}: {number} {what}{'s' if number > 1 else ''}"
            if count > 1:
                named = "" if largest is None else f" {_short(largest)!r}"
                groups += f", the largest{named} with {count} documents"
            said.append(("INFO", groups))
        said += [
            ("INFO", f"{self.role}: such as {_short(text)!r} with {picture}"
             if text is not None else f"{self.role}: such as {picture}, without a title")
            for text, picture in self.samples
        ]  # fmt: skip
        return said

    def __str__(self) -> str:
        """All lines as one text."""
        return "\n".join(text for _, text in self.lines())

    def to_json(self) -> SummaryRecord:
        """What a run keeps of it."""
        return {
            "rows": self.rows,
            "used": self.usable,
            "left_out": len(self.left_out),
            "columns": dict(self.columns),
            "lines": self.lines(),
        }


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _picture(doc: ClipDoc) -> str:
    if doc.uri and not doc.uri.startswith("data:"):
        parts = PurePosixPath(doc.uri.replace("\\", "/")).parts
        return _short("/".join(parts[-2:]))
    if doc.image or doc.uri:
        return "a picture of its own"
    return "no picture"
