"""A thousand requests that nobody would send; `python -m tests.fuzz` sends more."""

from __future__ import annotations

import os

import psutil
import pytest

from cliptune.serving import Client
from tests.fuzz.run import fuzz
from tests.pictures import shop
from tests.server import Server

pytestmark = pytest.mark.e2e
COUNTS = ("JINA_GRPC_SEND_BYTES", "JINA_GRPC_RECV_BYTES")


def processes() -> set[int]:
    return {p.pid for p in psutil.Process().children(recursive=True) if "flow_process" in
            " ".join(p.cmdline())}  # fmt: skip


def own_memory() -> dict[int, float]:
    """MiB that each of the Flow's processes has for itself."""
    return {pid: psutil.Process(pid).memory_full_info().uss / 2**20 for pid in processes()}


def test_memory_stays_as_it_is(server: Server) -> None:
    with Client(server.grpc) as client:
        for _ in range(1000):  # what is grown once: buffers, pages that forks shared
            client.encode(["red"])
        before, counts = own_memory(), [os.environ.get(name) for name in COUNTS]
        for _ in range(2000):
            client.encode(["red"])
    grown = {pid: size - before[pid] for pid, size in own_memory().items()}
    assert grown
    assert max(grown.values()) < 1.5, "Jina's own counting took 2.8 MiB of the gateway"
    assert counts == [os.environ.get(name) for name in COUNTS], "nor are ours kept there"


def test_nothing_breaks(server: Server) -> None:
    before = processes()
    found = fuzz(server.grpc.removeprefix("grpc://"), server.http, 1000, seed=11)
    assert found.problems == []
    assert found.total > 800
    assert len(found.counts) > 8, "many kinds of answers"
    assert processes() == before
    for address in (server.grpc, server.http):
        with Client(address, timeout=60) as client:
            client.clear()
            assert client.index(shop()) == 6
            assert len(client.search("red", limit=3).matches) == 3
