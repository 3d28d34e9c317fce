"""Groups, orders, facets and known tags of every store, against the documents themselves."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cliptune.documents import ClipDoc
from cliptune.errors import BadInput, ModelMismatch
from cliptune.index import Index, Ranking, parse_filter
from tests.index.filter_reference import matches as holds
from tests.index.index_helpers import DIGEST, DIM, OTHER_DIGEST, cosine, doc, docs

RNG = np.random.default_rng(11)
QUERIES = RNG.standard_normal((5, DIM)).astype(np.float32)
FILTERS = (None, "price < 50", "brand in ['b0', 'b3'] and not sold_out == true", "price > 1e9")


def catalogue(count: int = 240) -> list[ClipDoc]:
    """Products of one to six pictures, near one another; tags of all kinds, some missing."""
    given = []
    bases = RNG.standard_normal((count, DIM))
    for n in range(count):
        product = n // 3 if n % 7 else n // 6
        tags: dict[str, Any] = {
            "product": f"P{product}",
            "price": round(float(n * 37 % 100 + n % 4 / 4), 2),
            "brand": f"b{n % 5}",
            "sizes": [["S", "M"], ["M", "L", "M"], [], ["XL"]][n % 4],
            "sold_out": n % 3 == 0,
            "size": {"width": n % 6},
            "mixed": [n % 3, f"t{n % 2}", n % 2 == 0][n % 3],
            "story": "x" * 300 + str(n % 2),
        }
        if n % 4 == 1:
            tags["sales"] = n * 13 % 50
        if n % 10 == 0:
            del tags["product"]
        if n % 25 == 3:
            tags["product"] = [f"P{product}", "P0"]
        embedding = (bases[product] + 0.2 * RNG.standard_normal(DIM)).astype(np.float32)
        given.append(doc(f"d{n:03}", tags=tags, embedding=embedding))
    return given


GIVEN = catalogue()


@pytest.fixture
def shop(index: Index) -> Index:
    index.add(docs(*GIVEN))
    return index


def left(filter: str | None) -> list[ClipDoc]:
    return [one for one in GIVEN if holds(parse_filter(filter), one)]


def nearest(query: np.ndarray, filter: str | None) -> list[tuple[float, ClipDoc]]:
    """What a filter leaves with its score, best first."""
    there = left(filter)
    if not there:
        return []
    scores = cosine(query[None], np.stack([one.embedding for one in there]))[0]
    return sorted(zip(scores.tolist(), there, strict=True), key=lambda pair: (-pair[0], pair[1].id))


def elements(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [inner for one in value for inner in elements(one)]
    return [] if value is None else [value]


def values_of(one: ClipDoc, path: str) -> set[Any]:
    """(kind, value) of what stands at a path."""
    value: Any = one.tags
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    kinds = {bool: "boolean", str: "text", int: "number", float: "number"}
    return {(kinds[type(each)], each) for each in elements(value)}


def product_of(one: ClipDoc) -> str:
    found = sorted(values_of(one, "product"))
    return found[0][1] if len(found) == 1 else f"alone {one.id}"


def grouped(query: np.ndarray, filter: str | None) -> list[tuple[float, ClipDoc]]:
    seen: dict[str, tuple[float, ClipDoc]] = {}
    for score, one in nearest(query, filter):
        seen.setdefault(product_of(one), (score, one))
    return list(seen.values())


@pytest.mark.parametrize("filter", FILTERS)
def test_groups_equal_brute_force_over_all_pages(shop: Index, filter: str | None) -> None:
    ranking = Ranking(group_by="product")
    having = Counter(value for one in left(filter) for _, value in values_of(one, "product"))
    expected = [grouped(query, filter) for query in QUERIES]
    for limit, offset in ((7, 0), (7, 7), (100, 20), (1000, 0)):
        found = shop.search(
            QUERIES, DIGEST, limit=limit, offset=offset, filter=filter, ranking=ranking
        )
        for matches, whole in zip(found, expected, strict=True):
            page = whole[offset : offset + limit]
            assert [match.id for match in matches] == [one.id for _, one in page]
            np.testing.assert_allclose([m.score for m in matches], [s for s, _ in page], atol=2e-6)
            for match, (_, one) in zip(matches, page, strict=True):
                alone = product_of(one).startswith("alone")
                assert match.more == (0 if alone else having[product_of(one)] - 1)
    assert shop.count_groups("product", filter) == len(expected[0])
    middle = [score for score, _ in expected[0]][len(expected[0]) // 2 :][:2]
    least = float(np.mean(middle)) if middle else 0.0  # no score is that near, as float32
    [matches] = shop.search(
        QUERIES[:1], DIGEST, limit=1000, filter=filter, score_threshold=least, ranking=ranking
    )
    assert [m.id for m in matches] == [one.id for score, one in expected[0] if score >= least]


def test_a_huge_group_hides_nothing(index: Index) -> None:
    base = RNG.standard_normal(DIM).astype(np.float32)
    crowd = [
        doc(f"c{n:04}", tags={"p": "crowd"}, embedding=base + 0.05 * RNG.standard_normal(DIM))
        for n in range(600)
    ]
    others = [doc(f"o{n}", seed=n, tags={"p": f"other {n // 2}"}) for n in range(8)]
    alone = doc("alone", embedding=base + 2e-4)
    index.add(docs(*crowd, *others, alone))
    [matches] = index.search(base[None], DIGEST, limit=4, ranking=Ranking(group_by="p"))
    everything = [*crowd, *others, alone]
    scores = cosine(base[None], np.stack([one.embedding for one in everything]))[0]
    best: dict[str, tuple[float, str, int]] = {}
    sizes = Counter(one.tags.get("p", one.id) for one in everything)
    for score, one in sorted(zip(scores, everything, strict=True), key=lambda pair: -pair[0]):
        group = one.tags.get("p", one.id)
        best.setdefault(group, (score, str(one.id), sizes[group] - 1))
    assert [(m.id, m.more) for m in matches] == [(i, more) for _, i, more in [*best.values()][:4]]


@pytest.mark.parametrize("filter", FILTERS)
def test_orders_equal_brute_force(shop: Index, filter: str | None) -> None:
    def search(limit: int = 12, offset: int = 3, **options: Any) -> list[list[str]]:
        ranking = Ranking(**options)
        found = shop.search(
            QUERIES, DIGEST, limit=limit, offset=offset, filter=filter, ranking=ranking
        )
        return [[match.id for match in matches] for matches in found]

    def reference(
        candidates: int, key: Callable[[float, ClipDoc], Any], groups: bool = False
    ) -> list[list[str]]:
        pages = []
        for query in QUERIES:
            found = grouped(query, filter) if groups else nearest(query, filter)
            ordered = sorted(found[:candidates], key=lambda pair: key(*pair))
            pages.append([one.id for _, one in ordered[3:15]])
        return pages

    def price(score: float, one: ClipDoc) -> Any:
        return one.tags["price"]

    assert search(sort_by="price", candidates=40) == reference(40, price)
    assert search(sort_by="price", candidates=40, group_by="product") == reference(40, price, True)
    assert search(sort_by="sales desc, brand") == reference(
        200, lambda _, one: (-one.tags.get("sales", -math.inf), one.tags["brand"])
    )
    order = ("number", "text", "boolean")
    assert search(sort_by="mixed", candidates=60) == reference(
        60, lambda _, one: min((order.index(k), v) for k, v in values_of(one, "mixed"))
    )

    def value(score: float, one: ClipDoc) -> Any:
        sales = one.tags.get("sales")
        if sales in (None, 0):
            return math.inf
        return -(score + 0.1 * math.log(sales) - 0.3 * one.tags["sold_out"])

    formula = "score + 0.1 * log(sales) - 0.3 * sold_out"
    assert search(formula=formula, candidates=90) == reference(90, value)


def test_diversity_is_maximal_marginal_relevance(shop: Index) -> None:
    query, weight = QUERIES[0], 0.4
    pool = nearest(query, "price < 80")[:30]
    units = {one.id: one.embedding / np.linalg.norm(one.embedding) for _, one in pool}
    taken: list[str] = []
    while len(taken) < 15:
        rest = [(score, one.id) for score, one in pool if one.id not in taken]
        worth = [
            (1 - weight) * score
            - weight * max((float(units[i] @ units[t]) for t in taken), default=0.0)
            for score, i in rest
        ]
        taken.append(rest[int(np.argmax(worth))][1])
    ranking = Ranking(diversity=weight, candidates=30)
    arguments: dict[str, Any] = {"filter": "price < 80", "ranking": ranking}
    [first] = shop.search(query[None], DIGEST, limit=10, **arguments)
    [second] = shop.search(query[None], DIGEST, limit=5, offset=10, **arguments)
    assert [match.id for match in [*first, *second]] == taken
    [plain] = shop.search(query[None], DIGEST, limit=10, ranking=Ranking(diversity=0))
    assert [match.id for match in plain] == [one.id for _, one in nearest(query, None)[:10]]


@pytest.mark.parametrize("filter", FILTERS)
def test_facets_equal_counting(shop: Index, filter: str | None) -> None:
    paths = ("brand", "sizes", "sold_out", "size.width", "mixed", "product", "nothing")
    wanted: dict[str, dict[str, object]] = {path: {"limit": 4} for path in paths}
    wanted |= {"brand": {}, "price": {"ranges": [10, 50, 50.5]}, "size.width": {"limit": 6}}
    found = shop.facets(wanted, filter)
    assert list(found) == list(wanted)
    there = left(filter)
    for path in paths:
        counts = Counter(value for one in there for value in values_of(one, path))
        facet = found[path]
        assert facet.documents == sum(bool(values_of(one, path)) for one in there)
        assert facet.distinct == len(counts)
        limit = FACET_LIMITS.get(path, 4)
        terms = {pair: json.dumps([path, plain_term(pair)]) for pair in counts}
        best = sorted(counts, key=lambda pair: (-counts[pair], terms[pair]))[:limit]
        assert [(type(v["value"]) is bool, v["value"], v["count"]) for v in facet.values] == [
            (kind == "boolean", value, counts[kind, value]) for kind, value in best
        ]
    prices = [one.tags["price"] for one in there]
    edges = [-math.inf, 10, 50, 50.5, math.inf]
    expected = [sum(a <= price < b for price in prices) for a, b in zip(edges, edges[1:])]  # noqa: B905, RUF007
    if prices:
        assert [one["count"] for one in found["price"].ranges] == expected
        assert (found["price"].least, found["price"].greatest) == (min(prices), max(prices))
    automatic = shop.facets(["price"], filter)["price"]
    assert sum(one["count"] for one in automatic.ranges) == len(prices)
    assert shop.facets({"story": {}}, filter)["story"].values == []
    assert shop.facets({"story": {}}, filter)["story"].distinct == min(2, len(there))


FACET_LIMITS = {"brand": 10, "size.width": 6}


def plain_term(pair: tuple[str, Any]) -> Any:
    return float(pair[1]) if pair[0] == "number" else pair[1]


def test_counts_follow_writes_of_this_and_other_openings(open_store: Callable[..., Index]) -> None:
    index, other = open_store(), open_store()
    assert index.facets(["n"])["n"].distinct == 0
    index.add(docs(*(doc(f"d{n}", tags={"n": n % 3, "keep": n < 40}) for n in range(60))))

    def counts() -> dict[Any, int]:
        return {one["value"]: one["count"] for one in index.facets(["n"])["n"].values}

    assert counts() == {0: 20, 1: 20, 2: 20}
    other.add(docs(*(doc(f"e{n}", tags={"n": "new"}) for n in range(7)), doc("d0", tags={"n": 9})))
    assert counts() == {0: 19, 1: 20, 2: 20, "new": 7, 9: 1}
    other.delete(filter="n == 1")
    assert counts() == {0: 19, 2: 20, "new": 7, 9: 1}
    other.add(docs(*(doc(f"f{n}", tags={"n": 7}) for n in range(30))))
    index.optimize()
    assert counts() == {0: 19, 2: 20, "new": 7, 9: 1, 7: 30}
    assert {v["value"]: v["count"] for v in index.facets(["n"], "keep == true")["n"].values} == {
        0: 13,
        2: 13,
    }
    other.clear()
    assert counts() == {}
    other.add(docs(doc("x", tags={"n": 1})))
    assert counts() == {1: 1}


def test_known_tags_are_those_of_the_documents(shop: Index) -> None:
    known = shop.known_tags()
    assert (known.documents, known.looked_at, known.left_out) == (len(GIVEN), len(GIVEN), 0)
    by_name = {tag.name: tag for tag in known.tags}
    assert set(by_name) == {*GIVEN[1].tags, "size.width"} - {"size"}
    for name, tag in by_name.items():
        having = [values_of(one, name) for one in GIVEN]
        counts = Counter(value for values in having for value in values)
        kinds = {kind for kind, _ in counts}
        assert set(tag.types) == kinds
        assert tag.distinct == len(counts)
        assert len(tag.examples) == (0 if name == "story" else min(5, len(counts)))
        for example in tag.examples:
            [kind] = [k for k, v in counts if v == example["value"] and type(v) is type(v)][:1]
            assert example["count"] in counts.values(), kind
        numbers = [value for kind, value in counts if kind == "number"]
        assert (tag.least, tag.greatest) == (
            (min(numbers), max(numbers)) if numbers else (None, None)
        )
    assert by_name["sales"].documents == sum("sales" in one.tags for one in GIVEN)
    assert known.to_dict()["documents"] == len(GIVEN)


def test_another_models_queries_are_refused_before_they_are_ranked(shop: Index) -> None:
    with pytest.raises(ModelMismatch):
        shop.search(QUERIES, OTHER_DIGEST, ranking=Ranking(group_by="product"))
    with pytest.raises(BadInput, match="query 0: .* dimensions"):
        shop.search(np.ones((1, DIM + 1)), DIGEST, ranking=Ranking(group_by="product"))
    assert shop.search(QUERIES[:0], DIGEST, ranking=Ranking(group_by="product")) == []
    assert shop.search(QUERIES[:1], DIGEST, limit=0, ranking=Ranking(sort_by="price")) == [[]]
