"""A thousand requests that nobody would send; `python -m tests.fuzz` sends more."""

from __future__ import annotations

import psutil
import pytest

from cliptune.serving import Client
from tests.fuzz.run import fuzz
from tests.serving.conftest import Server, shop

pytestmark = pytest.mark.e2e


def processes() -> set[int]:
    return {p.pid for p in psutil.Process().children(recursive=True) if "flow_process" in
            " ".join(p.cmdline())}  # fmt: skip


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
