"""What runs on Kubernetes: a workload and a Service for each part of the Flows, and what they need.

The Flows say what each container runs. Here stands what Kubernetes must know beside that: how large
a part is, what it keeps, how many there may be, and under which restrictions all of them run.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from cliptune.settings import Settings, about, variable_of
from scripts.kubernetes.flows import EXECUTOR_PORT, Part, read_flow
from scripts.kubernetes.tree import SHARED, Block, Choice, Object, Shared, to_template

Tree = dict[str, object]

ROOT = Path(__file__).resolve().parents[2]
NAME = "cliptune"
VERSION = str(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"])
"""Of cliptune, and so of its image."""
CONTAINER = "cliptune"
"""The name of every container, so that one patch fits all."""
USER = 10001
METRICS_PORT = 9090
LABEL = "app.kubernetes.io"
ROLE = "cliptune/role"
RESTRICTIONS: Tree = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
"""Of every container."""
MODEL = "/models/artifact"
"""Where the model is that is brought to a pod."""
MILVUS = "http://milvus.milvus.svc:19530/shop?consistency=session"

WRITABLE = {
    "HOME": "/tmp",
    "CLIPTUNE_HOME": "/data",
    "HF_HOME": "/data/huggingface",
}
"""Where processes write, which can write nowhere else: `/tmp` for what may be lost with the pod
(Jina, matplotlib, torch and Triton keep theirs below HOME or there), `/data` for what is kept."""


@dataclass(frozen=True)
class Variable:
    """One environment variable of all parts."""

    name: str
    value: str
    expression: str = ""
    """The chart's, where other choices decide it."""

    @property
    def meaning(self) -> str:
        """What `cliptune.settings` says of it; empty: it isn't cliptune's."""
        field = self.name.removeprefix("CLIPTUNE_").lower()
        if field == self.name.lower():
            return ""
        told = about(Settings.model_fields[field])
        meaning = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", f"{told.unit} {told.meaning}".strip())
        return f"{meaning} (empty: {told.default})" if not self.value else meaning


VARIABLES = [
    Variable(
        "CLIPTUNE_ARTIFACT",
        "builtin",
        f'ternary .Values.model.name "{MODEL}" (empty .Values.model.source)',
    ),
    Variable("CLIPTUNE_ENGINE", ""),
    Variable(
        "CLIPTUNE_INDEX",
        "/data/index",
        'ternary .Values.milvus.uri "/data/index" .Values.milvus.enabled',
    ),
    Variable("CLIPTUNE_HOST", "0.0.0.0"),
    Variable("CLIPTUNE_METRICS_PORT", str(METRICS_PORT)),
    Variable(
        "CLIPTUNE_API_KEYS_FILE",
        "/etc/cliptune/keys/keys",
        'ternary "/etc/cliptune/keys/keys" "" .Values.keys.required',
    ),
    Variable(
        "CLIPTUNE_SSL_CERTFILE",
        "",
        'ternary "/etc/cliptune/tls/tls.crt" "" .Values.tls.enabled',
    ),
    Variable(
        "CLIPTUNE_SSL_KEYFILE",
        "",
        'ternary "/etc/cliptune/tls/tls.key" "" .Values.tls.enabled',
    ),
    Variable("CLIPTUNE_DRAIN", "30"),
    Variable("CLIPTUNE_LOG_FORMAT", "json"),
    Variable("JINA_LOG_NO_COLOR", "1"),
    *(Variable(name, value) for name, value in WRITABLE.items()),
]
DECIDED = {"CLIPTUNE_HOST", "CLIPTUNE_METRICS_PORT", *WRITABLE} | {
    one.name for one in VARIABLES if one.expression
}
"""Those that users of the chart don't set by name."""


def environment() -> dict[str, str]:
    """All variables by name.

    Raises:
        BadInput: a value is none that `cliptune.settings` takes.
    """
    found = {one.name: one.value for one in VARIABLES}
    fields = {variable_of(field): field for field in Settings.model_fields}
    own = {name: value for name, value in found.items() if name.startswith("CLIPTUNE_") and value}
    Settings.read(**{fields[name]: value for name, value in own.items()})
    return found


