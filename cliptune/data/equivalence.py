"""Which documents are the same to a model, and so right answers to each other.

The same are texts with equal tokens, as cut to the model's context ("Red Summer Dress" and "red
summer  dress"; titles that differ after the 77th token), and pictures with equal bytes, whatever
their names. What is the same leads on: of two captions of one picture, each is right for all
pictures of the other. It is decided once for all tables that belong together, such as queries and
the index that they search. (A picture that was encoded anew is another one: the model sees nearly
the same, but no rule says how nearly is enough. `cliptune report` finds such pictures.)

A label that a document has of its own is its user's word, and stays. A document of grade 0 says
that its picture is wrong for its text: the two are not the same by it, and its label is its
picture's.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from docarray import DocList

from cliptune.data.pictures.images import picture_digest
from cliptune.documents import ClipDoc
from cliptune.errors import BadImage

Key = tuple[str, bytes | str]
"""What a model sees: a text, or a picture."""
K = TypeVar("K", bound=Hashable)
TextKeys = Callable[[list[str]], list[bytes]]
"""Texts to what is equal where they are the same, such as `models.tokenizers.token_keys`."""


def word_keys(texts: list[str]) -> list[bytes]:
    """Texts are the same if their words are, in upper or lower case: where no tokenizer is."""
    return [" ".join(text.casefold().split()).encode() for text in texts]


@dataclass(frozen=True)
class KeyedDocs:
    """Documents of one table, with what a model sees of them."""

    docs: DocList[ClipDoc]
    texts: Sequence[bytes | None]
    """What is equal where texts are the same; None where there is no text."""
    pictures: Sequence[str | None]
    """SHA-256 of each document's picture; None where it has none, or none that can be read."""

    @classmethod
    def of(
        cls,
        docs: DocList[ClipDoc],
        text_keys: TextKeys,
        pictures: Sequence[str | None] | None = None,
        *,
        allow_files: bool = True,
    ) -> KeyedDocs:
        """Look at the documents' texts, and unless their digests are given read their pictures."""
        distinct = list(dict.fromkeys(doc.text for doc in docs if doc.text and doc.text.strip()))
        key_of = dict(zip(distinct, text_keys(distinct), strict=True))
        texts = [key_of.get(doc.text) if doc.text else None for doc in docs]
        if pictures is None:
            pictures = picture_digests(docs, allow_files=allow_files)
        return cls(docs, texts, pictures)

    def subset(self, rows: Iterable[int]) -> KeyedDocs:
        """Some of the documents."""
        rows = list(rows)
        return KeyedDocs(
            DocList[ClipDoc]([self.docs[row] for row in rows]),
            [self.texts[row] for row in rows],
            [self.pictures[row] for row in rows],
        )

    def labelled(self, labels: Sequence[str]) -> DocList[ClipDoc]:
        """The documents with `labels`; those that have another are copied."""
        return DocList[ClipDoc](
            [
                doc if doc.label == label else doc.model_copy(update={"label": label})
                for doc, label in zip(self.docs, labels, strict=True)
            ]
        )


def picture_digests(docs: Sequence[ClipDoc], *, allow_files: bool = True) -> list[str | None]:
    """The SHA-256 of each document's picture, read in threads; None where none can be read."""

    def one(doc: ClipDoc) -> str | None:
        if doc.image is None and not doc.uri:
            return doc.image_digest
        try:
            return picture_digest(doc, allow_files=allow_files)
        except BadImage:
            return None

    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="cliptune-hash") as pool:
        return list(pool.map(one, docs))


def same_labels(*tables: KeyedDocs) -> list[list[str | None]]:
    """A label for every document of `tables`: equal ones are right answers to each other.

    A document's own label stays. Those without one (or with a blank one) that are the same get
    one together: the text of one of them if other documents have that as their label; else the
    label of a document that is the same as one of them; else the first text among them; else
    `picture` and its digest. Should several labels claim them, it is the first in the tables'
    order. None: a document with neither text nor picture.
    """
    groups: Groups[Key] = Groups()
    labels = set()
    for doc, keys in _each(tables):
        if _own(doc) is None:
            groups.join(keys)
        else:
            labels.add(doc.label)
    names = _names(tables, groups, labels)
    return [
        [
            _own(doc) or (names[groups.first(keys[0])] if keys else None)
            for doc, keys in _each([table])
        ]
        for table in tables
    ]


def _names(
    tables: Sequence[KeyedDocs], groups: Groups[Key], labels: set[str | None]
) -> dict[Key, str]:
    """By group: the best name that there is for it, of those of one kind the first."""
    claims: dict[Key, dict[int, str]] = defaultdict(dict)
    for doc, keys in _each(tables):
        own = _own(doc)
        if own is not None:
            for key in keys:
                if key in groups:
                    claims[groups.first(key)].setdefault(1, own)
        elif keys:
            kind, value = keys[0]
            first = groups.first(keys[0])
            if kind == "picture":
                claims[first].setdefault(3, f"picture {value!s}")
            else:
                claims[first].setdefault(0 if doc.text in labels else 2, str(doc.text))
    return {group: named[min(named)] for group, named in claims.items()}


def _own(doc: ClipDoc) -> str | None:
    return doc.label if doc.label and doc.label.strip() and doc.grade != 0 else None


def _each(tables: Iterable[KeyedDocs]) -> Iterator[tuple[ClipDoc, list[Key]]]:
    """Each document with what a model sees of it: its text first."""
    for table in tables:
        for doc, text, picture in zip(table.docs, table.texts, table.pictures, strict=True):
            is_wrong = doc.grade == 0 and picture is not None
            keys: list[Key] = [] if text is None or is_wrong else [("text", text)]
            yield doc, keys if picture is None else [*keys, ("picture", picture)]


@dataclass
class Groups(Generic[K]):
    """Disjoint sets of keys (Tarjan, 1975)."""

    parents: dict[K, K] = field(default_factory=dict)

    def __contains__(self, key: K) -> bool:
        """Whether `key` is in a group."""
        return key in self.parents

    def join(self, keys: Sequence[K]) -> None:
        """Make one group of the groups of `keys`."""
        for key in keys:
            self.parents.setdefault(key, key)
        roots = [self.first(key) for key in keys]
        for root in roots[1:]:
            self.parents[root] = roots[0]

    @classmethod
    def of_rows(cls, keys: Sequence[Sequence[K]]) -> list[list[int]]:
        """The rows of each group, ascending, where rows with a key in common are together.

        Args:
            keys: of each row, at least one.
        """
        groups = cls()
        for of_row in keys:
            groups.join(of_row)
        members: dict[K, list[int]] = defaultdict(list)
        for row, of_row in enumerate(keys):
            members[groups.first(of_row[0])].append(row)
        return list(members.values())

    def first(self, key: K) -> K:
        """The key that stands for the group of `key`."""
        while (parent := self.parents[key]) != key:
            self.parents[key] = key = self.parents[parent]
        return key
