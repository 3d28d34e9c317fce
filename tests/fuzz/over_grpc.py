"""gRPC messages that nobody would send: random bytes, mutated requests, nonsense in good form."""

from __future__ import annotations

import json
import random
from typing import Any

import grpc
from docarray import DocList
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.struct_pb2 import Struct
from jina.proto import jina_pb2
from jina.types.request.data import DataRequest

from cliptune.documents import ClipDoc
from cliptune.protocol import wire_errors
from tests.fuzz.outcomes import Outcomes
from tests.fuzz.over_http import FILTERS, PATHS, TIMEOUT, mutate_bytes
from tests.pictures import picture

UNARY = "/jina.JinaSingleDataRequestRPC/process_single_data"
CALL = "/jina.JinaRPC/Call"
STREAM_DOC = "/jina.JinaSingleDocumentRequestRPC/stream_doc"
OTHERS = ("/jina.JinaDataRequestRPC/process_data", "/jina.JinaInfoRPC/_status",
          "/jina.JinaDiscoverEndpointsRPC/endpoint_discovery", "/jina.Nothing/nothing",
          "/jina.JinaGatewayDryRunRPC/dry_run", "/grpc.health.v1.Health/Check",
          "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")  # fmt: skip
FIELDS = tuple(ClipDoc.model_fields)
ENDPOINTS = (*PATHS, "/", "/clear", "/nope", "", "_jina_dry_run_", "/" * 500)
# What a server says on purpose; a call that it doesn't offer is UNIMPLEMENTED.
GOOD = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED",
        "PERMISSION_DENIED", "UNAUTHENTICATED", "UNIMPLEMENTED"}  # fmt: skip


def fuzz(address: str, outcomes: Outcomes, count: int, seed: int) -> None:
    """`count` calls."""
    rng = random.Random(seed)
    with grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1)]) as channel:
        for _ in range(count):
            method = rng.choice([UNARY] * 6 + [CALL] * 2 + [STREAM_DOC, rng.choice(OTHERS)])
            _call(channel, method, message(rng), outcomes)


def message(rng: random.Random) -> bytes:
    """One message's bytes."""
    kind = rng.random()
    if kind < 0.1:
        return rng.randbytes(rng.choice([0, 1, 10, 1000]))
    if kind < 0.4:
        return mutate_bytes(rng, good_request(rng))
    if kind < 0.7:
        return nonsense_documents(rng)
    made = jina_pb2.DataRequestProto()
    fill(rng, made, depth=0)
    if rng.random() < 0.8:
        made.header.exec_endpoint = rng.choice(ENDPOINTS)
        made.header.ClearField("target_executor")
    return made.SerializePartialToString()


def good_request(rng: random.Random) -> bytes:
    """A request that some endpoint would take."""
    made = DataRequest()
    made.header.exec_endpoint = rng.choice(ENDPOINTS)
    made.document_array_cls = DocList[ClipDoc]
    made.data.docs = DocList[ClipDoc](
        ClipDoc(
            id=f"fuzz-{rng.randrange(50)}",
            text=rng.choice([None, "red", "größer"]),
            image=rng.choice([None, picture(rng.randrange(20), (20, 16))]),
            tags=rng.choice([{}, {"price": 3.5, "a": {"b": [1, "x", None]}}]),
        )
        for _ in range(rng.choice([0, 1, 2, 5]))
    )
    if rng.random() < 0.4:
        filter_ = rng.choice([f for f in FILTERS if isinstance(f, str)])
        made.parameters = {"limit": rng.choice([1, 5, -1, 1e300]), "filter": filter_}
    return made.proto_with_data.SerializePartialToString()


def nonsense_documents(rng: random.Random) -> bytes:
    """Documents with our fields, filled with what doesn't belong there."""
    made = jina_pb2.DataRequestProto()
    made.header.exec_endpoint = rng.choice(ENDPOINTS)
    for _ in range(rng.choice([1, 1, 3, 20])):
        doc = made.data.docs.docs.add()
        for name in rng.sample(FIELDS, rng.randrange(1, len(FIELDS))):
            fill(rng, doc.data[rng.choice([name] * 9 + ["else"])], depth=1)
        if rng.random() < 0.5:
            doc.data["text"].text = "red"
    return made.SerializePartialToString()


