"""The manifests, the chart and the compose file say the same, and what Kubernetes takes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import cliptune.protocol.jina_compat  # noqa: F401 - Jina is mended before it is used
from scripts.kubernetes.__main__ import made
from scripts.kubernetes.flows import read_flow
from tests.k8s.rendering import (
    K8S,
    ROOT,
    TOOLS,
    Manifest,
    by_name,
    kustomized,
    own_overlay,
    templated,
    tool,
)

OVERLAYS = ["base", *(f"overlays/{name}" for name in ("cpu", "dev", "gpu", "milvus", "tls"))]
COMPONENTS = sorted(path.name for path in (K8S / "components").iterdir() if path.name != "pods")
VERSIONS = ("1.30", "1.34", "1.37")
WORKLOADS = ("Deployment", "StatefulSet")


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[Manifest]]:
    """All overlays as `kubectl kustomize` has them."""
    return {name: kustomized(K8S / name) for name in OVERLAYS}


@pytest.fixture(scope="module")
def base(rendered: dict[str, list[Manifest]]) -> list[Manifest]:
    return rendered["base"]


def container(workload: Manifest) -> dict[str, Any]:
    [only] = workload["spec"]["template"]["spec"]["containers"]
    return only


def test_making_them_again_changes_nothing() -> None:
    files = made()
    for path, text in files.items():
        assert (ROOT / path).read_text("utf-8") == text, f"{path}: python -m scripts.kubernetes"
    by_hand = {"k8s/README.md"}
    there = {str(path.relative_to(ROOT)) for path in K8S.rglob("*") if path.is_file()}
    assert there == {path for path in files if path.startswith("k8s/")} | by_hand


def test_every_overlay_is_rendered_and_named(rendered: dict[str, list[Manifest]]) -> None:
    assert {f"overlays/{path.name}" for path in (K8S / "overlays").iterdir()} | {"base"} == set(
        rendered
    )
    for objects in rendered.values():
        assert {one["metadata"].get("namespace", "cliptune") for one in objects} == {"cliptune"}
        assert set(by_name(objects, *WORKLOADS)) == {
            "text", "vision", "indexer", "search", "trainer", "train",
        }  # fmt: skip


@pytest.mark.e2e
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_them(
    version: str, rendered: dict[str, list[Manifest]], tmp_path: Path
) -> None:
    validate = TOOLS / "bin" / "kubernetes-validate"
    if not validate.is_file():
        pytest.skip("no kubernetes-validate here: scripts/install-kubernetes-tools installs it")
    charts = {
        "chart": templated(),
        "chart, all on": templated(
            "--set", "tls.enabled=true,milvus.enabled=true,keys.required=false",
            "--set", "text.nodeSelector.disk=ssd,indexer.storage.className=fast",
            "--set", f"model.source=s3://models/tuned.zip,model.digest={'0' * 64}",
        ),
    }  # fmt: skip
    everything = kustomized(
        own_overlay(tmp_path / "copy", *COMPONENTS, settings=["CLIPTUNE_ONNX=1"])
    )
    # Of the Prometheus operator, whose schemas are its own.
    charts["components"] = [
        one for one in everything if not one["apiVersion"].startswith("monitoring.coreos.com/")
    ]
    (files_of := tmp_path / "rendered").mkdir()
    for name, objects in {**rendered, **charts}.items():
        file = files_of / f"{name.replace('/', '-')}.yaml"
        file.write_text(yaml.safe_dump_all(objects))
    files = sorted(map(str, files_of.iterdir()))
    command = [str(validate), "--strict", "--quiet", "-k", version, *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_the_chart_says_by_default_what_the_base_says(base: list[Manifest]) -> None:
    def comparable(objects: list[Manifest]) -> dict[tuple[str, str], Manifest]:
        [config] = by_name(objects, "ConfigMap").values()
        hashed = config["metadata"]["name"]
        found = {}
        for one in json.loads(json.dumps(objects).replace(f'"{hashed}"', '"cliptune"')):
            if one["kind"] in WORKLOADS:  # the chart's way to roll pods out with a setting
                one["spec"]["template"]["metadata"]["annotations"].pop("checksum/config", None)
            found[one["kind"], one["metadata"]["name"]] = one
        return found

    ours, chart = comparable(base), comparable(templated())
    assert ours.pop(("Namespace", "cliptune"))  # helm's --create-namespace
    assert chart.keys() == ours.keys()
    for key, one in ours.items():
        assert chart[key] == one, key


def test_the_chart_refuses_values_that_there_are_none_of() -> None:
    for given, why in {
        "txt.autoscaling.most=3": "txt",
        "text.autoscaling.most=0": "minimum",
        "image.digest=latest": "pattern",
        "config.CLIPTUNE_ONNX=1": "string",  # --set makes a number of it
    }.items():
        with pytest.raises(AssertionError, match=why):
            templated("--set", given)


def test_a_changed_setting_rolls_the_pods_out(tmp_path: Path) -> None:
    def pods(objects: list[Manifest]) -> dict[str, Manifest]:
        return {n: one["spec"]["template"] for n, one in by_name(objects, *WORKLOADS).items()}

    for before, after in (
        (templated(), templated("--set-string", "config.CLIPTUNE_ONNX=1")),
        (kustomized(K8S / "base"), kustomized(own_overlay(tmp_path, settings=["CLIPTUNE_ONNX=1"]))),
    ):
        for name, pod in pods(before).items():
            assert pods(after)[name] != pod, name


def test_components_go_together(tmp_path: Path) -> None:
    objects = kustomized(own_overlay(tmp_path, *COMPONENTS, settings=["CLIPTUNE_ONNX=1"]))
    [config] = by_name(objects, "ConfigMap").values()
    assert config["data"]["CLIPTUNE_INDEX"].startswith("http://milvus")
    assert config["data"]["CLIPTUNE_SSL_CERTFILE"]
    assert config["data"]["CLIPTUNE_ARTIFACT"] == "/models/artifact"
    for name, workload in by_name(objects, *WORKLOADS).items():
        limits = container(workload)["resources"]["limits"]
        assert ("nvidia.com/gpu" in limits) == (name in ("text", "vision", "trainer"))
    text = by_name(objects, "Deployment")["text"]["spec"]["template"]["spec"]
    [models] = [volume for volume in text["volumes"] if volume["name"] == "models"]
    assert models.keys() == {"name", "persistentVolumeClaim"}
    scalers = by_name(objects, "HorizontalPodAutoscaler")
    kinds = {name: [one["type"] for one in scaler["spec"]["metrics"]]
             for name, scaler in scalers.items()}  # fmt: skip
    by_both = ["Resource", "Pods"]
    assert kinds == {"text": by_both, "vision": by_both, "search": ["Resource"]}


def test_the_operator_has_the_alerts_that_are_tested(tmp_path: Path) -> None:
    alerts = yaml.safe_load((ROOT / "monitoring" / "alerts.yml").read_text("utf-8"))
    for objects in (
        kustomized(own_overlay(tmp_path, "prometheus-operator")),
        templated("--set", "prometheusOperator.enabled=true"),
    ):
        assert by_name(objects, "PrometheusRule")["cliptune"]["spec"] == alerts
        [monitored] = by_name(objects, "PodMonitor").values()
        selector = monitored["spec"]["selector"]["matchLabels"].items()
        for name, workload in by_name(objects, *WORKLOADS).items():
            assert selector <= workload["spec"]["template"]["metadata"]["labels"].items(), name
            ports = {port["name"] for port in container(workload)["ports"]}
            assert {end["port"] for end in monitored["spec"]["podMetricsEndpoints"]} <= ports


def test_keys_are_required_unless_an_overlay_says_otherwise(
    rendered: dict[str, list[Manifest]],
) -> None:
    for overlay, objects in rendered.items():
        is_open = overlay == "overlays/dev"
        [config] = by_name(objects, "ConfigMap").values()
        assert (config["data"]["CLIPTUNE_API_KEYS_FILE"] == "") == is_open
        for name in ("search", "train"):
            pod = by_name(objects, "Deployment")[name]["spec"]["template"]["spec"]
            [keys] = [volume for volume in pod["volumes"] if volume["name"] == "keys"]
            assert keys["secret"]["optional"] == is_open


def test_all_pods_run_under_restrictions_and_write_where_they_are_told(
    rendered: dict[str, list[Manifest]],
) -> None:
    for objects in rendered.values():
        [config] = by_name(objects, "ConfigMap").values()
        told = {config["data"][name] for name in ("HOME", "CLIPTUNE_HOME")}
        for name, workload in by_name(objects, *WORKLOADS).items():
            pod = workload["spec"]["template"]["spec"]
            security = pod["securityContext"] | container(workload)["securityContext"]
            assert security["runAsNonRoot"], name
            assert security["readOnlyRootFilesystem"], name
            assert not security["allowPrivilegeEscalation"], name
            mounts = container(workload)["volumeMounts"]
            assert told <= {one["mountPath"] for one in mounts if not one.get("readOnly")}, name


def test_services_policies_and_autoscalers_find_what_they_name(base: list[Manifest]) -> None:
    workloads = by_name(base, *WORKLOADS)
    for name, workload in workloads.items():
        labels = workload["spec"]["template"]["metadata"]["labels"]
        selector = workload["spec"]["selector"]["matchLabels"]
        assert [n for n, other in workloads.items()
                if selector.items() <= other["spec"]["template"]["metadata"]["labels"].items()
                ] == [name]  # fmt: skip
        service = by_name(base, "Service")[name]["spec"]
        assert service["selector"].items() <= labels.items()
        named = {port["name"]: port["containerPort"] for port in container(workload)["ports"]}
        for port in service["ports"]:
            assert named[port["targetPort"]] == port["port"]
        # An executor's replicas are known by name, so that gateways share them out themselves.
        assert (service.get("clusterIP") == "None") == (labels["cliptune/role"] == "executor")
    for name, scaler in by_name(base, "HorizontalPodAutoscaler").items():
        assert scaler["spec"]["scaleTargetRef"]["name"] == name
        assert "replicas" not in workloads[name]["spec"], "an apply would undo the autoscaler's"
    reached = by_name(base, "NetworkPolicy")["executors"]["spec"]["ingress"]
    [config] = by_name(base, "ConfigMap").values()
    metrics = int(config["data"]["CLIPTUNE_METRICS_PORT"])
    assert {port["port"] for rule in reached for port in rule["ports"]} == {8080, metrics}


@pytest.mark.parametrize("name", ["search", "train"])
def test_gateways_know_existing_services(base: list[Manifest], name: str) -> None:
    command = container(by_name(base, "Deployment")[name])["command"]
    addresses = json.loads(command[command.index("--deployments-addresses") + 1])
    graph = json.loads(command[command.index("--graph-description") + 1])
    services = by_name(base, "Service")
    for executor, [address] in addresses.items():
        host, port = address.removeprefix("grpc://").split(":")
        assert host == executor
        assert int(port) in {p["port"] for p in services[host]["spec"]["ports"]}
    assert set(addresses) == graph.keys() - {"start-gateway"}


def test_containers_run_what_the_flows_say(base: list[Manifest]) -> None:
    """Whatever a Flow says of a part, Jina's own parser reads from its command, too."""
    from jina.parsers import set_deployment_parser, set_gateway_parser

    for flow in ("search", "train"):
        described = yaml.safe_load((ROOT / "flows" / f"{flow}.yml").read_text())
        parts = {part["name"]: part for part in described["executors"]}
        parts[flow] = described["gateway"] | described["with"]
        for name, part in parts.items():
            words = container(by_name(base, *WORKLOADS)[name])["command"][2:]
            parser = set_gateway_parser() if name == flow else set_deployment_parser()
            parsed = vars(parser.parse_args([word for word in words if word != "--native"]))
            for key in part.keys() - {"host", "name"}:
                expected = [part[key]] if key == "port" and name != flow else part[key]
                found = [str(one).lower() for one in parsed[key]] if key == "protocol" else parsed[
                    key]  # fmt: skip
                assert found == expected, (name, key)
            assert parsed["host"] in ("0.0.0.0", ["0.0.0.0"])


