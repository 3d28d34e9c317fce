"""SIGTERM under load: all that was taken is answered over each protocol, then all ends."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil
import pytest
import websockets
from docarray import DocList
from jina.proto import jina_pb2_grpc
from jina.types.request.data import DataRequest

from cliptune.documents import ClipDoc
from cliptune.protocol import wire_errors
from tests.pictures import base64_of, picture
from tests.ports import free_ports
from tests.waiting import wait_until_ready

pytestmark = pytest.mark.e2e
MARGIN = 1.0
"""Seconds after which what was sent has been taken: it is with the server, in work or in line."""


@dataclass
class Load:
    """What the clients saw."""

    told: float = float("inf")
    """When the server was told to end."""
    answered: int = 0
    late: int = 0
    """Sent as the server ended, and not taken."""
    lost: list[str] = field(default_factory=list)

    def note(self, sent: float, problem: str | None) -> None:
        if problem is None:
            self.answered += 1
        elif sent < self.told - MARGIN:
            self.lost.append(problem)
        else:
            self.late += 1


@pytest.fixture
def served(tiny_model: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen, int, int]]:
    grpc_port, http_port = free_ports(2)
    cliptune = str(Path(sys.executable).with_name("cliptune"))
    command = [cliptune, "serve", "--artifact", str(tiny_model), "--index", str(tmp_path / "index"),
               "--grpc-port", str(grpc_port), "--http-port", str(http_port)]  # fmt: skip
    environment = {**os.environ, "CLIPTUNE_HOME": str(tmp_path), "CLIPTUNE_DRAIN": "120"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        wait_until_ready(f"http://127.0.0.1:{http_port}", process)
        yield process, grpc_port, http_port
    finally:
        process.kill()
        process.wait()


def over_http(port: int, body: bytes, load: Load) -> None:
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=200)
        sent = time.monotonic()
        try:
            connection.request("POST", "/encode", body, {"Content-Type": "application/json"})
            status = connection.getresponse().status
            load.note(sent, None if status == 200 else f"HTTP {status}")
        except (OSError, http.client.HTTPException) as error:
            load.note(sent, f"HTTP {error!r}")
        finally:
            connection.close()
        if time.monotonic() > load.told:
            return


def over_grpc(port: int, made: DataRequest, load: Load) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = jina_pb2_grpc.JinaSingleDataRequestRPCStub(channel)
        while True:
            sent = time.monotonic()
            try:
                stub.process_single_data(made, timeout=200)
                load.note(sent, None)
            except grpc.RpcError as error:
                load.note(sent, f"gRPC {error.code()} {error.details()}")
            if time.monotonic() > load.told:
                return


def over_a_stream(port: int, made: DataRequest, seen: list, first: threading.Event) -> None:
    def five() -> Iterator[DataRequest]:
        yield from [made] * 5
        first.wait()
        time.sleep(3600)  # a client that would have more to send, later

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            for answer in jina_pb2_grpc.JinaRPCStub(channel).Call(five()):
                seen.append(wire_errors.from_status(answer.header.status))
                first.set()
        except grpc.RpcError as error:
            seen.append(error.code())
            first.set()


async def over_a_websocket(port: int, body: bytes, seen: list, first: threading.Event) -> None:
    async with websockets.connect(f"ws://127.0.0.1:{port}/ws", max_size=None) as socket:
        for _ in range(5):
            await socket.send(body)
        try:
            while True:
                seen.append("data" in json.loads(await socket.recv()))
                first.set()
        except websockets.exceptions.ConnectionClosed as closed:
            seen.append(closed.rcvd.code if closed.rcvd else closed)
            first.set()


def test_what_was_taken_is_answered(served: tuple[subprocess.Popen, int, int]) -> None:
    process, grpc_port, http_port = served
    pictures = [picture(i, (500, 400)) for i in range(24)]
    body = json.dumps({"data": [{"image": base64_of(p)} for p in pictures]}).encode()
    made = DataRequest()
    made.header.exec_endpoint = "/encode"
    made.document_array_cls = DocList[ClipDoc]
    made.data.docs = DocList[ClipDoc](ClipDoc(image=p) for p in pictures)

    load = Load()
    streamed: list = []
    talked: list = []
    firsts = [threading.Event(), threading.Event()]
    threads = [threading.Thread(target=over_http, args=(http_port, body, load)) for _ in range(4)]
    threads += [threading.Thread(target=over_grpc, args=(grpc_port, made, load)) for _ in range(4)]
    streams = (
        lambda: over_a_stream(grpc_port, made, streamed, firsts[0]),
        lambda: asyncio.run(over_a_websocket(http_port, body, talked, firsts[1])),
    )
    # A stream's client waits for ever: nobody waits for its thread.
    threads += [threading.Thread(target=stream, daemon=True) for stream in streams]
    for thread in threads:
        thread.start()
    for first in firsts:
        first.wait()
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 5, "the Flow, its gateway, three executors"

    load.told = time.monotonic()
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert load.lost == []
    assert load.answered >= 4
    assert streamed == [None] * 5 + [grpc.StatusCode.UNAVAILABLE]
    assert talked == [True] * 5 + [1012]
    assert process.wait() == 0
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
