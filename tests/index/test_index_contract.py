"""What every store promises (`cliptune.index.base`)."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.errors import BadFilter, BadInput, ModelMismatch
from cliptune.index import Index, parse_filter
from cliptune.index.filters.language import And, Compare, In
from cliptune.index.filters.language import Field as FilterField
from tests.index.index_helpers import DIGEST, DIM, OTHER_DIGEST, cosine, doc, docs, vector


def ids_of(found: DocList) -> list[str]:
    return [one.id for one in found]


def test_everything_of_a_document_comes_back_exactly(open_store: Callable[..., Index]) -> None:
    index = open_store(store_images=True)
    tags = {
        "int": 3,
        "float": 3.0,
        "big": 2**62 + 1,
        "bool": True,
        "null": None,
        "text": "Ünïcode \U0001f600 'quoted' \\ \n",
        "list": [1, "two", [3.5, None], {"deep": [False]}],
        "dict": {"a.b": {"": 1}, "empty": {}, "none": []},
        "": "no name",
    }
    given = doc(
        "one", text="A title", uri="a/b.jpg", label="L", image=b"\x00\xffpicture", tags=tags
    )
    assert index.add(docs(given)) == 1
    [full] = index.get(["one"], include_embedding=True, include_image=True)
    assert (full.id, full.text, full.uri, full.label) == ("one", "A title", "a/b.jpg", "L")
    assert repr(full.tags) == repr(tags)  # 3 and 3.0, True and 1 are told apart
    assert full.image == given.image
    assert full.image_digest == hashlib.sha256(given.image).hexdigest()
    assert full.embedding.dtype == np.float32
    np.testing.assert_array_equal(full.embedding, given.embedding)
    assert full.model_digest == DIGEST
    [light] = index.get(["one"])
    assert light.embedding is None
    assert light.image is None
    assert light.tags == tags
    [[match]] = index.search(given.embedding[None], DIGEST)
    assert (match.id, match.text, match.uri) == ("one", "A title", "a/b.jpg")
    assert repr(match.tags) == repr(tags)
    assert match.score == pytest.approx(1.0, abs=1e-6)


def test_pictures_are_left_out_unless_wanted(open_store: Callable[..., Index]) -> None:
    index = open_store(store_images=False)
    index.add(docs(doc("one", image=b"picture")))
    [kept] = index.get(["one"], include_image=True)
    assert kept.image is None
    assert kept.image_digest == hashlib.sha256(b"picture").hexdigest()
    kept.embedding, kept.model_digest = vector(1), DIGEST
    index.add(docs(kept))
    assert index.get(["one"])[0].image_digest == kept.image_digest
    with pytest.raises(BadInput, match=r"document 0 .*image_digest is 'x'"):
        index.add(docs(doc("two", image_digest="x")))


def test_add_replaces_by_id_and_keeps_the_last_of_a_batch(index: Index) -> None:
    assert index.add(docs(doc("a", text="1"), doc("b", text="1"), doc("a", text="2"))) == 2
    assert index.count() == 2
    assert index.get(["a"])[0].text == "2"
    new = vector(99)
    assert index.add(docs(doc("b", text="3", tags={"x": 1}, embedding=new), doc("c"))) == 2
    assert index.count() == 3
    [b] = index.get(["b"], include_embedding=True)
    assert (b.text, b.tags) == ("3", {"x": 1})
    np.testing.assert_array_equal(b.embedding, new)
    assert index.add(docs(doc("b"))) == 1
    assert index.get(["b"])[0].text is None  # replaced whole, not merged


def test_a_scan_gives_everything_in_order_and_goes_on_where_it_ended(index: Index) -> None:
    names = [f"d{n}" for n in range(25)] + ["ä", "z\U0001f600", "Z"]
    index.add(docs(*(doc(name, image=name.encode()) for name in names)))
    index.add(docs(doc("d3", text="new")))  # replaced: it lies elsewhere now
    index.delete(ids=["d4"])
    expected = sorted(set(names) - {"d4"}, key=str.encode)
    batches = list(index.scan(batch_size=10, include_embedding=True, include_image=True))
    assert [len(batch) for batch in batches] == [10, 10, 7]
    found = [one for batch in batches for one in batch]
    assert ids_of(found) == expected
    again = index.get(expected, include_embedding=True, include_image=True)
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one.embedding, other.embedding)
        assert (one.text, one.image, one.model_digest) == (other.text, other.image, DIGEST)
    [rest] = index.scan(after="d8")
    assert ids_of(rest) == [name for name in expected if name > "d8"]
    assert rest[0].embedding is None
    assert list(index.scan(after="\U0001f600")) == []
    with pytest.raises(BadInput, match="batch_size: expected an integer of 1 or more, got 0"):
        index.scan(batch_size=0)
    index.clear()
    assert list(index.scan()) == []


def test_get_keeps_the_order_asked_for(index: Index) -> None:
    index.add(docs(*(doc(f"d{n}") for n in range(5))))
    assert ids_of(index.get(["d3", "missing", "d1", "d3", "d0"])) == ["d3", "d1", "d0"]
    assert ids_of(index.get([])) == []


def test_delete_by_ids_by_filter_and_by_both(index: Index) -> None:
    index.add(docs(*(doc(f"d{n}", tags={"n": n}) for n in range(10))))
    assert index.delete(ids=["d0", "d1", "missing", "d0"]) == 2
    assert index.delete(filter="n >= 8") == 2
    assert index.delete(ids=["d2", "d3"], filter={"n": 3}) == 1
    assert index.delete(filter="n == 100") == 0
    assert index.delete(ids=[]) == 0
    assert index.count() == 5
    assert ids_of(index.get([f"d{n}" for n in range(10)])) == ["d2", "d4", "d5", "d6", "d7"]
    for nothing in ({}, {"filter": ""}, {"filter": {}}):
        with pytest.raises(BadInput, match="clear"):
            index.delete(**nothing)
    assert index.count() == 5


def test_search_equals_brute_force(index: Index) -> None:
    rng = np.random.default_rng(5)
    embeddings = rng.standard_normal((200, DIM)).astype(np.float32) * rng.uniform(
        0.1, 10, (200, 1)
    ).astype(np.float32)
    index.add(
        docs(*(doc(f"d{n:03}", embedding=one, tags={"n": n}) for n, one in enumerate(embeddings)))
    )
    queries = rng.standard_normal((70, DIM)).astype(np.float32)
    scores = cosine(queries, embeddings)
    order = np.argsort(-scores, axis=1, kind="stable")
    for arguments, kept in [
        ({"limit": 10}, slice(0, 10)),
        ({"limit": 7, "offset": 5}, slice(5, 12)),
        ({"limit": 500}, slice(0, 200)),
        ({"limit": 10, "exact": True}, slice(0, 10)),
        ({"limit": 5, "offset": 198}, slice(198, 200)),
        ({"limit": 5, "offset": 300}, slice(300, 305)),
        ({"limit": 0}, slice(0, 0)),
    ]:
        found = index.search(queries, DIGEST, **arguments)
        assert [ids_of(one) for one in found] == [[f"d{n:03}" for n in row[kept]] for row in order]
        for matches, row, reference in zip(found, order, scores, strict=True):
            np.testing.assert_allclose(
                [match.score for match in matches], reference[row[kept]], atol=2e-6
            )
    among = [[n for n in row if n < 20][:5] for row in order]
    found = index.search(queries, DIGEST, limit=5, filter="n < 20")
    assert [ids_of(one) for one in found] == [[f"d{n:03}" for n in row] for row in among]
    threshold = float(np.median(scores[0]))
    [[*matches]] = index.search(queries[:1], DIGEST, limit=200, score_threshold=threshold)
    assert ids_of(matches) == [f"d{n:03}" for n in order[0] if scores[0][n] >= threshold]
    assert index.search(queries[:0], DIGEST) == []


def test_ties_are_ordered_by_id_over_all_pages(index: Index) -> None:
    same, other = vector(1), vector(2)
    rng = np.random.default_rng(0)
    names = [f"t{n:02}" for n in rng.permutation(60)]
    index.add(docs(*(doc(name, embedding=same) for name in names)))
    index.add(docs(doc("zz", embedding=same), doc("far", embedding=other)))
    expected = [*sorted(names), "zz", "far"]
    assert ids_of(index.search(same[None], DIGEST, limit=62)[0]) == expected
    pages = [index.search(same[None], DIGEST, limit=7, offset=at)[0] for at in range(0, 70, 7)]
    assert [one.id for page in pages for one in page] == expected
    assert ids_of(index.search(same[None], DIGEST, limit=1)[0]) == ["t00"]


def test_another_models_documents_and_queries_are_refused(index: Index) -> None:
    with pytest.raises(ModelMismatch, match="bbbbbbbbbbbb.*aaaaaaaaaaaa"):
        index.add(docs(doc("a"), doc("b", model_digest=OTHER_DIGEST)))
    assert index.status().model_digest is None  # nothing was stamped or written
    assert index.search(vector(0)[None], OTHER_DIGEST) == [[]]
    index.add(docs(doc("a")))
    with pytest.raises(ModelMismatch, match=r"document 1 \(id 'b'\).*bbbbbbbbbbbb.*aaaaaaaaaaaa"):
        index.add(docs(doc("c"), doc("b", model_digest=OTHER_DIGEST)))
    with pytest.raises(ModelMismatch, match=r"bbbbbbbbbbbb.*aaaaaaaaaaaa.*clear"):
        index.search(vector(0)[None], OTHER_DIGEST)
    assert index.count() == 1
    index.delete(ids=["a"])
    with pytest.raises(ModelMismatch):  # the stamp outlives the documents
        index.add(docs(doc("b", model_digest=OTHER_DIGEST)))
    index.clear()
    status = index.status()
    assert (status.rows, status.dim, status.model_digest) == (0, None, None)
    index.add(docs(doc("b", embedding=vector(0, 3), model_digest=OTHER_DIGEST)))
    assert index.status().dim == 3
    assert ids_of(index.search(vector(0, 3)[None], OTHER_DIGEST)[0]) == ["b"]


BAD_DOCUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "empty id": ({"id": ""}, "empty"),
    "missing id": ({"id": None}, "empty"),
    "long id": ({"id": "é" * 257}, "514 bytes"),
    "NUL in id": ({"id": "a\0b"}, "NUL"),
    "no embedding": ({"embedding": None}, "embedding is missing"),
    "dimension": ({"embedding": np.ones(DIM + 1, np.float32)}, f"{DIM + 1} dimensions"),
    "two axes": ({"embedding": np.ones((1, DIM), np.float32)}, "shape"),
    "NaN": ({"embedding": np.full(DIM, np.nan, np.float32)}, "NaN"),
    "infinite": ({"embedding": np.array([np.inf, *np.ones(DIM - 1)])}, "NaN or infinite"),
    "beyond float32": ({"embedding": np.full(DIM, 1e200)}, "NaN or infinite"),
    "too long": ({"embedding": np.full(DIM, 3e38)}, "float32"),
    "zero": ({"embedding": np.zeros(DIM, np.float32)}, "zero"),
    "nearly zero": ({"embedding": np.full(DIM, 1e-30)}, "zero"),
    "no digest": ({"model_digest": None}, "model_digest is missing"),
    "NaN tag": ({"tags": {"price": float("nan")}}, "'price' is nan"),
    "bytes tag": ({"tags": {"a": {"b": b"x"}}}, "'a.b' is of type bytes"),
    "tag's name": ({"tags": {"a": {1: "x"}}}, "names are strings"),
    "deep tag": ({"tags": {"a": eval("[" * 30 + "]" * 30)}}, "nested deeper"),
    "huge tags": ({"tags": {"a": "x" * 2_000_000}}, "bytes"),
    "huge int": ({"tags": {"a": 10**400}}, "'a' is 1000"),
    "surrogate": ({"tags": {"a": "\ud800"}}, "Unicode"),
    "many values": ({"tags": {"a": list(range(5000))}}, "4000 values"),
}


def test_a_bad_document_is_named_and_nothing_of_its_batch_is_written(index: Index) -> None:
    index.add(docs(doc("there")))
    for name, (fields, problem) in BAD_DOCUMENTS.items():
        bad = doc("bad")
        for key, value in fields.items():
            object.__setattr__(bad, key, value)  # past pydantic, as unvalidated code would
        with pytest.raises(BadInput, match=problem) as caught:
            index.add(docs(doc("good"), bad))
        assert str(caught.value).startswith("document 1 (id "), name
        assert len(str(caught.value)) < 500
        assert index.count() == 1, name
        assert index.count("$id == 'good'") == 0


def test_bad_arguments_of_searches_are_named(index: Index) -> None:
    index.add(docs(doc("a")))
    good = vector(0)[None]
    for arguments, problem in [
        ({"limit": -1}, "limit.*-1"),
        ({"limit": 2.5}, "limit.*2.5"),
        ({"limit": True}, "limit"),
        ({"offset": "3"}, "offset.*'3'"),
        ({"limit": 9_999, "offset": 2}, "10001.*10000"),
        ({"score_threshold": float("nan")}, "score_threshold"),
        ({"score_threshold": "high"}, "score_threshold.*'high'"),
        ({"filter": 3}, "filter.*int"),
        ({"filter": "price <"}, "column 8"),
    ]:
        with pytest.raises(BadInput, match=problem):
            index.search(good, DIGEST, **arguments)
    for queries, problem in [
        (good[0], r"\[Q, D\]"),
        (np.ones((1, DIM + 1)), f"query 0: .*{DIM + 1}"),
        (np.stack([good[0], np.zeros(DIM)]), "query 1: .*zero"),
        (np.full((1, DIM), np.nan), "query 0: .*NaN"),
        ("red", "array of numbers"),
    ]:
        with pytest.raises(BadInput, match=problem):
            index.search(queries, DIGEST)
    for digest in (None, "", 3):
        with pytest.raises(BadInput, match="model_digest"):
            index.search(good, digest)  # type: ignore[arg-type]
    for ids in ("one", ["ok", ""], [3]):
        with pytest.raises(BadInput, match="ids"):
            index.get(ids)  # type: ignore[arg-type]
        with pytest.raises(BadInput, match="ids"):
            index.delete(ids=ids)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="ClipDoc"):
        index.add(["text"])  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="single"):
        index.add(doc("x"))  # type: ignore[arg-type]
    assert index.add(docs()) == 0


NASTY = [
    "'; DROP TABLE documents; --",
    "' OR '1'='1",
    "') OR (true",
    "a'b''c",
    '"; x',
    '["colour"]',
    "back\\slash\\'",
    "new\nline\r\t",
    "%_*?",
    "/* */ -- #",
    "`tick``s`",
    "$id",
    "\U0001f600é\u2028",
    "e\u0301",
    "{x} $1 :a",
    "../../etc/passwd",
    "x" * 300,
]


def test_nothing_escapes_from_ids_tags_and_filters(index: Index) -> None:
    given = [
        doc(text, seed=n, text=text, label=text, tags={text: text, "n": n, "in": {text: [text]}})
        for n, text in enumerate(NASTY)
    ]
    index.add(docs(*given))
    index.add(docs(*given))  # as updates
    assert index.count() == len(NASTY)
    for n, text in enumerate(NASTY):
        quoted = text.replace("\\", "\\\\").replace("'", "\\'")
        name = "`" + text.replace("`", "``") + "`"
        nested = "`" + f"in.{text}".replace("`", "``") + "`"
        for filter in (
            f"{name} == '{quoted}'",
            f"{name} in ['{quoted}', 'other']",
            f"{name} >= '{quoted}' and {name} <= '{quoted}'",
            f"{nested} == '{quoted}'",
            f"$id == '{quoted}'",
            f"$text in ['{quoted}']",
            f"not $label != '{quoted}'",
            {f"in.{text}": text},
            {"$id": {"$in": [text, "other"]}},
            {"$text": text},
            And((In(FilterField(text), (text, 3.0)), Compare(FilterField("n"), "==", n))),
        ):
            found = index.search(vector(0)[None], DIGEST, limit=100, filter=filter)[0]
            assert ids_of(found) == [text], filter
        assert index.count(f"{name} == '{quoted}x'") == 0
        assert index.count(f"{name} != null") == 1
        [kept] = index.get([text])
        assert kept.tags == given[n].tags
    assert index.delete(filter={"$text": "' OR '1'='1"}) == 1
    assert index.delete(ids=["') OR (true"]) == 1
    assert index.count() == len(NASTY) - 2


def test_large_filters_are_answered_or_refused(index: Index) -> None:
    index.add(docs(*(doc(f"d{n}", tags={"n": n}) for n in range(20))))
    assert index.count({"n": {"$in": list(range(5, 9000))}}) == 15
    assert index.count(f"$id in {[f'd{n}' for n in range(10, 9000)]}") == 10
    assert index.count(" or ".join(f"n == {n}" for n in range(10, 260))) == 10
    assert index.count("not (" * 30 + "n < 5" + ")" * 30) == 5
    assert index.count("(" * 50 + "n < 5" + ")" * 50) == 5
    deep = "n == 1"
    for _ in range(4):
        deep = f"(n == 1 or not (n == 2 and not ({deep})))"
    assert index.count(deep) == 19
    with pytest.raises(BadFilter, match="comparisons"):
        index.count(" or ".join(f"n == {n}" for n in range(300)))
    with pytest.raises(BadFilter, match="values"):
        index.count({"n": {"$in": list(range(20_000))}})
    with pytest.raises(BadFilter, match="deep"):
        index.count("not (" * 5000 + "n < 5" + ")" * 5000)
    with pytest.raises(BadFilter, match="deep"):
        index.count("(n == 0 or (n == 1 and " * 12 + "n < 5" + "))" * 12)
    mapping: dict[str, Any] = {"n": 1}
    for _ in range(3000):
        mapping = {"$not": mapping}
    with pytest.raises(BadFilter, match="deep"):
        parse_filter(mapping)


def test_it_is_there_after_closing_and_seen_by_other_openings(
    open_store: Callable[..., Index],
) -> None:
    first, second = open_store(), open_store()
    first.add(docs(doc("a", tags={"n": 1})))
    assert second.count() == 1
    second.add(docs(doc("b", tags={"n": 2})))
    assert ids_of(first.search(vector(0)[None], DIGEST, filter="n > 1")[0]) == ["b"]
    first.clear()
    assert second.count() == 0
    assert second.status().dim is None
    assert second.search(vector(0)[None], DIGEST) == [[]]
    first.add(docs(doc("c", embedding=vector(1, 3), model_digest=OTHER_DIGEST)))
    assert ids_of(second.search(vector(1, 3)[None], OTHER_DIGEST)[0]) == ["c"]
    first.clear()
    first.add(docs(doc("c", embedding=vector(1, 3), model_digest=OTHER_DIGEST)))
    assert ids_of(second.search(vector(1, 3)[None], OTHER_DIGEST)[0]) == ["c"]
    first.close()
    with first, pytest.raises(BadInput, match="closed"):
        first.count()
    for call in (
        lambda: first.add(docs(doc("x"))),
        lambda: first.search(vector(0)[None], DIGEST),
        lambda: first.delete(ids=["x"]),
        first.clear,
        first.status,
        first.optimize,
    ):
        with pytest.raises(BadInput, match="closed"):
            call()
    with open_store() as third:
        assert third.status() == second.status()
        assert ids_of(third.get(["c"])) == ["c"]


def test_threads_add_delete_and_search_at_once(index: Index) -> None:
    errors: list[Exception] = []

    def work(worker: int) -> None:
        try:
            for turn in range(6):
                mine = f"w{worker}-{turn}"
                index.add(docs(doc(mine, tags={"w": worker}), doc("shared", text=mine)))
                assert ids_of(index.get([mine])) == [mine]
                found = index.search(vector(turn)[None], DIGEST, limit=100)[0]
                assert len(set(ids_of(found))) == len(found)
                if turn % 2:
                    assert index.delete(ids=[mine]) == 1
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert index.count() == 4 * 3 + 1
    assert index.count("w == 2") == 3
    assert index.count("$id == 'shared'") == 1


def test_documents_of_other_shapes_of_tags_and_numpy_values(index: Index) -> None:
    index.add(
        docs(
            doc("np", tags={"price": np.float32(2.5), "n": np.int64(3), "v": np.arange(3)}),
            ClipDoc(id="list", embedding=[1.0] * DIM, model_digest=DIGEST, tags={"t": (1, 2)}),
        )
    )
    first, second = index.get(["np", "list"])
    assert repr(first.tags) == "{'price': 2.5, 'n': 3, 'v': [0, 1, 2]}"
    assert second.tags == {"t": [1, 2]}
    assert index.count("t == 2") == 1
    assert index.count("v > 1") == 1