@dataclass(frozen=True)
class Size:
    """What Kubernetes must know of a part beside what it runs."""

    cpu: str
    memory: str
    limit: str = ""
    """Of memory; empty: what is requested."""
    most: int = 1
    """How many of it there may be; more than one: at least two, by the load."""
    keeps: str = ""
    """The size of its volume: the part is a StatefulSet of one. Empty: it keeps nothing."""

    def resources(self) -> Tree:
        """As a container's `resources`."""
        return {
            "requests": {"cpu": self.cpu, "memory": self.memory},
            "limits": {"memory": self.limit or self.memory},
        }


SIZES = {
    "text": Size("1", "2Gi", most=10),
    "vision": Size("1", "2Gi", most=10),
    "indexer": Size("1", "2Gi", keeps="20Gi"),
    "search": Size("250m", "512Mi", "2Gi", most=6),
    "trainer": Size("2", "8Gi", keeps="100Gi"),
    "train": Size("250m", "512Mi", "2Gi"),
}
ENCODERS = ("text", "vision")
MODEL_READERS = (*ENCODERS, "indexer")
MODEL_WRITERS = ("indexer",)
"""`cliptune swap` runs beside the index."""
GPU_PARTS = (*ENCODERS, "trainer")


def parts() -> list[Part]:
    """Of both Flows, executors before their gateway."""
    flows = [ROOT / "flows" / f"{name}.yml" for name in ("search", "train")]
    return [part for flow in flows for part in read_flow(flow)]


def shared() -> Shared:
    """What pods and containers have in common."""
    pod: Tree = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 60,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    container: Tree = {
        "image": Choice(f"{NAME}:{VERSION}", 'include "cliptune.image" .'),
        "imagePullPolicy": Choice("IfNotPresent", ".Values.image.pullPolicy"),
        "envFrom": [{"configMapRef": {"name": NAME}}],
        # Until everybody knows that it is going; then it answers what it has taken.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}},
        "securityContext": RESTRICTIONS,
    }
    executor = _probes({"grpc": {"port": EXECUTOR_PORT}}, {"grpc": {"port": EXECUTOR_PORT}})
    gateway = _probes(_http("/healthz"), _http("/readyz?need=any"))
    annotations: Tree = {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(METRICS_PORT),
        "prometheus.io/path": "/metrics",
    }
    return Shared(
        {
            "pod": pod,
            "container": container,
            "executor": executor,
            "gateway": gateway,
            "annotations": annotations,
            "model": {},
        },
        {
            "annotations": 'checksum/config: {{ include "cliptune.config" . | sha256sum }}',
            "model": "{{- if .Values.model.source }}\n"
            + to_template({"initContainers": [model_fetcher()]})
            + "{{- end }}",
        },
    )


