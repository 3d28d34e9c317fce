"""Our messages are Jina's on the wire, in both directions, in one process."""

from __future__ import annotations

import pytest
from docarray import DocList
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from cliptune.client.messages import Call, document_of, documents, one_document
from cliptune.documents import ClipDoc, SearchResult
from cliptune.errors import NotFound
from cliptune.protocol import tags, wire_errors
from cliptune.protocol.documents import LogItem, TrainRequest
from cliptune.protocol.endpoints import ENCODE, LOGS, SEARCH
from cliptune.protocol.jina_compat import DataRequest, SingleDocumentRequest, jina_pb2
from cliptune.protocol.jina_messages_pb2 import DocumentRequest, DocumentsRequest

DOCS = DocList[ClipDoc](
    [
        ClipDoc(id="a", text="größer", tags={"ean": 4_006_381_333_931, "n": [1, None]}),
        ClipDoc(id="b"),
    ]
)
PARAMETERS = {"limit": 7, "filter": {"price": {"$lt": 3.5}}, "exact": True, "model": None}


def search() -> Call[DocList[SearchResult]]:
    return documents(SEARCH, DOCS, PARAMETERS)


def test_jina_reads_what_we_write() -> None:
    request = DataRequest(search().message().SerializeToString())
    request.document_array_cls = DocList[ClipDoc]
    assert request.header.exec_endpoint == "/search"
    assert len(request.request_id) == 32
    assert request.parameters == PARAMETERS
    tags.unpack(request.docs)
    assert [(doc.id, doc.text, doc.tags) for doc in request.docs] == [
        (doc.id, doc.text, doc.tags) for doc in DOCS
    ]
    assert DOCS[0].tags["ean"] == 4_006_381_333_931, "what was given is as it was"
    empty = DataRequest(documents(ENCODE, []).message().SerializeToString())
    empty.document_array_cls = DocList[ClipDoc]
    assert empty.proto_with_data.data.WhichOneof("documents") == "docs"
    assert list(empty.docs) == []


def test_we_write_the_bytes_that_jina_writes() -> None:
    message = documents(ENCODE, [ClipDoc(id="a", text="b")], {"limit": 3}).message()
    request = DataRequest()
    request.header.exec_endpoint = "/encode"
    request.header.request_id = message.header.request_id
    request.data.docs = DocList[ClipDoc]([ClipDoc(id="a", text="b")])
    request.parameters = {"limit": 3}

    def fixed(raw: bytes) -> bytes:  # a map has no order
        parsed = jina_pb2.DataRequestProto.FromString(raw)
        return parsed.SerializeToString(deterministic=True)

    assert fixed(message.SerializeToString()) == fixed(request.proto.SerializeToString())
    assert len(message.SerializeToString()) == request.proto.ByteSize()


def test_we_read_what_jina_writes() -> None:
    request = DataRequest()
    packed = DocList[ClipDoc]([doc.model_copy() for doc in DOCS])
    tags.pack(packed)
    request.data.docs = packed
    request.add_executor("indexer")
    request.routes[0].start_time.FromMilliseconds(1000)
    request.routes[0].end_time.FromMilliseconds(1250)
    message = DocumentsRequest.FromString(request.proto.SerializeToString())
    answer = search().read(message)
    assert [(type(doc), doc.id, doc.tags) for doc in answer] == [
        (SearchResult, doc.id, doc.tags) for doc in DOCS
    ]
    [route] = message.routes
    assert route.executor == "indexer"
    assert route.end_time.ToMilliseconds() - route.start_time.ToMilliseconds() == 250
    wire_errors.set_status(request.header.status, NotFound("no model 'x'"))
    with pytest.raises(NotFound, match="no model 'x'"):
        search().read(DocumentsRequest.FromString(request.proto.SerializeToString()))


def test_streams() -> None:
    request = SingleDocumentRequest()
    request._pb_body = jina_pb2.SingleDocumentRequestProto.FromString(
        one_document(LOGS, TrainRequest(arguments='{"a": 1}')).SerializeToString()
    )
    request.document_cls = TrainRequest
    assert request.header.exec_endpoint == "/logs"
    assert request.data.doc.arguments == '{"a": 1}'
    answer = SingleDocumentRequest()
    answer.data.doc = LogItem(line="epoch 1")
    read = DocumentRequest.FromString(answer.proto.SerializeToString())
    assert document_of(LOGS, read).line == "epoch 1"


def test_every_field_is_jinas() -> None:
    """Numbers, kinds and labels, all the way down; documents stand as bytes."""
    seen: set[str] = set()

    def compare(ours: Descriptor, theirs: Descriptor) -> None:
        if ours.full_name in seen or ours.full_name.startswith("google."):
            return
        seen.add(ours.full_name)
        for number, field in ours.fields_by_number.items():
            other = theirs.fields_by_number[number]
            assert field.label == other.label, field.full_name
            if field.type == FieldDescriptor.TYPE_BYTES and other.message_type is not None:
                assert other.message_type.full_name.startswith("docarray."), field.full_name
                continue
            assert field.type == other.type, field.full_name
            if field.message_type is not None:
                compare(field.message_type, other.message_type)
            if field.enum_type is not None:
                assert {v.name: v.number for v in field.enum_type.values} == {
                    v.name: v.number for v in other.enum_type.values
                }

    compare(DocumentsRequest.DESCRIPTOR, jina_pb2.DataRequestProto.DESCRIPTOR)
    compare(DocumentRequest.DESCRIPTOR, jina_pb2.SingleDocumentRequestProto.DESCRIPTOR)
    assert len(seen) == 7
