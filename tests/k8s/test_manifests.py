"""The manifests fit together, and the commands in them start a search that works."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
import yaml
from docarray import DocList

from cliptune.documents import ClipDoc
from tests.waiting import wait_until, wait_until_ready

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"


def documents() -> list[dict[str, Any]]:
    listed = yaml.safe_load((K8S / "kustomization.yaml").read_text())["resources"]
    return [d for name in listed for d in yaml.safe_load_all((K8S / name).read_text()) if d]


def of_kind(*kinds: str) -> dict[str, dict[str, Any]]:
    return {d["metadata"]["name"]: d for d in documents() if d["kind"] in kinds}


WORKLOADS = of_kind("Deployment", "StatefulSet")


def container(name: str) -> dict[str, Any]:
    [only] = WORKLOADS[name]["spec"]["template"]["spec"]["containers"]
    return only


def flag(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_prometheus_is_told_where_each_pod_has_its_metrics() -> None:
    port = of_kind("ConfigMap")["cliptune"]["data"]["CLIPTUNE_METRICS_PORT"]
    for workload in WORKLOADS.values():
        annotations = workload["spec"]["template"]["metadata"]["annotations"]
        assert annotations["prometheus.io/scrape"] == "true"
        assert annotations["prometheus.io/port"] == port
        assert annotations["prometheus.io/path"] == "/metrics"
    policy = of_kind("NetworkPolicy")["executors"]["spec"]
    reached = {p["port"] for rule in policy["ingress"] for p in rule["ports"]}
    assert reached == {8080, int(port)}


def test_all_files_are_listed_and_parse() -> None:
    listed = yaml.safe_load((K8S / "kustomization.yaml").read_text())["resources"]
    assert {p.name for p in K8S.glob("*.yaml")} == {*listed, "kustomization.yaml"}
    assert set(WORKLOADS) == {"text", "vision", "indexer", "search", "trainer", "train"}


def test_the_overlay_for_milvus_patches_what_is_there() -> None:
    from cliptune.index.milvus.server import MilvusAddress

    overlay = yaml.safe_load((K8S / "milvus" / "kustomization.yaml").read_text())
    assert overlay["resources"] == ["..", "network.yaml"]
    for patch in overlay["patches"]:
        target = patch["target"]
        there = of_kind(target["kind"])[target["name"]]
        changes = yaml.safe_load(patch["patch"])
        assert (changes["kind"], changes["metadata"]["name"]) == (there["kind"], target["name"])
        if target["kind"] == "ConfigMap":
            assert MilvusAddress.parse(changes["data"]["CLIPTUNE_INDEX"]).collection == "shop"
        else:
            [patched] = changes["spec"]["template"]["spec"]["containers"]
            assert patched["name"] == container(target["name"])["name"]
    policy = yaml.safe_load((K8S / "milvus" / "network.yaml").read_text())
    labels = WORKLOADS["indexer"]["spec"]["template"]["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("name", WORKLOADS)
def test_selectors_ports_volumes_and_settings_fit(name: str) -> None:
    workload = WORKLOADS[name]
    pod = workload["spec"]["template"]
    assert workload["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    service = of_kind("Service")[name]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    ports = {port["name"] for port in container(name)["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == ports
    volumes = {v["name"]: v for v in pod["spec"]["volumes"]}
    claimed = {c["metadata"]["name"] for c in workload["spec"].get("volumeClaimTemplates", [])}
    for mount in container(name)["volumeMounts"]:
        assert mount["name"] in volumes.keys() | claimed
    claims = of_kind("PersistentVolumeClaim")
    for volume in volumes.values():
        if "persistentVolumeClaim" in volume:
            assert volume["persistentVolumeClaim"]["claimName"] in claims
    for source in container(name)["envFrom"]:
        assert source["configMapRef"]["name"] in of_kind("ConfigMap")
    security = container(name)["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert pod["spec"]["securityContext"]["runAsNonRoot"]


@pytest.mark.parametrize("name", ["search", "train"])
def test_gateways_know_existing_services(name: str) -> None:
    command = container(name)["command"]
    addresses = json.loads(flag(command, "--deployments-addresses"))
    graph = json.loads(flag(command, "--graph-description"))
    services = of_kind("Service")
    for executor, [address] in addresses.items():
        host, port = address.removeprefix("grpc://").split(":")
        assert host == executor
        assert int(port) in {p["port"] for p in services[host]["spec"]["ports"]}
    assert set(addresses) == graph.keys() - {"start-gateway"}


def test_containers_run_the_executors_of_the_flows() -> None:
    parts = {}
    for flow in ("search", "train"):
        described = yaml.safe_load((ROOT / "flows" / f"{flow}.yml").read_text())
        parts[flow] = described["gateway"]
        parts |= {part["name"]: part for part in described["executors"]}
    for name in WORKLOADS:
        command = container(name)["command"]
        assert flag(command, "--uses") == parts[name]["uses"]
        assert [flag(command, "--py-modules")] == parts[name]["py_modules"]


@pytest.fixture
def metrics_ports() -> dict[str, str]:
    """Where each part has its metrics; pods have addresses of their own, processes don't."""
    from tests.ports import free_ports

    names = ("text", "vision", "indexer", "search")
    return dict(zip(names, map(str, free_ports(4)), strict=True))


