"""The table of endpoints is the only place: executors bind what it says, and all else follows."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from docarray import DocList

from cliptune.client import messages
from cliptune.client.grpc_transport import GrpcTransport
from cliptune.documents import ClipDoc
from cliptune.errors import Forbidden, NotFound
from cliptune.executors.indexer import Indexer
from cliptune.executors.text_encoder import CLIPTextEncoder
from cliptune.executors.trainer import Trainer
from cliptune.executors.vision_encoder import CLIPVisionEncoder
from cliptune.gateway.access.api_keys import make_key
from cliptune.protocol import endpoints
from cliptune.protocol.endpoints import ENCODE, ROOT, SEARCH_FLOW, TRAIN_FLOW, Endpoint, flow_of
from tests.ports import free_ports

EXECUTORS = {
    "text": CLIPTextEncoder,
    "vision": CLIPVisionEncoder,
    "indexer": Indexer,
    "trainer": Trainer,
}
FLOW = """
jtype: Flow
gateway:
  uses: ClipGateway
  py_modules: [cliptune.gateway.gateway, {module}]
  protocol: [grpc, http]
  port: [0, 0]
  host: 127.0.0.1
executors:
  - name: shouter
    uses: Shouter
    py_modules: [{module}]
    host: 127.0.0.1
"""


@pytest.mark.parametrize("flow", [SEARCH_FLOW, TRAIN_FLOW], ids=["search", "train"])
def test_executors_bind_what_the_table_says(flow: dict[str, Endpoint]) -> None:
    for name in {name for endpoint in flow.values() for name in endpoint.executors}:
        kind = EXECUTORS[name]
        bound = kind.requests_by_class[kind.__name__]
        told = {path: one for path, one in flow.items() if name in one.executors}
        assert bound.keys() == told.keys(), name
        for path, endpoint in told.items():
            assert bound[path].is_generator is endpoint.streams, path
    last = {path: EXECUTORS[one.executors[-1]] for path, one in flow.items()}
    for path, kind in last.items():
        assert kind.requests_by_class[kind.__name__][path].response_schema in (
            flow[path].gives,
            DocList[flow[path].gives],
        ), path


def test_no_other_module_spells_a_path() -> None:
    told = {path for flow in (SEARCH_FLOW, TRAIN_FLOW) for path in flow} - {ROOT.path}
    named = {endpoints.HEALTHZ, endpoints.READYZ, endpoints.PICTURES, endpoints.POST}
    named |= set(endpoints.FOREIGN)
    table = Path(endpoints.__file__)
    package = table.parents[1]
    files = [*package.rglob("*.py"), *(package.parent / "executors").rglob("*.py")]
    assert len(files) > 100
    for file in files:
        if file == table or package / "models" in file.parents:  # "/data" of TorchScript's files
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in told | named, f"{file}:{node.lineno}"


def test_the_flow_is_known_by_its_executors() -> None:
    assert flow_of({"text", "vision", "indexer"}) is SEARCH_FLOW
    assert flow_of({"text", "one of your own"}) is SEARCH_FLOW
    assert flow_of({"trainer"}) is TRAIN_FLOW


@contextmanager
def running(folder: Path, **environment: str) -> Iterator[None]:
    """The Flow with the new endpoint."""
    flow, state = folder / "flow.yml", folder / "state.json"
    flow.write_text(FLOW.format(module="tests.gateway.shouting"))
    command = [sys.executable, "-m", "cliptune.serving.flow_process", str(flow), str(state)]
    env = {**os.environ, "CLIPTUNE_HOME": str(folder), **environment}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=env, cwd=Path.cwd()
        )
    try:
        until = time.monotonic() + 120
        while not state.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        assert json.loads(state.read_text())["phase"] == "ready", (folder / "log").read_text()
        yield
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.mark.e2e
def test_a_new_endpoint_is_a_line_of_the_table_and_an_executor(tmp_path: Path) -> None:
    grpc_port, http_port = free_ports(2)
    keys = [make_key(role, role, role).line() for role in ("search", "write", "admin")]
    (tmp_path / "keys").write_text("\n".join(keys))
    ports = {"CLIPTUNE_GRPC_PORT": str(grpc_port), "CLIPTUNE_HTTP_PORT": str(http_port)}
    with running(tmp_path, CLIPTUNE_API_KEYS_FILE=str(tmp_path / "keys"), **ports):
        http, body = f"http://127.0.0.1:{http_port}", {"data": [{"text": "boots"}]}
        writing, reading = {"Authorization": "Bearer write"}, {"Authorization": "Bearer search"}

        answer = requests.post(f"{http}/shout", json=body, headers=writing, timeout=30)
        assert [doc["text"] for doc in answer.json()["data"]] == ["BOOTS"]
        refused = requests.post(f"{http}/shout", json=body, headers=reading, timeout=30)
        assert refused.status_code == 403
        wrong = {**body, "parameters": {"loud": True}}
        answer = requests.post(f"{http}/shout", json=wrong, headers=writing, timeout=30)
        assert "loud is unknown" in answer.json()["error"]["message"]
        theirs = {**body, "execEndpoint": "/shout"}  # as clip-as-service's clients have it
        answer = requests.post(f"{http}/post", json=theirs, headers=writing, timeout=30)
        assert answer.status_code == 200, answer.text

        described = requests.get(f"{http}/openapi.json", timeout=30).json()["paths"]["/shout"]
        assert described["post"]["description"] == "Texts in capitals."
        content = described["post"]["requestBody"]["content"]["application/json"]
        assert content["example"] == body

        def over_grpc(path: str, key: str) -> list[str | None]:
            call = messages.documents(replace(ENCODE, path=path), [ClipDoc(text="boots")])
            with closing(GrpcTransport(f"grpc://127.0.0.1:{grpc_port}", 30, key)) as transport:
                return [doc.text for doc in transport.ask(call)]

        assert over_grpc("/shout", "write") == ["BOOTS"]
        with pytest.raises(Forbidden):
            over_grpc("/shout", "search")
        with pytest.raises(NotFound, match="did you mean '/shout'"):
            over_grpc("/shoot", "admin")

        admin = {"Authorization": "Bearer admin"}
        figures = requests.get(f"{http}/metrics", headers=admin, timeout=30).text
        for protocol in ("grpc", "http"):
            assert f'endpoint="/shout",protocol="{protocol}"' in figures, figures
