"""What a ranking and facets refuse, and what formulas and orders mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from cliptune.documents import Match
from cliptune.errors import BadInput
from cliptune.index import Ranking
from cliptune.index.facets.column import Column
from cliptune.index.facets.counting import FacetOptions, facet, parse_facets
from cliptune.index.ranking.formula import Formula
from cliptune.index.ranking.sorting import parse_sort, sort_matches

BAD_RANKINGS: list[tuple[dict[str, Any], str]] = [
    ({"sort_by": "price", "formula": "score"}, "sort_by and formula: there is one order"),
    ({"sort_by": "price", "diversity": 0.3}, "sort_by and diversity"),
    ({"candidates": 10}, "candidates: without sort_by, formula or diversity"),
    ({"candidates": 10, "group_by": "p"}, "candidates: without"),
    ({"candidates": 0, "sort_by": "p"}, "candidates: expected an integer of 1 to 10000, got 0"),
    ({"candidates": 1001, "diversity": 0.1}, "1 to 1000 with diversity, got 1001"),
    ({"diversity": 1.5}, "diversity: expected a number of 0 to 1, got 1.5"),
    ({"diversity": math.nan}, "diversity"),
    ({"diversity": True}, "diversity"),
    ({"group_by": ""}, "group_by: expected a tag's name, got ''"),
    ({"group_by": ["p"]}, "group_by: expected a tag's name"),
    ({"group_by": "x" * 1001}, "group_by: a tag's name of 1001 characters"),
    ({"sort_by": ""}, "sort_by, column 1"),
    ({"sort_by": "price up"}, "sort_by, column 1"),
    ({"sort_by": "price,"}, "sort_by, column 7"),
    ({"sort_by": "a, b, c, d, e"}, "more than 4 tags"),
    ({"sort_by": "a, a desc"}, "twice"),
    ({"formula": ""}, "formula, column 1: expected a number"),
    ({"formula": "score +"}, "column 8: expected a number.*'the end'"),
    ({"formula": "log(sales"}, r"column 10: expected \)"),
    ({"formula": "lg(sales)"}, "no function lg; did you mean 'log'"),
    ({"formula": "log(a, b)"}, "log takes 1 arguments, got 2"),
    ({"formula": "__import__('os')"}, "unexpected"),
    ({"formula": "score ** 2"}, "column 8"),
    ({"formula": "score.x(1)"}, "no function"),
    ({"formula": "(" * 500 + "1" + ")" * 499}, "nested too deeply"),
    ({"formula": "-" * 900 + "1"}, "nested too deeply"),
    ({"formula": "1" * 1001}, "1001 characters"),
    ({"formula": "1e999"}, "beyond 64-bit floats"),
    ({"formula": " + ".join(f"t{n}" for n in range(17))}, "names 17 tags"),
    ({"formula": 3}, "formula: expected a text"),
]


@pytest.mark.parametrize(("options", "problem"), BAD_RANKINGS)
def test_what_makes_no_sense_is_named(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadInput, match=problem) as caught:
        Ranking(**options)
    assert len(str(caught.value)) < 500


def test_more_at_once_than_is_put_in_order_is_refused() -> None:
    with pytest.raises(BadInput, match="limit is 11, and 10 candidates"):
        Ranking(sort_by="p", candidates=10).wanted(0, 11)
    with pytest.raises(BadInput, match="limit is 1001, and 1000 candidates"):
        Ranking(diversity=0.5).wanted(0, 1001)
    assert Ranking(sort_by="p").wanted(50, 10) == 200
    assert Ranking(sort_by="p").wanted(0, 300) == 300
    assert Ranking(group_by="p").wanted(50, 10) == 60


@pytest.mark.parametrize(
    ("facets", "problem"),
    [
        ("brand", "expected a list of tags"),
        ([f"t{n}" for n in range(33)], "33 tags, at most 32"),
        (["a", "a"], "twice"),
        ([""], "expected a tag's name"),
        ({"a": {"top": 3}}, "'a': 'top' is unknown; there are limit, ranges"),
        ({"a": {"limit": 0}}, "limit: expected an integer of 1 to 1000, got 0"),
        ({"a": {"limit": 1001}}, "1001"),
        ({"a": {"ranges": 101}}, "ranges: expected an integer of 1 to 100"),
        ({"a": {"ranges": []}}, "1 to 100 edges, got 0"),
        ({"a": {"ranges": [3, 2]}}, "ascending"),
        ({"a": {"ranges": [math.inf]}}, "inf"),
        ({"a": {"ranges": ["x"]}}, "'x'"),
        ({"a": 3}, "expected options"),
    ],
)
def test_facets_that_make_no_sense_are_named(facets: Any, problem: str) -> None:
    with pytest.raises(BadInput, match=f"facets: .*{problem}"):
        parse_facets(facets)


def test_formulas_are_what_python_computes() -> None:
    scores = np.array([0.5, 0.25, -0.125, 0.75])
    sales, stock = np.array([10.0, np.nan, 0.0, 4.0]), np.array([1.0, 0.0, 1.0, 2.0])
    for formula, expected in [
        ("score", lambda s, a, b: s),
        ("1 + 2 * 3 - 4 / 2", lambda s, a, b: 5.0),
        ("2 - 1 - 1", lambda s, a, b: 0.0),
        ("-(score + 1) * 2", lambda s, a, b: -(s + 1) * 2),
        (
            "score + 0.1 * log(1 + default(sales, 0))",
            lambda s, a, b: s + 0.1 * math.log(1 + (a or 0)),
        ),
        ("score * sales", lambda s, a, b: None if a is None else s * a),
        ("log(sales)", lambda s, a, b: math.log(a) if a else None),
        ("1 / stock", lambda s, a, b: 1 / b if b else None),
        ("max(score, stock, 0.3) + min(1, stock)", lambda s, a, b: max(s, b, 0.3) + min(1, b)),
        (
            "pow(stock, 2) + sqrt(abs(score)) + exp(score)",
            lambda s, a, b: b**2 + abs(s) ** 0.5 + math.exp(s),
        ),
        ("log10(100) - `stock`", lambda s, a, b: 2 - b),
        ("sqrt(score)", lambda s, a, b: s**0.5 if s >= 0 else None),
    ]:
        found = Formula.parse(formula).of(scores, {"sales": sales, "stock": stock})
        wanted = [
            expected(s, None if math.isnan(a) else a, b)
            for s, a, b in zip(scores, sales, stock, strict=True)
        ]
        np.testing.assert_allclose(
            found, [math.nan if v is None else v for v in wanted], atol=1e-12
        )
    assert Formula.parse("`score` + `a``b - c` + size.width").tags == (
        "score",
        "a`b - c",
        "size.width",
    )


def test_orders_are_stable_and_put_the_missing_last() -> None:
    given = [
        Match(id="a", tags={"x": 2}),
        Match(id="b", tags={}),
        Match(id="c", tags={"x": "text"}),
        Match(id="d", tags={"x": [5, 1]}),
        Match(id="e", tags={"x": 2.0, "y-z": 1}),
        Match(id="f", tags={"x": True}),
    ]

    def order(text: str) -> str:
        return "".join(str(match.id) for match in sort_matches(given, parse_sort(text)))

    assert order("x") == "daecfb"
    assert order("x DESC") == "fcdaeb"
    assert order("x, y-z") == "deacfb"
    assert order("`y-z` desc, x asc") == "edacfb"


def test_a_facet_over_a_million_values_lists_the_most_frequent() -> None:
    count = 1_000_000
    import pyarrow as pa

    terms = pa.array([f'["p", "v{n}"]' for n in range(count)])
    codes = np.concatenate([np.arange(count), [7, 7, 9]])
    column = Column(count + 3, terms, np.arange(count + 3), codes)
    found = facet(column, FacetOptions(limit=2))
    assert found.values == [{"value": "v7", "count": 3}, {"value": "v9", "count": 2}]
    assert found.distinct == count
