"""Pairs to train on, made of recorded searches and of what people did with them.

**Weights.** What stands higher is seen more, so it is clicked more, whatever it is. By the
position-based model a document at rank r is looked at with the propensity p(r) = 1 / r**eta, and
chosen, if it is looked at, with a probability that depends on query and document alone. A choice
counts 1 / p(r), at most `max_weight`, so that the weight of a pair

    weight(text, document) = sum over its choices of min(r**eta, max_weight)
                             / number of the searches for `text` that showed `document`

estimates that probability: without bias but for the cut, which trades some for variance (inverse
propensity scoring with clipping: Joachims, Swaminathan and Schnabel, "Unbiased learning-to-rank
with biased feedback", WSDM 2017). It is above 0, and above 1 where a choice far down was rare.

**Grades.** 3 purchase, 2 cart, 1 click: of several, the highest. 0 is what was passed over: shown
above something that was chosen, in a search of that text, and never chosen itself ("click > skip
above": Joachims et al., "Accurately interpreting clickthrough data as implicit feedback", SIGIR
2005). Who chose what is below has seen it, so its weight is not by rank: the part of its showings
in which it was passed over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cliptune.errors import BadInput
from cliptune.feedback.records import GRADE, Feedback, Record, Search

SOURCE = "searches"
Read = Callable[[], Iterable[Record]]
"""Reads the records, from the first on each time: there may be more than memory holds."""


@dataclass(frozen=True)
class Pair:
    """A text, and a document that people chose for it."""

    text: str
    id: str
    """The document's, in the index."""
    grade: int
    """0 to 3."""
    weight: float
    """Above 0."""
    searches: int
    """How many searches for the text showed the document: what the weight rests on."""
    source: str
    """Where the pair is from."""


@dataclass
class Export:
    """Pairs, and what became of the records that they are made of."""

    pairs: list[Pair] = field(default_factory=list)
    searches: int = 0
    """All of them."""
    without_text: int = 0
    """Searches for a picture, or for several things: no pairs are made of them."""
    feedback: int = 0
    """Documents that were chosen, each once a search."""
    unknown: int = 0
    """Those of a search that isn't there: expired, deleted, or never recorded."""
    not_shown: int = 0
    """Those that their search has not shown."""


@dataclass
class _Tally:
    """What is known of a text and a document."""

    grade: int = 0
    chosen: float = 0.0
    passed_over: int = 0
    searches: int = 0


def graded_pairs(
    read: Read,
    *,
    eta: float = 1.0,
    max_weight: float = 10.0,
    skipped: bool = False,
    source: str = SOURCE,
) -> Export:
    """The pairs, by falling grade, then by falling weight.

    Texts are the same whatever their case and their spaces; the first way to write one stays.

    Args:
        read: see `Read`; it is called three times.
        eta: how fast attention falls with the rank; 0: ranks don't count.
        max_weight: what one choice counts at most.
        skipped: have the pairs of grade 0 too: wrong answers, to who reads grades.
        source: the pairs' `source`.

    Raises:
        BadInput: an option can't be right.
    """
    if not 0 <= eta <= 5:
        raise BadInput(f"eta is {eta}, it must be from 0 to 5")
    if not (max_weight >= 1 and math.isfinite(max_weight)):
        raise BadInput(f"max_weight is {max_weight}, it must be a number from 1 up")
    if not source.strip():
        raise BadInput("source is empty: name where the pairs are from")
    export = Export()
    grades = _grades(read())
    export.feedback = sum(map(len, grades.values()))
    tallies: dict[tuple[str, str], _Tally] = {}
    spelled: dict[str, str] = {}

    for search in _searches(read()):
        export.searches += 1
        text = _text_of(search)
        export.without_text += text is None
        if not (chosen := grades.pop(search.id, None)):
            continue
        rank_of = {shown.id: shown.rank for shown in search.shown}
        export.not_shown += len(chosen.keys() - rank_of.keys())
        chosen = {id: grade for id, grade in chosen.items() if id in rank_of}
        if text is None or not chosen:
            continue
        key = text_key(text)
        spelled.setdefault(key, text)
        for id, grade in chosen.items():
            tally = tallies.setdefault((key, id), _Tally())
            tally.grade = max(tally.grade, grade)
            tally.chosen += min(float(rank_of[id]) ** eta, max_weight)
        lowest = max(rank_of[id] for id in chosen)
        for id, rank in rank_of.items() if skipped else ():
            if rank < lowest and id not in chosen:
                tallies.setdefault((key, id), _Tally()).passed_over += 1
    export.unknown = sum(map(len, grades.values()))

    for search in _searches(read()) if tallies else ():
        if (text := _text_of(search)) is not None and (key := text_key(text)) in spelled:
            for id in {shown.id for shown in search.shown}:
                if (known := tallies.get((key, id))) is not None:
                    known.searches += 1

    export.pairs = [
        Pair(
            text=spelled[key],
            id=id,
            grade=tally.grade,
            weight=(tally.chosen if tally.grade else tally.passed_over) / tally.searches,
            searches=tally.searches,
            source=source.strip(),
        )
        for (key, id), tally in tallies.items()
        if tally.searches  # else they have just expired
    ]
    export.pairs.sort(key=lambda pair: (-pair.grade, -pair.weight, pair.text, pair.id))
    return export


def _grades(records: Iterable[Record]) -> dict[str, dict[str, int]]:
    """By search, then by document: the grade of the highest event."""
    grades: dict[str, dict[str, int]] = {}
    for record in records:
        if isinstance(record, Feedback):
            of_search = grades.setdefault(record.search, {})
            for id in record.ids:
                of_search[id] = max(of_search.get(id, 0), GRADE[record.event])
    return grades


def _searches(records: Iterable[Record]) -> Iterable[Search]:
    return (record for record in records if isinstance(record, Search))


def _text_of(search: Search) -> str | None:
    """What was searched for, if that was one text."""
    [asked] = search.query if len(search.query) == 1 else [None]
    if asked is None or (asked.weight is not None and asked.weight <= 0):
        return None
    text = " ".join((asked.text or "").split())
    return text or None


def text_key(text: str) -> str:
    """What texts have in common that are one search, whatever their case and their spaces."""
    return " ".join(text.split()).casefold()