def init_container(**more: object) -> Tree:
    """What brings a model to the pods of encoders, before they start."""
    return {
        "name": "model",
        **more,
        "securityContext": RESTRICTIONS,
        "volumeMounts": [
            {"name": "models", "mountPath": "/models"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }


def model_fetcher() -> Tree:
    """The init container that fetches a model and checks its digest: `cliptune fetch`."""
    memory = "1Gi"
    secret: Tree = {"name": Choice("cliptune-model", ".Values.model.secret"), "optional": True}
    return init_container(
        image=Choice(f"{NAME}:{VERSION}", 'include "cliptune.image" .'),
        imagePullPolicy=Choice("IfNotPresent", ".Values.image.pullPolicy"),
        command=["cliptune", "fetch", "$(MODEL_SOURCE)", MODEL, "--digest", "$(MODEL_DIGEST)"],
        envFrom=[{"configMapRef": {"name": NAME}}, {"secretRef": secret}],
        resources={"requests": {"cpu": "100m", "memory": memory}, "limits": {"memory": memory}},
    )


def _http(path: str) -> Tree:
    scheme = Choice("HTTP", 'ternary "HTTPS" "HTTP" .Values.tls.enabled')
    return {"httpGet": {"path": path, "port": "http", "scheme": scheme}}


def _probes(lives: Tree, is_ready: Tree) -> Tree:
    return {
        "startupProbe": {**lives, "periodSeconds": 5, "failureThreshold": 60},
        "readinessProbe": {**is_ready, "periodSeconds": 5, "timeoutSeconds": 5},
        "livenessProbe": {
            **lives,
            "periodSeconds": 20,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
    }


def objects() -> Iterator[Object]:
    """All of them but the namespace and the settings."""
    for part in parts():
        yield from _of_part(part)
    yield from _network()


def labels(name: str) -> dict[str, str]:
    """What pods of a part are found by."""
    return {f"{LABEL}/name": NAME, f"{LABEL}/component": name}


def _object(version: str, kind: str, name: str, **more: object) -> Tree:
    found: Tree = {"apiVersion": version, "kind": kind}
    metadata: Tree = {"name": name, "namespace": Choice(NAME, ".Release.Namespace")}
    metadata["labels"] = {f"{LABEL}/name": NAME}
    return found | {"metadata": metadata} | more


def _of_part(part: Part) -> Iterator[Object]:
    name, size = part.name, SIZES[part.name]
    file = f"{name}.yaml"
    headless: Tree = {} if part.is_gateway else {"clusterIP": "None"}
    ports = [{"name": n, "port": p, "targetPort": n} for n, p in part.ports.items()]
    spec: Tree = {**headless, "selector": labels(name), "ports": ports}
    yield Object(file, _object("v1", "Service", name, spec=spec))
    if name == "indexer":
        yield Object(file, workload(part), "not .Values.milvus.enabled")
    else:
        yield Object(file, workload(part))
    if size.most > 1:
        yield Object(file, _autoscaler(name, size))
        selector = {"matchLabels": labels(name)}
        budget = _object(
            "policy/v1",
            "PodDisruptionBudget",
            name,
            spec={"maxUnavailable": 1, "selector": selector},
        )
        yield Object(file, budget)


def workload(part: Part, keeps: str | None = None) -> Tree:
    """The Deployment or StatefulSet of a part; `keeps` in the place of its size's."""
    name, size = part.name, SIZES[part.name]
    keeps = size.keeps if keeps is None else keeps
    role = "gateway" if part.is_gateway else "executor"
    spec: Tree = {} if size.most > 1 else {"replicas": 1}
    if keeps:
        spec |= {"serviceName": name}
    spec |= {
        "selector": {"matchLabels": labels(name)},
        "template": {
            "metadata": {
                "labels": {**labels(name), ROLE: role},
                "annotations": {SHARED: ["annotations"]},
            },
            "spec": _pod(part, role, bool(keeps)),
        },
    }
    if keeps:
        spec["volumeClaimTemplates"] = [_claim(name, keeps)]
    elif size.most > 1:
        # A new pod answers before an old one goes.
        spec["strategy"] = {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    return _object("apps/v1", "StatefulSet" if keeps else "Deployment", name, spec=spec)


def _claim(name: str, size: str) -> Tree:
    requests = {"storage": Choice(size, f".Values.{name}.storage.size")}
    spec: Tree = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": Block("", f".Values.{name}.storage.className"),
        "resources": {"requests": requests},
    }
    return {"metadata": {"name": "data"}, "spec": spec}


def _pod(part: Part, role: str, is_kept: bool) -> Tree:
    name, size = part.name, SIZES[part.name]
    mounts: list[Tree] = [{"name": "tmp", "mountPath": "/tmp"}]
    mounts.append({"name": "data", "mountPath": "/data"})
    volumes: list[Tree] = [{"name": "tmp", "emptyDir": {}}]
    if not is_kept:
        volumes.append({"name": "data", "emptyDir": {}})
    if name in MODEL_READERS:
        read_only: Tree = {} if name in MODEL_WRITERS else {"readOnly": True}
        mounts.append({"name": "models", "mountPath": "/models", **read_only})
        volumes.append({"name": "models", "emptyDir": {}})
    if name == "trainer":
        # Workers hand batches over in shared memory, of which a container has 64 MiB.
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}})
    for secret, is_optional in (("keys", "not .Values.keys.required"),
                                ("tls", "not .Values.tls.enabled")):  # fmt: skip
        if part.is_gateway:
            path = f"/etc/cliptune/{secret}"
            mounts.append({"name": secret, "mountPath": path, "readOnly": True})
            named = {
                "secretName": Choice(f"cliptune-{secret}", f".Values.{secret}.secret"),
                "optional": Choice(secret == "tls", is_optional),
            }
            volumes.append({"name": secret, "secret": named})
    container: Tree = {
        "name": CONTAINER,
        "command": part.command,
        "ports": [{"name": n, "containerPort": p} for n, p in part.ports.items()]
        + [{"name": "metrics", "containerPort": METRICS_PORT}],
        "resources": Block(size.resources(), f".Values.{name}.resources"),
        "volumeMounts": mounts,
        SHARED: ["container", role],
    }
    if name == "indexer":
        token = {"name": "cliptune-milvus", "key": "token", "optional": True}
        container["env"] = [{"name": "CLIPTUNE_MILVUS_TOKEN", "valueFrom": {"secretKeyRef": token}}]
    spread: Tree = {}
    if size.most > 1:
        selector = {"matchLabels": labels(name)}
        zones = ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
        spread["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": zone,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": selector,
            }
            for zone in zones
        ]
    return {
        "containers": [container],
        "volumes": volumes,
        **spread,
        "nodeSelector": Block({}, f".Values.{name}.nodeSelector"),
        "tolerations": Block([], f".Values.{name}.tolerations"),
        SHARED: ["pod", "model"] if name in ENCODERS else ["pod"],
    }


