"""Parts that have nothing in common, and stay what they are."""

from __future__ import annotations

import numpy as np
from docarray import DocList

from cliptune.data.division import divide
from cliptune.data.equivalence import KeyedDocs, word_keys
from cliptune.documents import ClipDoc


def table(*rows: tuple[str, str, str | None]) -> KeyedDocs:
    """Documents of (text, picture, label)."""
    docs = DocList[ClipDoc](
        [ClipDoc(text=text, image=picture.encode(), label=label) for text, picture, label in rows]
    )
    return KeyedDocs.of(docs, word_keys)


def random_rows(count: int, seed: int = 1) -> list[tuple[str, str, str | None]]:
    random = np.random.default_rng(seed)
    return [
        (f"title {random.integers(count)}", f"picture {random.integers(count)}", None)
        for _ in range(count)
    ]


def test_nothing_in_common_is_divided() -> None:
    rows = [*random_rows(400), ("a", "x", "one"), ("b", "y", "one"), ("B", "z", None)]
    parts = divide(table(*rows), (0.2, 0.3), seed=3)
    assert sorted(row for part in parts for row in part) == list(range(len(rows)))
    for what in (0, 1):
        seen = [{rows[row][what].casefold() for row in part} for part in parts]
        assert not seen[0] & seen[1] | seen[1] & seen[2] | seen[0] & seen[2]
    [of_label] = [part for part in parts if 400 in part]
    assert {401, 402} <= set(of_label), "label, then title, leads on"


def test_shares_are_near_what_was_asked_for() -> None:
    rows = [(f"title {i}", f"picture {i}", None) for i in range(4000)]
    sizes = [len(part) / 4000 for part in divide(table(*rows), (0.15, 0.25))]
    np.testing.assert_allclose(sizes, [0.6, 0.15, 0.25], atol=0.02)


def test_rows_that_are_added_move_no_others() -> None:
    rows = [(f"title {i}", f"picture {i}", None) for i in range(300)]
    first = divide(table(*rows), (0.2, 0.2))
    more = divide(table(*[("new", "new", None), *reversed(rows)]), (0.2, 0.2))
    for before, after in zip(first, more, strict=True):
        assert {rows[row] for row in before} == {rows[300 - row] for row in after if row}
    assert divide(table(*rows), (0.2, 0.2), seed=1) != first


def test_a_wrong_answer_needn_t_be_beside_its_text() -> None:
    wrong = [ClipDoc(text=f"a {n}", image=f"b {n}".encode(), grade=0) for n in range(200)]
    right = [ClipDoc(text=f"b {n}", image=f"b {n}".encode()) for n in range(200)]
    docs = KeyedDocs.of(DocList[ClipDoc]([*wrong, *right]), word_keys)
    [_, held] = divide(docs, (0.5,))
    apart = sum((row in held) != (200 + row in held) for row in range(200))
    assert 50 < apart < 150, "by chance half of them"
