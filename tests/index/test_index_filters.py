"""The filter language: its syntax, its meaning, and that stores agree with its Python model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cliptune.errors import BadFilter
from cliptune.index import Index, parse_filter
from cliptune.index.filters.language import And, Compare, Field, In, Node, Not, Or
from tests.index.filter_reference import matches
from tests.index.index_helpers import DIGEST, doc, docs, vector

colour, price = Field("colour"), Field("price")


@pytest.mark.parametrize(
    ("expression", "tree"),
    [
        ("colour == 'red'", Compare(colour, "==", "red")),
        ('colour == "red"', Compare(colour, "==", "red")),
        ("price<30", Compare(price, "<", 30.0)),
        ("price >= -1.5e2", Compare(price, ">=", -150.0)),
        ("price == .5 or price == 5.", Or((Compare(price, "==", 0.5), Compare(price, "==", 5.0)))),
        ("colour != 'red'", Not(Compare(colour, "==", "red"))),
        ("colour in ['a', 2, true, null,]", In(colour, ("a", 2.0, True, None))),
        ("colour not in []", Not(In(colour, ()))),
        ("NOT colour IN ['a']", Not(In(colour, ("a",)))),
        ("not not price > 1", Compare(price, ">", 1.0)),
        ("$text == None", Compare(Field("text", builtin=True), "==", None)),
        ("`$text` == True", Compare(Field("$text"), "==", True)),
        ("`a ``b`` c`.x == 1", None),
        ("`a ``b`` c` == 1", Compare(Field("a `b` c"), "==", 1.0)),
        ("size.width-2 == 1", Compare(Field("size.width-2"), "==", 1.0)),
        ("größe == 1", Compare(Field("größe"), "==", 1.0)),
        ("android == 1 and order == 2", And((
            Compare(Field("android"), "==", 1.0), Compare(Field("order"), "==", 2.0)))),
        (r"colour == 'it\'s \"\\\n\u00e9\ud83d\ude00'",
         Compare(colour, "==", "it's \"\\\né\U0001f600")),
        ("price < 1 or price > 2 and colour == 'a'", Or((
            Compare(price, "<", 1.0),
            And((Compare(price, ">", 2.0), Compare(colour, "==", "a")))))),
        ("(price < 1 or price > 2) and colour == 'a'", And((
            Or((Compare(price, "<", 1.0), Compare(price, ">", 2.0))),
            Compare(colour, "==", "a")))),
        ("price > 1 and (price < 2 and price < 3)", And((
            Compare(price, ">", 1.0), Compare(price, "<", 2.0), Compare(price, "<", 3.0)))),
        ("  \n", None),
    ],
)  # fmt: skip
def test_expressions_become_trees(expression: str, tree: Node | None) -> None:
    if tree is None and expression.strip():
        with pytest.raises(BadFilter):
            parse_filter(expression)
    else:
        assert parse_filter(expression) == tree


@pytest.mark.parametrize(
    ("mapping", "expression"),
    [
        ({"colour": "red"}, "colour == 'red'"),
        ({"price": {"$lt": 30}}, "price < 30"),
        ({"price": {"$gte": 1, "$lte": 3}, "colour": "a"}, "price >= 1 and price <= 3 and "
         "colour == 'a'"),
        ({"price": {"$ne": None}}, "price != null"),
        ({"price": {"$exists": True}}, "price != null"),
        ({"price": {"$exists": False}}, "price == null"),
        ({"colour": {"$in": ["a", 1]}}, "colour in ['a', 1]"),
        ({"colour": {"$nin": ["a", 1]}}, "colour not in ['a', 1]"),
        ({"price": {"$not": {"$gt": 3}}}, "not price > 3"),
        ({"$or": [{"price": 1}, {"colour": "b", "price": 2}]},
         "price == 1 or (colour == 'b' and price == 2)"),
        ({"$nor": [{"price": 1}, {"price": 2}]}, "not (price == 1 or price == 2)"),
        ({"$and": [{"price": 1}], "$not": {"colour": "x"}}, "price == 1 and not colour == 'x'"),
        ({"tags__price": {"$lt": 3}, "tags__size__width": 2}, "price < 3 and size.width == 2"),
        ({"$id": "x", "$label": {"$gt": "a"}}, "$id == 'x' and $label > 'a'"),
        ({"price": True}, "price == true"),
        ({}, ""),
    ],
)  # fmt: skip
def test_mappings_mean_the_same(mapping: dict[str, Any], expression: str) -> None:
    assert parse_filter(mapping) == parse_filter(expression)


@pytest.mark.parametrize(
    ("expression", "column", "problem"),
    [
        ("price", 6, "expected a comparison"),
        ("price <", 8, "expected a value, got the end"),
        ("price < red", 9, "strings stand in quotes"),
        ("price = 3", 7, "use =="),
        ("price < 3 & colour == 'a'", 11, "use and"),
        ("price < 3 colour == 'a'", 11, "expected and, or, or the end"),
        ("'colour' == 'a'", 1, "expected a tag's name"),
        ("colour == 'a", 11, "never closed"),
        ("`colour == 'a'", 1, "never closed"),
        ("(price < 3", 11, "expected )"),
        ("price in 3", 10, "expected ["),
        ("price in [1 2]", 13, "expected , or ]"),
        ("price in [1", 12, "expected , or ]"),
        ("price in [,1]", 11, "expected a value"),
        ("price < true", 7, "no meaning for true"),
        ("price >= null", 7, "no meaning for null"),
        ("$price < 1", 1, "there is no field $price"),
        (r"a == 'x\q'", 8, r"unknown escape \q"),
        ("a == 1e999", 6, "inf"),
        ("a == 'x' and b == 1; drop", 20, "unexpected ';'"),
        ("a == 3x", 6, "unexpected '3'"),
        ("and == 1", 1, "expected a tag's name"),
        ("a == '\ud800'", 6, "Unicode"),
        ("a not == 3", 7, "expected a comparison"),
    ],
)
def test_errors_point_at_their_place(expression: str, column: int, problem: str) -> None:
    with pytest.raises(BadFilter) as caught:
        parse_filter(expression)
    first, line, caret = str(caught.value).split("\n")
    assert problem in first
    assert f"column {column}:" in first
    assert line == f"  {expression}"
    assert caret.index("^") - 2 == column - 1


def test_errors_in_long_and_multi_line_filters_stay_short() -> None:
    with pytest.raises(BadFilter, match="line 2, column 3") as caught:
        parse_filter("a == 1 and\nb ! 3 and\nc == 2")
    assert "  b ! 3 and\n    ^" in str(caught.value)
    with pytest.raises(BadFilter) as caught:
        parse_filter("a == 1 and " * 200 + "!")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "mapping",
    [
        {"price": {"$regex": "a"}},
        {"price": {}},
        {"price": {"lt": 3}},
        {"price": [1, 2]},
        {"price": {"$in": 3}},
        {"price": {"$in": "abc"}},
        {"price": {"$in": [[1]]}},
        {"price": {"$lt": True}},
        {"price": {"$lt": None}},
        {"price": {"$exists": 1}},
        {"price": float("nan")},
        {"price": 10**400},
        {"price": b"x"},
        {"$or": []},
        {"$or": {"a": 1}},
        {"$and": [3]},
        {"$price": 3},
        {3: 4},
        {"a\ud800": 1},
    ],
)
def test_wrong_mappings_are_refused(mapping: dict[Any, Any]) -> None:
    with pytest.raises(BadFilter, match="filter"):
        parse_filter(mapping)


BOOT = doc(
    "boot-1",
    text="Red boot",
    tags={
        "colour": "red",
        "price": 30,
        "sizes": ["M", "L", 42],
        "sale": True,
        "nothing": None,
        "empty": [],
        "size": {"width": 3.5, "unit": "cm"},
        "parts": [{"name": "sole", "grip": 2}, {"name": "shaft"}],
        "a.b": 7,
        "a": {"b": 8},
        "zero": -0.0,
    },
)

MEANING = {
    # By hand, from the manual in `filters`.
    "colour == 'red'": True,
    "colour == 'Red'": False,
    "colour == 30": False,
    "price == 30.0": True,
    "price == '30'": False,
    "price == true": False,
    "price < 30.5 and price > 29.5": True,
    "price < 'x'": False,
    "not price < 'x'": True,
    "missing == 1": False,
    "missing != 1": True,
    "missing not in [1]": True,
    "missing < 1": False,
    "missing >= 1": False,
    "missing == null": True,
    "missing != null": False,
    "nothing == null": True,
    "nothing in [null]": True,
    "colour in [null, 'blue']": False,
    "empty == null": False,
    "empty != null": True,
    "empty == 'x'": False,
    "sale == true": True,
    "sale == 1": False,
    "sale != false": True,
    "sizes == 'M'": True,
    "sizes == 42": True,
    "sizes != 'M'": False,
    "sizes != 'S'": True,
    "sizes in ['S', 'L']": True,
    "sizes > 'L'": True,
    "sizes > 'M'": False,
    "sizes < 43": True,
    "size.width >= 3.5": True,
    "size.unit == 'cm'": True,
    "size == null": False,
    "size == 'cm'": False,
    "width == 3.5": False,
    "parts.name == 'shaft'": True,
    "parts.name == 'x'": False,
    "parts.grip == null": False,
    "a.b == 7 and a.b == 8": True,
    "a.b < 7": False,
    "zero == 0 and zero == -0.0 and zero <= -0.0 and zero >= 0": True,
    "zero < 0 or zero > -0.0": False,
    "$id == 'boot-1'": True,
    "$id > 'boot'": True,
    "$id == null": False,
    "$id == 1": False,
    "$text in ['Red boot']": True,
    "$uri == null": True,
    "$uri != 'x'": True,
    "$uri < 'x'": False,
    "colour in []": False,
    "colour not in []": True,
    "colour == 'red' and not (price > 100 or missing == 3)": True,
}


@pytest.mark.parametrize("expression", MEANING)
def test_the_python_model_means_what_the_manual_says(expression: str) -> None:
    assert matches(parse_filter(expression), BOOT) is MEANING[expression]


def test_stores_mean_what_the_manual_says(index: Index) -> None:
    index.add(docs(BOOT))
    for expression, expected in MEANING.items():
        assert index.count(expression) == expected, expression
        assert index.count(f"not ({expression})") == (not expected), expression


# Few names and values, so that they meet often.
_names = st.sampled_from(["a", "b", "a.b", "b.a", "", "it's", "A"])
_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 2, 2**53 + 1, 1.5, -0.0, 1e308, 5e-324]),
    st.sampled_from(["", "a", "b", "A", "é", "\U0001f600", "\uffff", "it's", "1", "x" * 300]),
)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=2),
    max_leaves=3,
)
_tags = st.dictionaries(_names, _values, max_size=3)
_fields = st.one_of(
    _names.map(Field), st.sampled_from(["id", "text", "uri"]).map(lambda n: Field(n, builtin=True))
)
_numbers_and_texts = _scalars.filter(lambda v: v is not None and not isinstance(v, bool))
_leaves = st.one_of(
    st.builds(Compare, _fields, st.just("=="), _scalars),
    st.builds(Compare, _fields, st.sampled_from(["<", "<=", ">", ">="]), _numbers_and_texts),
    st.builds(In, _fields, st.lists(_scalars, max_size=4).map(tuple)),
)
_trees = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, max_size=3).map(tuple)),
    ),
    max_leaves=4,
)


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(tags=st.lists(_tags, min_size=3, max_size=8), trees=st.lists(_trees, min_size=3, max_size=8))
def test_stores_agree_with_the_python_model(
    index: Index, tags: list[dict[str, Any]], trees: list[Node]
) -> None:
    index.delete(filter="$id != null")  # cheaper than a new collection
    given_docs = [
        doc(["a", "b", "A"][n] if n < 3 else f"d{n}", text=[None, "a", "it's"][n % 3], tags=one)
        for n, one in enumerate(tags)
    ]
    index.add(docs(*given_docs))
    for tree in trees:
        expected = {one.id for one in given_docs if matches(tree, one)}
        [found] = index.search(vector(0)[None], DIGEST, limit=100, filter=tree)
        assert {one.id for one in found} == expected, tree


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
@example("(((((")
@example("a in [" * 10)
@example("a == '\\u12'")
def test_any_text_parses_or_is_refused_as_a_filter(text: str) -> None:
    try:
        tree = parse_filter(text)
    except BadFilter:
        return
    assert tree is not None or not text.strip()


@settings(max_examples=100, deadline=None)
@given(st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["$and", "$or", "$not", "$in", "$lt", "a", "$id"]) | st.text(max_size=3),
        inner, max_size=3),
    max_leaves=10,
))  # fmt: skip
def test_any_mapping_parses_or_is_refused_as_a_filter(given_value: Any) -> None:
    try:
        parse_filter({"x": given_value} if not isinstance(given_value, dict) else given_value)
    except BadFilter:
        return