def _autoscaler(name: str, size: Size) -> Tree:
    values = f".Values.{name}.autoscaling"
    utilization = {"type": "Utilization", "averageUtilization": Choice(70, f"{values}.cpu")}
    spec: Tree = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "minReplicas": Choice(2, f"{values}.least"),
        "maxReplicas": Choice(size.most, f"{values}.most"),
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": utilization}}],
    }
    return _object("autoscaling/v2", "HorizontalPodAutoscaler", name, spec=spec)


def _network() -> Iterator[Object]:
    """Executors are reached by gateways alone, and nothing reaches out: none calls home."""
    enabled = ".Values.networkPolicy.enabled"
    metrics: Tree = {
        "from": [
            {
                "namespaceSelector": {},
                "podSelector": {"matchLabels": {f"{LABEL}/name": "prometheus"}},
            }
        ],
        "ports": [{"port": METRICS_PORT}],
    }
    gateways: Tree = {"podSelector": {"matchLabels": _of_role("gateway")}}
    executors: Tree = {"podSelector": {"matchLabels": _of_role("executor")}}
    asked = {"from": [gateways], "ports": [{"port": EXECUTOR_PORT}]}
    policy = _policy("executors", _of_role("executor"), ingress=[asked, metrics], egress=[])
    yield Object("network.yaml", policy, enabled)
    served = [{"port": port} for part in parts() if part.is_gateway for port in part.ports.values()]
    ask = {"to": [executors], "ports": [{"port": EXECUTOR_PORT}]}
    policy = _policy(
        "gateways",
        _of_role("gateway"),
        ingress=[{"ports": served}, metrics],
        egress=[ask, _dns()],
    )
    yield Object("network.yaml", policy, enabled)


def models() -> Iterator[Object]:
    """What the chart has where a model is fetched."""
    condition = "and .Values.model.source .Values.networkPolicy.enabled"
    yield Object("network.yaml", model_policy(), condition)


def model_policy() -> Tree:
    """Encoders may reach where models come from: names, and HTTPS anywhere."""
    rules: list[Tree] = [{"ports": [{"port": 443}]}, _dns()]
    policy = _policy("encoders-to-models", _of_role("executor"), egress=rules)
    chosen = [{"key": f"{LABEL}/component", "operator": "In", "values": list(ENCODERS)}]
    selector: Tree = {"matchLabels": {f"{LABEL}/name": NAME}, "matchExpressions": chosen}
    spec = policy["spec"]
    assert isinstance(spec, dict)
    return policy | {"spec": spec | {"podSelector": selector}}


def _of_role(role: str) -> dict[str, str]:
    return {f"{LABEL}/name": NAME, ROLE: role}


def _dns() -> Tree:
    dns = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}
    return {"to": [dns], "ports": [{"port": 53, "protocol": p} for p in ("UDP", "TCP")]}


def _policy(name: str, pods: dict[str, str], **rules: object) -> Tree:
    kinds = [kind.capitalize() for kind in rules]
    spec: Tree = {"podSelector": {"matchLabels": pods}, "policyTypes": kinds, **rules}
    return _object("networking.k8s.io/v1", "NetworkPolicy", name, spec=spec)


