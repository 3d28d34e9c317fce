# ruff: noqa: N802 - protobuf's names
"""What is used of Jina, of its messages and of gRPC's calls, none of which have types of their own.

For type checkers alone: `jina_compat` imports these names from here, and the real ones at run time.
"""

import ssl
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    MutableMapping,
    MutableSequence,
    Sequence,
)
from typing import Any, Protocol, TypeVar

import grpc
from docarray import BaseDoc, DocList
from fastapi import FastAPI
from google.protobuf.descriptor import Descriptor

F = TypeVar("F", bound=Callable[..., object])

class ServicerContext(Protocol):
    """One gRPC call at a server, as `grpc.aio` gives it."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...
    async def send_initial_metadata(self, metadata: Iterable[tuple[str, str]]) -> None: ...
    async def abort(
        self, code: grpc.StatusCode, details: str, trailing_metadata: Sequence[tuple[str, str]] = ()
    ) -> None: ...

class HandlerCallDetails(Protocol):
    """What an interceptor knows of a call."""

    method: str
    invocation_metadata: Sequence[tuple[str, str | bytes]] | None

class Call(Protocol):
    """A gRPC call under way at a client."""

    def cancel(self) -> bool: ...

# Messages.

class Message:
    DESCRIPTOR: Descriptor
    def ByteSize(self) -> int: ...
    def Clear(self) -> None: ...
    def ClearField(self, name: str) -> None: ...
    def SerializeToString(self) -> bytes: ...
    def WhichOneof(self, name: str) -> str | None: ...

class Timestamp(Message):
    def ToNanoseconds(self) -> int: ...

class ExceptionProto(Message):
    name: str
    args: MutableSequence[str]
    stacks: Sequence[str]
    executor: str

class StatusProto(Message):
    SUCCESS: int
    ERROR: int
    code: int
    description: str
    exception: ExceptionProto

class HeaderProto(Message):
    request_id: str
    status: StatusProto
    exec_endpoint: str
    target_executor: str

class RouteProto(Message):
    executor: str
    start_time: Timestamp
    end_time: Timestamp

class DenseProto(Message):
    buffer: bytes
    shape: Sequence[int]
    dtype: str

class NdArrayProto(Message):
    dense: DenseProto

class NodeProto(Message):
    text: str
    type: str
    ndarray: NdArrayProto
    doc_array: DocListProto

class DocProto(Message):
    data: MutableMapping[str, NodeProto]

class DocListProto(Message):
    docs: Sequence[DocProto]

class DataContentProto(Message):
    docs: DocListProto

class DataRequestProto(Message):
    header: HeaderProto
    routes: MutableSequence[RouteProto]
    parameters: Message
    data: DataContentProto

class SingleDocumentRequestProto(Message):
    header: HeaderProto
    routes: MutableSequence[RouteProto]
    parameters: Message
    document: DocProto

class JinaInfoProto(Message):
    jina: MutableMapping[str, str]

class Content:
    docs: object

class SingleContent:
    doc: object

class Request:
    buffer: bytes | None
    header: HeaderProto
    routes: Sequence[RouteProto]
    def add_exception(self, ex: BaseException, executor: object = None) -> None: ...
    @property
    def parameters(self) -> dict[str, object]: ...
    @parameters.setter
    def parameters(self, values: Mapping[str, object]) -> None: ...

class DataRequest(Request):
    document_array_cls: object
    data: Content
    is_decompressed_with_data: bool
    def __init__(self, request: bytes | None = None) -> None: ...
    @property
    def docs(self) -> object: ...
    @property
    def proto_with_data(self) -> DataRequestProto: ...

class SingleDocumentRequest(Request):
    document_cls: type[BaseDoc]
    data: SingleContent
    def __init__(self, request: bytes | None = None) -> None: ...
    @property
    def proto_with_data(self) -> SingleDocumentRequestProto: ...

# A gateway's parts.

class RuntimeArguments(Protocol):
    """How a part of a Flow was started."""

    name: str
    host: str
    replicas: int
    deployments_addresses: str

class _Responses(Awaitable[object], Protocol):
    def cancel(self) -> bool: ...

class _RequestStreamer(Protocol):
    def _request_handler(
        self, request: DataRequest, return_type: type[DocList[BaseDoc]]
    ) -> tuple[_Responses, object]: ...
    def _result_handler(self, responses: object) -> DataRequest: ...

class GraphNode(Protocol):
    """An executor, as the gateway sees it."""

    name: str
    endpoints: Sequence[str] | None
    _pydantic_models_by_endpoint: Mapping[str, Mapping[str, object]] | None

class _Graph(Protocol):
    _all_endpoints: set[str] | None
    @property
    def all_nodes(self) -> Sequence[GraphNode]: ...

class GatewayStreamer:
    """The way to the executors."""

    topology_graph: _Graph
    _streamer: _RequestStreamer
    _endpoints_models_map: Mapping[str, Mapping[str, object]] | None
    _validate_flow_docarray_compatibility: Callable[[], None]
    _get_endpoints_input_output_models: Callable[[object], Awaitable[None]]
    def rpc_stream_doc(
        self, request: SingleDocumentRequest
    ) -> AsyncIterator[SingleDocumentRequest]: ...

class GatewayRequestHandler:
    streamer: GatewayStreamer
    runtime_args: RuntimeArguments
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    async def close(self) -> None: ...

class _Server:
    port: int
    def __init__(self, **kwargs: object) -> None: ...
    async def setup_server(self) -> None: ...
    async def shutdown(self) -> None: ...

class _UvicornConfig(Protocol):
    ssl: ssl.SSLContext

class _Uvicorn(Protocol):
    config: _UvicornConfig
    @property
    def servers(self) -> Iterable[_Listener]: ...

class _Listener(Protocol):
    def close(self) -> None: ...

class FastAPIBaseServer(_Server):
    server: _Uvicorn
    @property
    def host(self) -> str | None: ...
    @property
    def app(self) -> FastAPI: ...

class HealthServicer(Protocol):
    async def enter_graceful_shutdown(self) -> None: ...

class GRPCServer(_Server):
    @property
    def server(self) -> grpc.aio.Server: ...
    @server.setter
    def server(self, server: grpc.aio.Server | None) -> None: ...
    health_servicer: HealthServicer
    grpc_tracing_server_interceptors: Sequence[grpc.aio.ServerInterceptor]
    @property
    def host(self) -> str: ...
    def aio_tracing_server_interceptors(self) -> list[grpc.aio.ServerInterceptor] | None: ...

class BaseGateway:
    servers: list[object]
    is_cancel: object
    def __init__(self, **kwargs: object) -> None: ...

class CompositeBaseServer(BaseGateway):
    host: str
    req_handler_cls: type[GatewayRequestHandler]
    gateways: list[object]
    _server_kwargs: list[dict[str, Any]]
    async def setup_server(self) -> None: ...
    async def shutdown(self) -> None: ...
    def _get_request_handler(self) -> GatewayRequestHandler: ...

# An executor's parts.

class Executor:
    runtime_args: RuntimeArguments
    def __init__(self, **kwargs: object) -> None: ...
    async def __acall__(self, req_endpoint: str, **kwargs: object) -> object: ...
    def close(self) -> None: ...

class _BoundExecutor(Protocol):
    requests: Mapping[str, object]

class WorkerRequestHandler(Protocol):
    """What takes an executor's requests."""

    _executor: _BoundExecutor
    def _setup_req_doc_array_cls(self, requests: list[DataRequest], endpoint: str) -> None: ...

class _Stub(Protocol):
    process_single_data: Callable[..., Call]

class ConnectionStubs(Protocol):
    """A gateway's calls to one executor."""

    single_data_stub: _Stub | None

class PartArguments(Protocol):
    name: str

class Part(Protocol):
    """A process of a Flow."""

    args: PartArguments

def requests(*, on: str | Sequence[str]) -> Callable[[F], F]: ...
def send_health_check_async(target: str, timeout: float) -> Awaitable[object]: ...