@pytest.fixture
def running(
    tiny_model: Path, tmp_path: Path, metrics_ports: dict[str, str]
) -> Iterator[tuple[str, str]]:
    """The search side's containers as processes on this machine.

    Gives the addresses for HTTP, and for clip-as-service's clients.
    """
    from tests.ports import free_port

    settings = of_kind("ConfigMap")["cliptune"]["data"]
    environment = {
        **os.environ,
        **settings,
        "CLIPTUNE_ARTIFACT": str(tiny_model),
        "CLIPTUNE_HOME": str(tmp_path),
        "CLIPTUNE_INDEX": str(tmp_path / "index"),
        "CLIPTUNE_GENERATIONS": str(tmp_path / "generations"),
    }
    ports = {name: str(free_port()) for name in ("text", "vision", "indexer")}
    grpc_port, http_port, clip_service_port = (str(free_port()) for _ in range(3))
    processes = []
    for name in ("text", "vision", "indexer", "search"):
        words = list(container(name)["command"])
        if name in ports:
            words[words.index("--port") + 1] = ports[name]
        else:
            at = words.index("--port")
            words[at + 1 : at + 3] = [grpc_port, http_port]
            at = words.index("--uses-with") + 1
            words[at] = words[at].replace("51002", clip_service_port)
            at = words.index("--deployments-addresses") + 1
            for executor, port in ports.items():
                words[at] = words[at].replace(f"{executor}:8080", f"127.0.0.1:{port}")
        words[words.index("--host") + 1] = "127.0.0.1"
        jina = str(Path(sys.executable).with_name(words[0]))
        log = (tmp_path / f"{name}.log").open("wb")
        own = {**environment, "CLIPTUNE_METRICS_PORT": metrics_ports[name]}
        processes.append(subprocess.Popen([jina, *words[1:]], env=own, stdout=log, stderr=log))
    try:
        yield f"http://127.0.0.1:{http_port}", f"127.0.0.1:{clip_service_port}"
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.mark.e2e
def test_the_commands_serve_a_search_that_can_be_watched(
    running: tuple[str, str], metrics_ports: dict[str, str], tmp_path: Path
) -> None:
    from cliptune.serving import Client
    from tests.pictures import picture

    address, clip_service = running
    wait_until_ready(address)
    client = Client(address)
    docs = DocList[ClipDoc](ClipDoc(id=str(i), text=f"t{i}", image=picture(i)) for i in range(3))
    assert client.index(docs) == 3
    assert client.search(picture(2), limit=1).matches[0].id == "2"
    with grpc.insecure_channel(clip_service) as channel:
        dry_run = channel.unary_unary("/jina.JinaGatewayDryRunRPC/dry_run")
        assert dry_run(b"", timeout=30) == b""  # success
    # Metrics: each part has its own, and the gateway's are not on its public port.
    for name, port in metrics_ports.items():
        text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        own = "cliptune_requests_total" if name == "search" else "cliptune_executor_seconds_count"
        assert f"{own}{{" in text, name
        assert (f'executor="{name}"' in text) == (name != "search")
    assert requests.get(f"{address}/metrics", timeout=10).status_code == 404
    # Logs: JSON, with the same id in all parts.
    headers = {"X-Request-ID": "watched-1"}
    picture_query = {"data": [{"image": base64.b64encode(picture(1)).decode()}]}
    requests.post(f"{address}/search", json=picture_query, headers=headers, timeout=30)
    for name in metrics_ports:

        def services(log: Path = tmp_path / f"{name}.log") -> set[str]:
            lines = [line for line in log.read_text().splitlines() if line.startswith('{"time"')]
            parsed = [json.loads(line) for line in lines]
            return {line["service"] for line in parsed if line.get("request_id") == "watched-1"}

        # The gateway's line comes after the answer.
        assert wait_until(services) == {"gateway" if name == "search" else name}