def milvus() -> Iterator[Object]:
    """The Indexer of an index in Milvus: a Deployment, with its pictures on a shared volume."""
    [indexer] = [part for part in parts() if part.name == "indexer"]
    tree = workload(indexer, keeps="")
    enabled = ".Values.milvus.enabled"
    volumes = tree["spec"]["template"]["spec"]["volumes"]  # type: ignore[index]
    [data] = [volume for volume in volumes if volume["name"] == "data"]
    del data["emptyDir"]
    data["persistentVolumeClaim"] = {"claimName": "cliptune-pictures"}
    yield Object("indexer.yaml", tree, enabled)
    claim = _claim("indexer", "20Gi")["spec"]
    assert isinstance(claim, dict)
    spec = {**claim, "accessModes": ["ReadWriteMany"]}
    pictures = _object("v1", "PersistentVolumeClaim", "cliptune-pictures", spec=spec)
    yield Object("indexer.yaml", pictures, enabled)
    server: Tree = {
        "to": [
            {
                "namespaceSelector": {
                    "matchLabels": {
                        "kubernetes.io/metadata.name": Choice("milvus", ".Values.milvus.namespace")
                    }
                }
            }
        ],
        "ports": [{"port": 19530}],
    }
    policy = _policy("indexer-to-milvus", labels("indexer"), egress=[server, _dns()])
    yield Object("network.yaml", policy, f"and {enabled} .Values.networkPolicy.enabled")


def monitoring() -> Iterator[Object]:
    """What the Prometheus operator scrapes, and the alerts that it raises."""
    enabled = ".Values.prometheusOperator.enabled"
    version = "monitoring.coreos.com/v1"
    selector: Tree = {"matchLabels": {f"{LABEL}/name": NAME}}
    spec: Tree = {"selector": selector, "podMetricsEndpoints": [{"port": "metrics"}]}
    yield Object("monitoring.yaml", _object(version, "PodMonitor", NAME, spec=spec), enabled)
    rules: Tree = yaml.safe_load((ROOT / "monitoring" / "alerts.yml").read_text("utf-8"))
    yield Object("monitoring.yaml", _object(version, "PrometheusRule", NAME, spec=rules), enabled)


TRAIN_NODES = "train-nodes"


def train_nodes(count: int = 2) -> Iterator[Object]:
    """A training on `count` machines: an Indexed Job of `torchrun`, and what its pods share.

    The first pod is found by its name in a headless Service; what the processes tell each other
    goes through ports that they choose, so that only its pods may reach one another.
    """
    file, port, folder = "train-nodes.yaml", 29500, "/data/run"
    size = SIZES["trainer"]
    command = [
        *("torchrun", f"--nnodes={count}", "--node-rank=$(JOB_COMPLETION_INDEX)"),
        *("--nproc-per-node=1", "--max-restarts=0"),
        *(f"--master-addr={TRAIN_NODES}-0.{TRAIN_NODES}", f"--master-port={port}"),
        *("-m", "cliptune.training", f"{folder}/run.yml", folder),
    ]
    mounts = {"tmp": "/tmp", "data": "/data", "shm": "/dev/shm"}
    container: Tree = {
        "name": CONTAINER,
        "command": command,
        "resources": size.resources(),
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()],
    }
    volumes: list[Tree] = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "data", "persistentVolumeClaim": {"claimName": "cliptune-training"}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
    ]
    pod = {
        "subdomain": TRAIN_NODES,
        "restartPolicy": "OnFailure",
        "containers": [container],
        "volumes": volumes,
    }
    spec: Tree = {
        "completionMode": "Indexed",
        "completions": count,
        "parallelism": count,
        "backoffLimit": 10,
        "template": {"metadata": {"labels": labels(TRAIN_NODES)}, "spec": pod},
    }
    yield Object(file, _object("batch/v1", "Job", TRAIN_NODES, spec=spec))
    service: Tree = {
        "clusterIP": "None",
        # They look for one another before any of them is ready.
        "publishNotReadyAddresses": True,
        "selector": labels(TRAIN_NODES),
        "ports": [{"name": "meet", "port": port}],
    }
    yield Object(file, _object("v1", "Service", TRAIN_NODES, spec=service))
    claim: Tree = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": size.keeps}},
    }
    yield Object(file, _object("v1", "PersistentVolumeClaim", "cliptune-training", spec=claim))
    each_other: Tree = {"podSelector": {"matchLabels": labels(TRAIN_NODES)}}
    policy = _policy(
        TRAIN_NODES,
        labels(TRAIN_NODES),
        ingress=[{"from": [each_other]}],
        egress=[{"to": [each_other]}, _dns()],
    )
    yield Object(file, policy)
