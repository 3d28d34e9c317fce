"""Documents with all that a task needs of them, and those that are left out, each with a reason.

One rule for training, evaluation and indexing: what has no title or no picture is never filled
up (`str(None)` is a text, too) but left out, counted and named.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadInput

log = logging.getLogger("cliptune")

TEXT: Final = "text"
PICTURE: Final = "picture"
Needs = frozenset[str]
ANYTHING: Final[Needs] = frozenset()
PAIR: Final[Needs] = frozenset({TEXT, PICTURE})
"""What training needs of a document."""
QUERY: Final[Needs] = frozenset({TEXT})
"""What a text tower needs of it."""
ANSWER: Final[Needs] = frozenset({PICTURE})
"""What a picture that is searched in an evaluation needs: it may be right by its bytes alone."""

MAX_LEFT_OUT = 0.5
"""More than this part incomplete, and the data set is refused: something else is wrong."""
_SHOWN_ID = 36


@dataclass(frozen=True)
class Problem:
    """A document that is left out, and why."""

    position: int
    id: str
    reason: str
    place: str | None = None
    """Where it stands in a file, such as `line 7`."""

    def __str__(self) -> str:
        """`line 7 (id 12): no title`, or `document 5 (id …): …`."""
        place = self.place or f"document {self.position}"
        # A digest is told apart by its beginning.
        shown = self.id if len(self.id) <= _SHOWN_ID else f"{self.id[:12]}…"
        return f"{place} (id {shown}): {self.reason}"


def is_blank(text: str | None) -> bool:
    """Whether nothing of `text` can be seen: None, empty, spaces, zero-width characters."""
    return text is None or not any(c.isprintable() and not c.isspace() for c in text)


def is_missing(value: object) -> bool:
    """Whether a table's `value` stands for nothing: None, NaN, a blank text.

    The texts 'None' and 'nan' are texts.
    """
    if isinstance(value, str):
        return is_blank(value)
    return value is None or (isinstance(value, float) and math.isnan(value))


def what_is_missing(doc: ClipDoc, needs: Collection[str]) -> str | None:
    """The first of `needs` that `doc` lacks, in words; None: it is complete."""
    if TEXT in needs and is_blank(doc.text):
        return "no title" if doc.text is None else f"an empty title, {doc.text!r}"
    if PICTURE in needs and doc.image is None and is_blank(doc.uri):
        return "no picture"
    if PICTURE in needs and doc.image is not None and not doc.image:
        return "an empty picture (0 bytes)"
    return None


def texts_of(docs: Iterable[ClipDoc]) -> list[str]:
    """The documents' texts.

    Raises:
        BadInput: one has none; the message names it.
    """
    texts = []
    for position, doc in enumerate(docs):
        if doc.text is None or is_blank(doc.text):
            raise BadInput(f"document {position} (id {doc.id}) has no text")
        texts.append(doc.text)
    return texts


def labels_of(docs: Iterable[ClipDoc]) -> list[str]:
    """The documents' labels, or their texts where they have none.

    Raises:
        BadInput: one has neither; the message names it.
    """
    labels = []
    for position, doc in enumerate(docs):
        label = doc.text if is_blank(doc.label) else doc.label
        if label is None or is_blank(label):
            raise BadInput(f"document {position} (id {doc.id}) has neither a label nor a text")
        labels.append(label)
    return labels


def split_complete(
    docs: Sequence[ClipDoc],
    needs: Collection[str],
    role: str = "data",
    unfetched: Mapping[str, str] | None = None,
) -> tuple[DocList[ClipDoc], list[Problem]]:
    """The documents that have all of `needs`, in their order, and the others' problems.

    `unfetched` says of pictures' URLs why there is no picture.

    Raises:
        BadData: more than half of them lack something.
    """
    kept, problems = DocList[ClipDoc](), []
    for position, doc in enumerate(docs):
        reason = what_is_missing(doc, needs)
        if reason is None and unfetched and doc.image is None and doc.uri:
            why = unfetched.get(doc.uri)
            reason = None if why is None else f"no picture: {why}"
        if reason is None:
            kept.append(doc)
        else:
            problems.append(Problem(position, str(doc.id), reason))
    check_part(problems, len(docs), role)
    return kept, problems


def complete_only(
    docs: Sequence[ClipDoc], needs: Collection[str], role: str = "data"
) -> DocList[ClipDoc]:
    """The documents that have all of `needs`; the others are named in the log.

    Raises:
        BadData: as `split_complete`.
    """
    kept, problems = split_complete(docs, needs, role)
    if problems:
        log.warning("%s: %d left out: %s", role, len(problems), first_of(problems))
    return kept


def check_part(problems: Sequence[Problem], total: int, role: str) -> None:
    """Refuse a data set of which too much is left out.

    Raises:
        BadData: more than `MAX_LEFT_OUT` of it are.
    """
    if len(problems) > MAX_LEFT_OUT * total:
        raise BadData(
            f"{role}: {len(problems)} of {total} documents are incomplete, more than half; "
            f"first: {first_of(problems)}"
        )


def first_of(problems: Iterable[Problem], most: int = 3) -> str:
    """The first few in one line, and how many more there are."""
    listed = list(problems)
    more = f"; and {len(listed) - most} more" if len(listed) > most else ""
    return "; ".join(map(str, listed[:most])) + more
