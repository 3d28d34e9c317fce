"""The words of documents and queries: what a store's full-text search is given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cliptune.documents import Match
from cliptune.index.tags import texts_of

MAX_WORDS = 64
"""Of a query; those after them are left out."""
_LONG_NUMBER = 10_000
"""Whole numbers from here on are words: EANs and article numbers, not prices and sizes."""


@dataclass(frozen=True)
class WordMatch:
    """A document that has some of a query's words."""

    match: Match
    """With its cosine as score."""
    bm25: float
    """How well it fits; comparable within one query's answer alone."""


def words_of(id: str, text: str | None, tags: Mapping[str, object]) -> str:
    """What of a document is found by words: its id, its title, and texts and long numbers in tags.

    Names of tags and other numbers are no words: "12" is no document's price that is sought.
    """
    return " ".join(part for part in (id, text, *_of_tags(tags)) if part)


def _of_tags(tags: Mapping[str, object]) -> list[str]:
    return list(
        dict.fromkeys(
            str(value)
            for value in texts_of(tags)
            if isinstance(value, str) or abs(value) >= _LONG_NUMBER
        )
    )


def first_words(text: str) -> str:
    """A query's first `MAX_WORDS` words."""
    return " ".join(text.split()[:MAX_WORDS])


def is_code(text: str) -> bool:
    """Whether a query may be an id, a SKU or an EAN: one word with a digit in it."""
    return re.fullmatch(r"\S*\d\S*", text.strip()) is not None


def is_named_by(match: Match, code: str) -> bool:
    """Whether a document's id, or a text or whole number among its tags, is just this code."""
    wanted = code.strip().casefold()
    named = (str(match.id), *(str(value) for value in texts_of(match.tags)))
    return any(name.casefold() == wanted for name in named)
