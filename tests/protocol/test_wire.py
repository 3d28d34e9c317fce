"""Errors and tags on the wire, without a server."""

from __future__ import annotations

import inspect

import pytest
from docarray import DocList
from hypothesis import given
from hypothesis import strategies as st

from cliptune import errors
from cliptune.documents import MAX_DEPTH, ClipDoc
from cliptune.errors import BadInput, NotFound
from cliptune.protocol import tags, wire_errors
from cliptune.protocol.jina_compat import DataRequest, jina_pb2


@pytest.mark.parametrize("kind", sorted(wire_errors.ERRORS.values(), key=lambda k: k.__name__))
def test_every_error_survives_the_way(kind: type[errors.CliptuneError]) -> None:
    found = wire_errors.from_text(wire_errors.to_text(kind("größer als 3: 'x'\n  ^")))
    assert type(found) is kind
    assert str(found) == "größer als 3: 'x'\n  ^"


def status_of(error: Exception, jinas_own: bool = False) -> jina_pb2.StatusProto:
    """As an executor answers; or as one would that doesn't know of `wire_errors`."""
    request = DataRequest()
    add = inspect.unwrap(DataRequest.add_exception) if jinas_own else DataRequest.add_exception
    try:
        raise error
    except Exception as raised:
        add(request, raised)
    return request.header.status


def test_a_status_says_no_more_than_the_message(caplog: pytest.LogCaptureFixture) -> None:
    late = errors.RateLimited("slower", retry_after=2.5)
    for error in (NotFound("no run 'x'"), late):
        deliberate = status_of(error)
        assert "Traceback" not in str(deliberate)
        told = wire_errors.from_status(deliberate)
        assert type(told) is type(error)
        assert str(told) == str(error)
    assert told.retry_after == 2.5
    for jinas_own in (False, True):
        unexpected = status_of(KeyError("secret"), jinas_own)
        assert ("secret" in str(unexpected)) is jinas_own
        told = wire_errors.from_status(unexpected)
        assert type(told) is errors.InternalError
        assert "secret" not in str(told)
        number = str(told).split()[2].rstrip(";")
        assert f"internal error {number}" in caplog.text
        assert "KeyError: 'secret'" in caplog.text
        caplog.clear()
    assert wire_errors.from_status(DataRequest().header.status) is None


def test_what_others_tell_is_read_as_far_as_it_goes() -> None:
    newer = {"type": "NotFound", "message": "no run 'x'", "hint": "a field of a newer server"}
    assert type(wire_errors.from_json(newer)) is NotFound
    unknown = wire_errors.from_json({"type": "Unheard", "message": "of"})
    assert (type(unknown), str(unknown)) == (errors.CliptuneError, "of")
    for other in (None, [], "x", {"type": 3}, {"message": {}}):
        assert type(wire_errors.from_json(other)) is errors.InternalError
    assert wire_errors.error_in("CLIPTUNE:{") is None
    assert wire_errors.error_in("upstream connect error") is None
    assert str(wire_errors.from_text("upstream connect error")) == "upstream connect error"


def test_long_messages_fit_into_grpcs_metadata() -> None:
    text = wire_errors.to_text(BadInput("ü" * 100_000))
    assert len(text) < 8_000
    assert isinstance(wire_errors.from_text(text), BadInput)


json_values = st.recursive(
    st.none() | st.booleans() | st.text(st.characters(codec="utf-8"), max_size=20)
    | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False, width=64),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), json_values, max_size=4))
def test_tags_survive_protobuf(given_tags: dict) -> None:
    docs = DocList[ClipDoc]([ClipDoc(tags=given_tags)])
    tags.pack(docs)
    arrived = DocList[ClipDoc].from_protobuf(docs.to_protobuf())
    tags.unpack(arrived)
    assert arrived[0].tags == given_tags


@pytest.mark.parametrize("value", [2**60, float("nan"), float("inf"), b"x", {3: 1}, object()])
def test_tags_that_json_does_not_have(value: object) -> None:
    with pytest.raises(BadInput, match="document 0"):
        tags.pack([ClipDoc(tags={"a": value})])


def nested(depth: int, kind: type) -> object:
    value: object = 1
    for _ in range(depth):
        value = {"a": value} if kind is dict else [value]
    return value


@pytest.mark.parametrize("kind", [dict, list])
def test_what_is_nested_deeply_is_refused_before_it_is_sent(kind: type) -> None:
    deepest = {"t": nested(MAX_DEPTH - 1, kind)}
    docs = DocList[ClipDoc]([ClipDoc(tags=deepest)])
    tags.pack(docs)
    assert DocList[ClipDoc].from_protobuf(docs.to_protobuf())[0].tags == deepest
    for depth in (MAX_DEPTH, 40, 100_000):
        with pytest.raises(BadInput, match=f"document 0 .*deeper than {MAX_DEPTH} levels"):
            tags.pack([ClipDoc.model_construct(id="a", tags={"t": nested(depth, kind)})])


def test_documents_are_read_from_protobuf_as_docarray_reads_them() -> None:
    import numpy as np
    from docarray import BaseDoc, DocList

    from cliptune.documents import ClipDoc, Match, SearchResult

    tags = {"price": 1.5, "ean": 3, "on sale": True, "sizes": [1, "b", None], "of": {"a": "x"}}
    vector = np.arange(4, dtype=np.float32)
    full = ClipDoc(text="a hat", image=b"\x00\xff", uri="u", label="l", tags=tags)
    full.embedding, full.model_digest = vector, "d" * 64
    matches = DocList[Match]([Match(text="m", tags=tags, score=0.5), Match()])
    for doc in (full, ClipDoc(), SearchResult(text="q", matches=matches)):
        message = doc.to_protobuf()
        found = type(doc).from_protobuf(message)
        theirs = BaseDoc.from_protobuf.__func__(type(doc), message)  # type: ignore[attr-defined]
        assert type(found) is type(doc)
        assert type(found.id) is type(theirs.id)
        for name in type(doc).model_fields:
            one, other = getattr(found, name), getattr(theirs, name)
            if name == "embedding" and other is not None:
                np.testing.assert_array_equal(one, other)
                assert one.dtype == np.float32
            else:
                assert one == other, name
    message = full.to_protobuf()
    message.data["unknown"].text = "left out"
    assert ClipDoc.from_protobuf(message).text == "a hat"
    message.data["text"].blob = b"\xff"  # of another kind than the field
    with pytest.raises(ValueError, match="text"):
        ClipDoc.from_protobuf(message)
