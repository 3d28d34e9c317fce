"""Starting and ending Flows, and what happens when they can't."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cliptune.errors import BadArtifact, BadInput, NotFound, Unavailable
from cliptune.observability import startup
from cliptune.observability.startup import Failure
from cliptune.serving import Client, launch, serve
from cliptune.serving.launch import PortInUse, check_port, check_ports, flow_file
from cliptune.settings import Settings
from tests.pictures import shop
from tests.ports import free_ports
from tests.waiting import wait_until

EXECUTORS = {
    "clip_text_encoder": ("CLIPTextEncoder", "cliptune.executors.text_encoder"),
    "clip_vision_encoder": ("CLIPVisionEncoder", "cliptune.executors.vision_encoder"),
    "indexer": ("Indexer", "cliptune.executors.indexer"),
    "trainer": ("Trainer", "cliptune.executors.trainer"),
}
FLOWS = {
    "search": ["clip_text_encoder", "clip_vision_encoder", "indexer"],
    "train": ["trainer"],
}


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_flows_are_found_with_their_executors() -> None:
    for name, executors in FLOWS.items():
        flow = yaml.safe_load(flow_file(name).read_text())
        found = [(part["uses"], *part["py_modules"]) for part in flow["executors"]]
        assert found == [EXECUTORS[executor] for executor in executors]


@pytest.mark.parametrize("name", EXECUTORS)
def test_jina_finds_each_executor_by_its_folder(name: str) -> None:
    config = Path(__file__).parents[2] / "executors" / name / "config.yml"
    described = yaml.safe_load(config.read_text())
    assert (described["jtype"], *described["py_modules"]) == EXECUTORS[name]


def test_equal_and_impossible_ports(tiny_model: Path) -> None:
    port = free_ports(1)[0]
    with (
        pytest.raises(BadInput, match=f"both {port}"),
        serve(tiny_model, grpc_port=port, http_port=port),
    ):
        pass
    with pytest.raises(BadInput, match="70000"):
        check_port("127.0.0.1", 70_000)


def test_ports_and_hosts_that_can_not_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for host in ("127.0.0.1", "localhost", "0.0.0.0"):
            with pytest.raises(PortInUse, match=f"^http_port {port} of {host} is in use"):
                check_port(host, port, "http_port")
        monkeypatch.setenv("CLIPTUNE_METRICS_PORT", str(port))
        with pytest.raises(PortInUse, match=f"CLIPTUNE_METRICS_PORT {port}"):
            check_ports(Settings.read(grpc_port=free_ports(1)[0]))
        with pytest.raises(BadInput, match=f"grpc_port and CLIPTUNE_METRICS_PORT are both {port}"):
            check_ports(Settings.read(host="127.0.0.2", grpc_port=port))
    for host, reason in (
        ("nobody.invalid", "Name or service not known|No address|Temporary failure"),
        ("192.0.2.1", "Cannot assign requested address; use an address of this machine"),
        ("a" * 70, "host 'aaaa.*'"),
    ):
        with pytest.raises(BadInput, match=reason):
            check_port(host, port)
    for port in (0, -1, 65536):
        with pytest.raises(BadInput, match=f"grpc_port is {port}"):
            check_port("127.0.0.1", port, "grpc_port")


def test_settings_that_are_none_are_told_before_anything_is_started(
    tiny_model: Path, cliptune_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grpc_port, http_port = free_ports(2)
    ports = {"grpc_port": grpc_port, "http_port": http_port}
    for name, value in (("CLIPTUNE_DRAIN", "soon"), ("CLIPTUNE_METRICS_PORT", "99999")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(BadInput, match=f"{name} is .*{value}"), serve(tiny_model, **ports):
                pass
    assert not (cliptune_home / "logs").exists()
    monkeypatch.setenv("CLIPTUNE_HOME", str(tiny_model / "open_clip_config.json"))
    with pytest.raises(Unavailable, match="can.t be written"), serve(tiny_model, **ports):
        pass


def test_the_system_s_refusals_are_one_line_in_the_shell(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "cliptune", "runs"]
    environment = {**os.environ, "CLIPTUNE_HOME": str(tmp_path / "file")}
    shown = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "Traceback" not in shown.stderr


def test_each_process_reports_its_first_failure(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from cliptune.errors import BadArtifact
from cliptune.observability.startup import report, report_to, reporting
report_to(Path(sys.argv[1]))
try:
    with reporting("text/rep-0"):
        raise BadArtifact("it is\\ndamaged")
except BadArtifact as error:
    report("flow", RuntimeError("what followed"))
if len(sys.argv) > 2:
    try:
        open("/nowhere/file")
    except OSError as error:
        report("flow", error)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert shown.stderr == "text can't start: it is damaged\n"
    assert startup.failures(tmp_path) == [
        Failure(part="text", type="BadArtifact", message="it is damaged")
    ]


def test_reasons_are_for_people() -> None:
    for error, words in (
        (PermissionError(13, "Permission denied", "/x/y"), "/x/y: Permission denied"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (MemoryError(), "out of memory"),
        (NotFound("no model 'a'"), "no model 'a'"),
        (KeyError("a"), "KeyError: 'a'"),
    ):
        assert startup.reason_of(error) == words


def test_a_log_is_gone_on_with(cliptune_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cliptune_home / "logs" / "search-1.log"
    for number in range(3):
        with launch._open_log(path) as log:
            log.write(f"start {number}\n".encode())
    kept = path.read_text()
    assert [line for line in kept.splitlines() if line[:3] != "---"] == [
        "start 0",
        "start 1",
        "start 2",
    ]
    monkeypatch.setattr(launch, "MAX_LOG", 10)
    launch._open_log(path).close()
    assert (cliptune_home / "logs" / "search-1.log.1").read_text() == kept


@pytest.mark.e2e
def test_a_damaged_artifact_ends_the_start_with_its_reason(
    models: tuple[Path, Path, Path], tmp_path: Path, cliptune_home: Path
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(models[0], folder)
    weights = folder / "models" / "clip-text" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    grpc_port, http_port = free_ports(2)
    log = cliptune_home / "logs" / f"search-{grpc_port}.log"
    log.parent.mkdir()
    log.write_text("of a former start\n")
    before = set(children(os.getpid()))
    with (
        pytest.raises(
            Unavailable, match=r"did not start: text: .*clip-text/model.safetensors is not what"
        ) as told,
        serve(folder, grpc_port=grpc_port, http_port=http_port),
    ):
        pass
    assert type(told.value.__cause__) is BadArtifact
    assert str(folder) in str(told.value.__cause__)
    text = log.read_text()
    assert text.startswith("of a former start\n")
    assert "text can't start: " in text
    assert set(children(os.getpid())) <= before
    check_port("127.0.0.1", grpc_port)
    check_port("127.0.0.1", http_port)


@pytest.mark.e2e
def test_the_shell_tells_the_reason_and_ends(tiny_model: Path, tmp_path: Path) -> None:
    """All parts at once: the index is damaged, and the model has no weights of that precision."""
    index = tmp_path / "index"
    index.mkdir()
    (index / "cliptune-index.json").write_text("{")
    grpc_port, http_port = free_ports(2)
    command = [
        *(sys.executable, "-m", "cliptune", "serve", "--artifact", str(tiny_model)),
        *("--grpc-port", str(grpc_port), "--http-port", str(http_port)),
        *("--clip-service-port", "0", "--index", str(index), "--precision", "int8"),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert shown.returncode == 1
    assert shown.stderr.startswith("error: the service did not start: ")
    reasons = (
        f"{index}/cliptune-index.json: not the stamp of a cliptune index",
        "is not an artifact, and only artifacts hold ONNX models and reduced precisions",
    )
    assert any(reason in shown.stderr for reason in reasons)
    assert "Traceback" not in shown.stderr + shown.stdout


@pytest.mark.e2e
def test_what_was_indexed_outlives_the_flow_and_a_dead_executor_ends_it(
    tiny_model: Path, tmp_path: Path
) -> None:
    grpc_port, http_port = free_ports(2)
    ports = {"grpc_port": grpc_port, "http_port": http_port}
    before = set(children(os.getpid()))
    with serve(tiny_model, index=tmp_path / "index", **ports) as service:
        service.check()
        client = Client(f"grpc://127.0.0.1:{grpc_port}", timeout=30)
        assert client.index(shop()) == 6
        with pytest.raises(PortInUse, match=str(http_port)):
            check_port("127.0.0.1", http_port)
        [flow] = set(children(os.getpid())) - before
        assert len(children(flow)) >= 4, "three executors and a gateway"
        os.kill(children(flow)[0], signal.SIGKILL)
        with pytest.raises(Unavailable, match=r"ended by itself: \w+: it was killed .*log: "):
            wait_until(service.check)
        with pytest.raises(Unavailable):
            client.encode(["a"])
    for port in (grpc_port, http_port):
        check_port("127.0.0.1", port)  # nothing of it is left
    with serve(tiny_model, index=tmp_path / "index", **ports):
        again = Client(f"http://127.0.0.1:{http_port}", timeout=30)
        assert again.status()["documents"] == 6
