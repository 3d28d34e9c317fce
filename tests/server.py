"""A search Flow that tests share, with a tiny model: what it finds is arbitrary but exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.protocol.jina_compat import DataRequest
from cliptune.serving import Client, serve
from tests.pictures import picture
from tests.ports import free_ports


def data_request(endpoint: str, doc: ClipDoc) -> DataRequest:
    """Jina's message that asks `endpoint` about one document."""
    made = DataRequest()
    made.header.exec_endpoint = endpoint
    made.document_array_cls = DocList[ClipDoc]
    made.data.docs = DocList[ClipDoc]([doc])
    return made


@dataclass
class Server:
    """Where the Flow is."""

    grpc: str
    http: str
    clip_service: str
    model: Path
    index: Path
    searches: Path
    """Where they are recorded."""

    @property
    def artifact(self) -> Path:
        """What is served."""
        return self.model


@pytest.fixture
def pictures() -> DocList[ClipDoc]:
    """Twelve pictures; every second is tagged red, and titles hold markup."""
    return DocList[ClipDoc](
        [
            ClipDoc(
                id=f"item-{i}",
                text=f"Item number {i} <b>bold</b>",
                image=picture(i),
                tags={"price": 10.0 * i, "colour": "red" if i % 2 else "blue"},
            )
            for i in range(12)
        ]
    )


@pytest.fixture(scope="session")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Up from the first test that asks for it, for all others of the process."""
    grpc_port, http_port, clip_port = free_ports(3)
    home = tmp_path_factory.mktemp("serving-home")
    index = home / "shop-index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPTUNE_HOME", str(home))
        ports = {"grpc_port": grpc_port, "http_port": http_port, "clip_service_port": clip_port}
        searches = home / "searches"
        with serve(tiny_model, index=index, record_searches=searches, **ports):
            http = f"http://127.0.0.1:{http_port}"
            clip_service = f"grpc://127.0.0.1:{clip_port}"
            yield Server(
                f"grpc://127.0.0.1:{grpc_port}", http, clip_service, tiny_model, index, searches
            )


@pytest.fixture
def clients(server: Server) -> Iterator[list[Client]]:
    """A client over gRPC and one over HTTP, and an empty index."""
    found = [Client(server.grpc, timeout=60), Client(server.http, timeout=60)]
    found[0].clear()
    yield found
    for client in found:
        client.close()


@pytest.fixture(params=["grpc", "http"])
def client(server: Server, request: pytest.FixtureRequest) -> Iterator[Client]:
    """Each protocol in turn, and an empty index."""
    with Client(getattr(server, request.param), timeout=60) as found:
        found.clear()
        yield found
