"""The gRPC side as other clients meet it: Jina's own, and clip-as-service's kind of call."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from docarray import DocList
from jina.proto import jina_pb2_grpc

from cliptune.documents import ClipDoc
from cliptune.errors import BadImage, BadInput, NotFound
from cliptune.protocol import wire_errors
from tests.server import Server, data_request

pytestmark = pytest.mark.e2e
BAD = [
    ("/encode", ClipDoc(id="lost"), BadInput, grpc.StatusCode.INVALID_ARGUMENT),  # text executor
    ("/encode", ClipDoc(image=b"x"), BadImage, grpc.StatusCode.INVALID_ARGUMENT),  # vision
    ("/index", ClipDoc(text="a"), BadInput, grpc.StatusCode.INVALID_ARGUMENT),
    ("/nowhere", ClipDoc(text="a"), NotFound, grpc.StatusCode.NOT_FOUND),
]


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc.removeprefix("grpc://")) as found:
        yield found


def test_a_streams_answers_hold_no_traceback(channel: grpc.Channel) -> None:
    good = ("/encode", ClipDoc(text="fine"), None, None)
    asked = [data_request(endpoint, doc) for endpoint, doc, *_ in (*BAD, good)]
    ids = [one.header.request_id for one in asked]
    answers = {a.header.request_id: a for a in jina_pb2_grpc.JinaRPCStub(channel).Call(iter(asked))}
    assert answers.keys() == set(ids)
    for number, (_, _, kind, _) in enumerate(BAD):
        whole = str(answers[ids[number]].proto_with_data)
        assert "Traceback" not in whole
        assert ".py" not in whole
        assert type(wire_errors.from_status(answers[ids[number]].header.status)) is kind
    last = answers[ids[-1]]
    assert wire_errors.from_status(last.header.status) is None
    last.document_array_cls = DocList[ClipDoc]
    assert last.docs[0].embedding.shape == (32,)


@pytest.mark.parametrize(("endpoint", "doc", "kind", "code"), BAD)
def test_one_call_has_the_status_of_its_error(
    channel: grpc.Channel, endpoint: str, doc: ClipDoc, kind: type, code: grpc.StatusCode
) -> None:
    stub = jina_pb2_grpc.JinaSingleDataRequestRPCStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.process_single_data(data_request(endpoint, doc))
    assert caught.value.code() == code
    assert type(wire_errors.from_text(caught.value.details())) is kind
    assert "Traceback" not in caught.value.details()