def test_the_dockerfile_has_no_fault_that_is_known() -> None:
    done = subprocess.run([tool("hadolint"), str(ROOT / "Dockerfile")], capture_output=True)
    assert done.returncode == 0, done.stdout.decode()


def test_the_image_has_the_versions_that_are_tested() -> None:
    """Each with hashes that the lock has, too; and torch's companions where the CPU's has none."""

    def locked(path: str) -> dict[str, set[str]]:
        packages: dict[str, set[str]] = {}
        for line in (ROOT / path).read_text("utf-8").splitlines():
            if line[0] not in " #":
                packages[name := line.split(" ")[0]] = set()
            elif "--hash" in line:
                packages[name].add(line.strip(" \\"))
        return packages

    image, tested = locked("docker/requirements.lock"), locked("requirements.lock")
    for package, hashes in image.items():
        assert hashes, package
        assert hashes == tested[package], package


def test_the_image_writes_where_pods_write() -> None:
    from scripts.kubernetes.workloads import USER, WRITABLE

    text = (ROOT / "Dockerfile").read_text("utf-8")
    for name, value in WRITABLE.items():
        assert f" {name}={value} " in text, name
    assert f"USER {USER}:{USER}\n" in text
    flows = [ROOT / "flows" / f"{name}.yml" for name in ("search", "train")]
    gateways = [part for flow in flows for part in read_flow(flow) if part.is_gateway]
    ports = {port for part in gateways for port in part.ports.values()}
    [exposed] = [line for line in text.splitlines() if line.startswith("EXPOSE ")]
    assert {int(port) for port in exposed.split()[1:]} == ports


def test_compose_runs_the_same_containers(base: list[Manifest]) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    [config] = by_name(base, "ConfigMap").values()
    workloads = by_name(base, *WORKLOADS)
    assert services.keys() == workloads.keys()
    for name, service in services.items():
        assert service["entrypoint"] + service["command"] == container(workloads[name])["command"]
        assert service["environment"] == config["data"]
        assert service["read_only"]
        assert service["user"] == "10001:10001"
        written = {line.split(":")[0] for line in service["tmpfs"]}
        written |= {line.split(":")[1] for line in service.get("volumes", ())}
        assert written >= {"/tmp", "/data"}, name