def fill(rng: random.Random, made: Any, depth: int) -> None:
    """Fill a message with anything that its fields may hold."""
    if isinstance(made, Struct):
        for _ in range(rng.randrange(3)):
            made[rng.choice(["limit", "filter", "ids", "a__b", "", "x"])] = rng.choice(
                [None, True, 1.5, float("nan"), float("inf"), "x", [1, [2]], {"a": {"b": 1}}]
            )
        return
    fields = [f for f in made.DESCRIPTOR.fields if rng.random() < (0.5 if depth else 0.8)]
    for field in fields if depth < 7 else []:
        repeated = field.label == FieldDescriptor.LABEL_REPEATED
        many = rng.choice([0, 1, 1, 2, 4])
        if field.message_type and field.message_type.GetOptions().map_entry:
            target = getattr(made, field.name)
            keys = rng.sample([*FIELDS, "else", "", "\0"], many)
            for key in keys:
                if field.message_type.fields_by_name["value"].message_type:
                    fill(rng, target[key], depth + 1)
                else:
                    target[key] = "x"
        elif field.message_type and repeated:
            for _ in range(many):
                fill(rng, getattr(made, field.name).add(), depth + 1)
        elif field.message_type:
            getattr(made, field.name).SetInParent()
            fill(rng, getattr(made, field.name), depth + 1)
        elif repeated:
            getattr(made, field.name).extend(scalar(rng, field) for _ in range(many))
        else:
            setattr(made, field.name, scalar(rng, field))


def scalar(rng: random.Random, field: FieldDescriptor) -> Any:
    """A value of a field's type, often an extreme one."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return rng.choice([b"", rng.randbytes(16), picture(1, (20, 16)), b"\x89PNG" * 9])
        words = ["", "x", "ndarray", "bytes", "dict", "float32", "O", "<f4", "object", "U9", "V3",
                 "a" * 3000, "\0", "id", "text", "torch_tensor", "DocList", "AnyUrl"]  # fmt: skip
        return rng.choice(words)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return rng.choice([0.0, -1.5, 1e300, float("nan"), float("inf")])
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return rng.choice([0, 1])
    if kind in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64):
        return rng.choice([0, 1, 4, 2**16, 2**32 - 1])
    return rng.choice([0, 1, -1, 2**31 - 1, -(2**31)])


def _call(channel: grpc.Channel, method: str, sent: bytes, outcomes: Outcomes) -> None:
    try:
        if method == UNARY or method in OTHERS[:-1]:
            answers = [channel.unary_unary(method)(sent, timeout=TIMEOUT)]
        elif method == STREAM_DOC:
            answers = list(channel.unary_stream(method)(sent, timeout=TIMEOUT))
        else:
            answers = list(channel.stream_stream(method)(iter([sent, sent]), timeout=TIMEOUT))
    except grpc.RpcError as error:
        status, details = error.code().name, error.details() or ""
        # gRPC itself says UNKNOWN to what is no message, where it parses them.
        good = status in GOOD or (method in OTHERS and "DecodeError" in details)
        problem = "" if good else details or "no reason"
        if "Traceback" in details:
            problem = f"a traceback: {details}"
        outcomes.note(f"gRPC {status}", problem, method.encode() + b" " + sent)
        return
    outcomes.note("gRPC OK", _problem_of(method, answers), method.encode() + b" " + sent)


def _problem_of(method: str, answers: list[bytes]) -> str:
    """What is wrong in answers that have a status of their own."""
    if method not in (UNARY, CALL):
        return ""
    if method == CALL and len(answers) != 2:
        return f"{len(answers)} answers to 2 requests"
    for answer in answers:
        made = jina_pb2.DataRequestProto.FromString(answer)
        status = made.header.status
        if b"Traceback" in answer:
            return f"a traceback: {status}"
        if status.code == status.ERROR:
            told = json.loads(status.description.removeprefix(wire_errors.PREFIX))
            if told["type"] in ("InternalError", "Unavailable"):
                return status.description
    return ""
