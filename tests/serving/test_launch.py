"""Starting and ending Flows, and what happens when they can't."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from cliptune.errors import BadInput, Unavailable
from cliptune.serving import Client, serve
from cliptune.serving.launch import PortInUse, check_port
from cliptune.serving.resources import flows_dir
from tests.ports import free_ports
from tests.serving.conftest import shop


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_flows_are_found_with_their_executors() -> None:
    for name in ("search.yml", "train.yml", "gateway.yml", "gateway.py"):
        assert (flows_dir() / name).is_file()
    for name in ("clip_text_encoder", "clip_vision_encoder", "indexer", "trainer"):
        assert (flows_dir().parent / "executors" / name / "config.yml").is_file()


def test_equal_and_impossible_ports(tiny_model: Path) -> None:
    port = free_ports(1)[0]
    with (
        pytest.raises(BadInput, match=f"both {port}"),
        serve(tiny_model, grpc_port=port, http_port=port),
    ):
        pass
    with pytest.raises(BadInput, match="70000"):
        check_port("127.0.0.1", 70_000)


@pytest.mark.e2e
def test_a_damaged_artifact_ends_the_start_with_its_reason(tiny_model: Path, tmp_path: Path):
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in tiny_model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes()[:-100])
    grpc_port, http_port = free_ports(2)
    begun = time.monotonic()
    with (
        pytest.raises(Unavailable, match="did not start") as caught,
        serve(folder, grpc_port=grpc_port, http_port=http_port),
    ):
        pass
    assert "log:" in str(caught.value)
    assert time.monotonic() - begun < 120
    check_port("127.0.0.1", grpc_port)
    check_port("127.0.0.1", http_port)


@pytest.mark.e2e
def test_what_was_indexed_outlives_the_flow_and_a_dead_executor_ends_it(
    tiny_model: Path, tmp_path: Path
) -> None:
    grpc_port, http_port = free_ports(2)
    ports = {"grpc_port": grpc_port, "http_port": http_port}
    before = set(children(os.getpid()))
    with serve(tiny_model, index=tmp_path / "index", **ports):
        client = Client(f"grpc://127.0.0.1:{grpc_port}", timeout=30)
        assert client.index(shop()) == 6
        with pytest.raises(PortInUse, match=str(http_port)):
            check_port("127.0.0.1", http_port)
        [flow] = set(children(os.getpid())) - before
        assert len(children(flow)) >= 4, "three executors and a gateway"
        os.kill(children(flow)[0], signal.SIGKILL)
        time.sleep(5)
        with pytest.raises(Unavailable):
            client.encode(["a"])
    for port in (grpc_port, http_port):
        check_port("127.0.0.1", port)  # nothing of it is left
    with serve(tiny_model, index=tmp_path / "index", **ports):
        again = Client(f"http://127.0.0.1:{http_port}", timeout=30)
        assert again.status()["documents"] == 6
