"""What tells the documents of a table apart: for millions of them, in little memory."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections import Counter

import numpy as np

from cliptune.data.pictures.images import picture_digest
from cliptune.documents import ClipDoc
from cliptune.errors import BadImage

CONTENT = 16
"""Bytes of a digest that tell rows with one key apart."""


class Identities:
    """The key of each document, its id or its picture's digest, and a digest of its row."""

    def __init__(self) -> None:
        """None yet."""
        self.keys: list[str | None] = []
        """None: the document is left out."""
        self._contents = bytearray()
        self._hashes = array("q")

    def add(self, key: str | None, content: bytes = b"") -> None:
        """The next document's."""
        self.keys.append(key)
        self._contents += content[:CONTENT].ljust(CONTENT, b"\0")
        self._hashes.append(hash(key))

    def content(self, number: int) -> bytes:
        """The digest of the document `number`'s row."""
        return bytes(self._contents[number * CONTENT : (number + 1) * CONTENT])

    def without_duplicates(self) -> tuple[int, tuple[int, int] | None]:
        """Leave out documents that are the same as an earlier one with their key.

        Returns how many they are, and the first two that have one key and differ.
        """
        seen: dict[str, int] = {}
        duplicates = 0
        for number in self._repeated():
            key = self.keys[number]
            if key is None:
                continue
            first = seen.setdefault(key, number)
            if first == number:
                continue
            if self.content(first) != self.content(number):
                return duplicates, (first, number)
            duplicates += 1
            self.keys[number] = None
        return duplicates, None

    def made_distinct(self) -> int:
        """Have keys that several documents have told apart by their rows' digests.

        Those that are the same in that, too, are left out; returns how many they are.
        """
        repeated = [number for number in self._repeated() if self.keys[number] is not None]
        times = Counter(self.keys[number] for number in repeated)
        seen: set[str] = set()
        duplicates = 0
        for number in repeated:
            key = self.keys[number]
            if times[key] < 2:
                continue
            made = f"{key}-{self.content(number).hex()[:16]}"
            duplicates += made in seen
            self.keys[number] = None if made in seen else made
            seen.add(made)
        return duplicates

    def _repeated(self) -> list[int]:
        """Which documents may have a key that another has, in their order."""
        hashes = np.frombuffer(self._hashes, np.int64) if self._hashes else np.empty(0, np.int64)
        order = np.argsort(hashes, kind="stable")
        same = hashes[order][1:] == hashes[order][:-1]
        numbers: list[int] = np.union1d(order[1:][same], order[:-1][same]).tolist()
        return numbers


def key_of(doc: ClipDoc, root: str) -> str:
    """What identifies a document: its picture's SHA-256, or else one of the path or the text.

    Paths are below `root`, so that they stay the same where the table is moved with its pictures.
    """
    if doc.uri is None and doc.image is None:
        return f"text-{_short_hash(doc.text or '')}"
    try:
        return picture_digest(doc)
    except BadImage:
        return f"file-{_short_hash((doc.uri or '').removeprefix(f'{root}{os.sep}'))}"


def row_digest(doc: ClipDoc, *more: str | None) -> bytes:
    """SHA-256 of what a row says, but for its id and its picture, and of `more`."""
    said: list[object] = [doc.text, doc.label, doc.tags, *more]
    if doc.texts:
        said.append(doc.texts)
    if doc.grade == 0 or doc.negatives:
        said.append([doc.grade, doc.negatives])
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).digest()


def sha256_of(picture: bytes | None) -> str | None:
    """Of a picture's bytes, as hex; None where there is none."""
    return None if picture is None else hashlib.sha256(picture).hexdigest()


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]
