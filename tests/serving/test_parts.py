"""A Flow whose parts are started one by one, as on Kubernetes: each does what it can meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

from cliptune.errors import Unavailable
from cliptune.serving import Client
from tests.ports import free_ports
from tests.waiting import wait_until

GRAPH = {
    "start-gateway": ["text"],
    "text": ["vision"],
    "vision": ["indexer"],
    "indexer": ["end-gateway"],
}


@contextmanager
def part(log: Path, command: list[str], **environment: str) -> Iterator[None]:
    """A `jina` command in a process of its own."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "jina", *command],
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def executor(name: str, kind: str, module: str, port: int) -> list[str]:
    """The command of an executor."""
    named = ["--name", name, "--uses", kind, "--py-modules", f"cliptune.executors.{module}"]
    return ["executor", "--native", *named, "--host", "127.0.0.1", "--port", str(port)]


def status_of(address: str) -> int:
    with suppress(requests.ConnectionError):
        return requests.get(address, timeout=60).status_code
    return 0


@pytest.mark.e2e
def test_a_gateway_answers_what_it_can_before_the_indexer_is_there(
    tmp_path: Path, tiny_model: Path
) -> None:
    text, vision, indexer, grpc_port, http_port = free_ports(5)
    log, http = tmp_path / "log", f"http://127.0.0.1:{http_port}"
    addresses = {
        name: [f"grpc://127.0.0.1:{port}"]
        for name, port in (("text", text), ("vision", vision), ("indexer", indexer))
    }
    gateway = [
        *("gateway", "--uses", "ClipGateway", "--py-modules", "cliptune.gateway.gateway"),
        *("--protocol", "grpc", "http", "--port", str(grpc_port), str(http_port)),
        *("--host", "127.0.0.1", "--graph-description", json.dumps(GRAPH)),
        *("--deployments-addresses", json.dumps(addresses)),
    ]
    boots = {"data": [{"text": "boots"}]}
    with (
        part(log, gateway),
        part(
            log,
            executor("text", "CLIPTextEncoder", "text_encoder", text),
            CLIPTUNE_ARTIFACT=str(tiny_model),
        ),
        Client(f"grpc://127.0.0.1:{grpc_port}", retries=0) as client,
    ):
        wait_until(lambda: status_of(f"{http}/healthz") == 200, told=log.read_text)
        wait_until(lambda: status_of(f"{http}/readyz?need=any") == 200, told=log.read_text)
        ready = requests.get(f"{http}/readyz", timeout=60)
        assert ready.status_code == 503
        assert ready.json()["executors"] == {"text": True, "vision": False, "indexer": False}

        assert client.encode(["boots"]).shape == (1, 32)
        assert requests.post(f"{http}/encode", json=boots, timeout=60).status_code == 200
        words = "the executor 'indexer' of this service can't be reached"
        refused = requests.get(f"{http}/search?q=boots", timeout=60)
        assert (refused.status_code, refused.json()["error"]["message"]) == (503, words)
        with pytest.raises(Unavailable) as caught:
            client.search("boots")
        assert str(caught.value) == words
        with pytest.raises(Unavailable, match="the executor 'vision' of this service"):
            client.encode([b"no picture"])

        home = tmp_path / "home"
        with part(log, executor("indexer", "Indexer", "indexer", indexer), CLIPTUNE_HOME=str(home)):
            wait_until(lambda: status_of(f"{http}/search?q=boots") == 200, told=log.read_text)
            assert list(client.search("boots").matches) == []
            assert list(client.ids()) == []
