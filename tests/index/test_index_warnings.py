"""Filters that can never hold are answered with sentences that say why, in every store."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from cliptune.errors import BadFilter
from cliptune.index import Index
from tests.index.index_helpers import doc, docs

DOCS = docs(
    doc("1", tags={"price": 19, "brand": "Nordvik", "size": {"eu": 42}, "in_stock": True}),
    doc("2", tags={"price": 29.5, "brand": "Halden", "sku": "123", "sizes": ["M", "L"]}),
    doc("3", tags={"price": None, "Colour": "Red", "parts": [{"name": "sole"}]}, label="a"),
)


FILTERS: list[tuple[Any, list[str]]] = [
    ("prize < 30", [r"no document has a tag 'prize': did you mean 'price'"]),
    ("PRICE < 30", [r"no document has a tag 'PRICE': did you mean 'price'"]),
    ("colour == 'red'", [r"'colour': did you mean 'Colour'"]),
    ("eu == 42", [r"'eu': did you mean 'size.eu'"]),
    ("size.uk == 42", [r"'size.uk': did you mean .*'size.eu'"]),
    ("instock == true", [r"'instock': did you mean 'in_stock'"]),
    ("price < '3'", [r"'price' is never a text, but a number: write 3 without quotes"]),
    ("price == '19'", [r"'price' is never a text, but a number: write 19 without quotes"]),
    ("price in ['19', '20']", [r"'price' is never a text, but a number"]),
    ("sku == 123", [r"'sku' is never a number, but a text: write '123' in quotes"]),
    ("in_stock == 'true'", [r"'in_stock' is never a text, but true or false: write true with"]),
    ("in_stock == 1", [r"'in_stock' is never a number, but true or false"]),
    ("brand < 3", [r"'brand' is never a number, but a text"]),
    ("size == 42", [r"'size' is never a number: it has the parts 'size.eu'"]),
    ("brand == 'nordvik'", [r"'brand' is never 'nordvik': did you mean 'Nordvik'"]),
    ("sizes == 'm'", [r"'sizes' is never 'm': did you mean 'M'"]),
    ("price < 30 and colr == 'red'", [r"'colr': did you mean 'Colour'"]),
    ("prize < 30 and colr == 'red'", [r"'prize'", r"'colr'"]),
    ("price < 30 or colr == 'red'", [r"'colr'"]),
    ("not (colr == 'red')", [r"'colr'"]),
    ("colr != 'red'", [r"'colr'"]),
    ("colr not in ['red']", [r"'colr'"]),
    ("colr == null", [r"'colr'"]),
    ("colr != null", [r"'colr'"]),
    ({"colr": {"$exists": True}}, [r"'colr'"]),
    ({"$or": [{"price": {"$lt": 30}}, {"tags__prize": 3}]}, [r"'prize'"]),
    ("$uri == 'x'", [r"no document has a \$uri"]),
    ("$label < 3", [r"\$label is always a text"]),
    ("$id == 3", [r"\$id is always a text"]),
    # What legitimately finds nothing, or all that it is asked for.
    ("price < 3", []),
    ("price in ['cheap', 3]", []),
    ("brand == 'Elsewhere'", []),
    ("Colour == 'Red'", []),
    ("parts.name == 'sole'", []),
    ("price < 30", []),
    ("in_stock == false", []),
    ("$label == 'b'", []),
    ("$id == 'nobody'", []),
    ("price == null", []),
    ("", []),
    (None, []),
]


@pytest.fixture
def shop(open_store: Callable[..., Index], store: str) -> Index:
    # Reads of one's own writes need not wait for the server's clock.
    index = open_store(**({"consistency": "session"} if store == "milvus" else {}))
    index.add(DOCS)
    return index


def test_what_can_never_hold_is_said(shop: Index) -> None:
    for filter, sentences in FILTERS:
        found = shop.warnings(filter, found=bool(shop.count(filter)))
        assert len(found) == len(sentences), (filter, found)
        for sentence, pattern in zip(found, sentences, strict=True):
            assert re.search(pattern, sentence), sentence


def test_an_empty_index_says_that_alone(index: Index) -> None:
    for filter in ("prize < 30", None):
        [sentence] = index.warnings(filter, found=False)
        assert "the index is empty" in sentence
    with pytest.raises(BadFilter):
        index.warnings("prize <", found=False)


def test_warnings_follow_what_is_written(open_store: Callable[..., Index]) -> None:
    index, elsewhere = open_store(), open_store()
    index.add(DOCS)
    assert index.warnings("stars > 3", found=False)
    elsewhere.add(docs(doc("4", tags={"stars": 2})))
    assert index.warnings("stars > 3", found=False) == []
    assert index.warnings("stars == '3'", found=False)
    elsewhere.add(docs(doc("4", tags={"stars": "3"})))
    assert index.warnings("stars == '3'", found=True) == []
    elsewhere.delete(ids=["4"])
    assert index.warnings("stars > 3", found=False)
    index.clear()
    index.add(docs(doc("1", tags={"cost": 3})))
    assert index.warnings("price < 3 or cost < 9", found=True)


def test_filters_that_find_something_are_counted_once(
    shop: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[object] = []
    count = type(shop).count
    monkeypatch.setattr(
        type(shop),
        "count",
        lambda index, filter=None: counted.append(filter) or count(index, filter),
    )
    for _ in range(3):
        assert shop.warnings("price < 30 and brand == 'Nordvik'", found=True) == []
    assert len(counted) == 4  # that each is there, and of its type
    many = " or ".join(f"made_up_{n} == {n}" for n in range(200))
    assert len(shop.warnings(many, found=False)) == 16
    assert len(counted) <= 4 + 1 + 16
