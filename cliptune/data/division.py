"""Dividing documents into parts for training, choosing and measuring, by what belongs together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cliptune.data.equivalence import Groups, KeyedDocs


def divide(table: KeyedDocs, shares: Sequence[float], seed: int = 0) -> list[list[int]]:
    """Divide the documents into a part for each of `shares` and, first, one of all that is left.

    Documents of one label, one text or one picture go to one part as a whole, and so do those that
    they lead on to. The part is decided by a hash of what stands for the group: documents that are
    added later move no other group.

    Args:
        table: the documents.
        shares: of the groups, each in (0, 1), together less than 1; the numbers that come out are
            near them.
        seed: another one gives another division.

    Returns:
        For each part the rows of its documents, in their order; a part may be empty.
    """
    keys = [_keys(table, row) for row in range(len(table.docs))]
    parts: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    for rows in Groups.of_rows(keys):
        place, bound, part = place_of(f"{seed}:{_name([keys[row] for row in rows])}"), 0.0, 0
        for number, share in enumerate(shares, 1):
            if bound <= place < bound + share:
                part = number
            bound += share
        parts[part].extend(rows)
    return [sorted(part) for part in parts]


def _name(keys: Sequence[Sequence[tuple[str, str]]]) -> str:
    """What stands for a group, on every machine: rows that join it seldom change it."""
    every = {key for of_row in keys for key in of_row}
    for kind in _KINDS:
        if names := [name for of_kind, name in every if of_kind == kind]:
            return min((f"{kind} {name}" for name in names), key=place_of)
    raise ValueError("a group has no member")


_KINDS = ("text", "label", "picture", "row")


def _keys(table: KeyedDocs, row: int) -> list[tuple[str, str]]:
    """What a document has in common with others; never nothing."""
    doc, text, picture = table.docs[row], table.texts[row], table.pictures[row]
    keys = []
    if text is not None:
        keys.append(("text", text.hex()))
    if doc.label and doc.label.strip():
        keys.append(("label", doc.label))
    is_wrong = doc.grade == 0 and text is not None  # the picture, which needn't be beside the text
    if picture is not None and not is_wrong:
        keys.append(("picture", picture))
    return keys or [("row", str(row))]


def place_of(text: str) -> float:
    """A hash of `text` in [0, 1), the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8]) / 2**64
