"""`k8s/`: a base, components that add to it, and overlays that put both together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from scripts.kubernetes.tree import Object, dump, plain, plain_mapping, to_yaml
from scripts.kubernetes.workloads import (
    CONTAINER,
    ENCODERS,
    GPU_PARTS,
    MILVUS,
    MODEL,
    MODEL_READERS,
    MODEL_WRITERS,
    NAME,
    SIZES,
    TRAIN_NODES,
    VARIABLES,
    VERSION,
    Tree,
    environment,
    init_container,
    milvus,
    model_fetcher,
    model_policy,
    monitoring,
    objects,
    shared,
    train_nodes,
)

MADE = "Made from flows/*.yml by `python -m scripts.kubernetes`: change those, or an overlay."
KINDS = "Deployment|StatefulSet"
ALL_KINDS = f"{KINDS}|Job"


def files() -> dict[str, str]:
    """Every file by its path below `k8s/`."""
    return {**_base(), **_pods(), **_components(), **_overlays()}


def _base() -> dict[str, str]:
    by_file = _by_file(objects())
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": NAME,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        },
    }
    kustomization = {
        "namespace": NAME,
        "resources": ["namespace.yaml", *by_file],
        "components": ["../components/pods"],
        "configMapGenerator": [{"name": NAME, "envs": ["config.env"]}],
        "images": [{"name": NAME, "newTag": VERSION}],
    }
    lines = [f"# {MADE}", "# A change of a setting rolls the pods out: kubectl apply -k"]
    values = environment()
    for variable in VARIABLES:
        lines += [f"# {variable.meaning}"] if variable.meaning else []
        lines.append(f"{variable.name}={values[variable.name]}")
    return {
        "base/kustomization.yaml": _kustomization(kustomization),
        "base/config.env": "\n".join(lines) + "\n",
        "base/namespace.yaml": to_yaml([namespace], MADE),
        **{f"base/{file}": to_yaml(trees, MADE) for file, trees in by_file.items()},
    }


def _by_file(found: Iterable[Object]) -> dict[str, list[object]]:
    by_file: dict[str, list[object]] = {}
    for one in found:
        by_file.setdefault(one.file, []).append(plain(one.tree))
    return by_file


def _kustomization(more: Mapping[str, object], kind: str = "Kustomization", about: str = "") -> str:
    version = "v1beta1" if kind == "Kustomization" else "v1alpha1"
    head = {"apiVersion": f"kustomize.config.k8s.io/{version}", "kind": kind}
    return to_yaml([head | dict(more)], f"{about}\n{MADE}" if about else MADE)


def _patch(pod: Tree | None = None, container: Tree | None = None, annotations: Tree | None = None,
           kind: str = "Deployment") -> Tree:  # fmt: skip
    """What is changed in the pods of workloads; a target says in which."""
    template: Tree = {"metadata": {"annotations": annotations}} if annotations else {}
    spec = dict(pod or {})
    if container:
        spec["containers"] = [{"name": CONTAINER, **container}]
    if spec:
        template["spec"] = spec
    found: Tree = {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "any"}}
    return found | {"spec": {"template": template}}


def _pods() -> dict[str, str]:
    """What workloads share, as a component of the base."""
    trees = {name: plain_mapping(tree) for name, tree in shared().trees.items()}
    patches = {
        "all.yaml": _patch(trees["pod"], trees["container"], trees["annotations"]),
        "executors.yaml": _patch(container=trees["executor"]),
        "gateways.yaml": _patch(container=trees["gateway"]),
    }
    components = {"executors.yaml": _names("executor"), "gateways.yaml": _names("gateway")}
    listed = [
        {"path": path, "target": {"kind": ALL_KINDS, **_named(components.get(path))}}
        for path in patches
    ]
    about = "What all pods have in common: restrictions, probes, settings."
    return {
        "components/pods/kustomization.yaml": _kustomization(
            {"patches": listed}, "Component", about
        ),
        **{f"components/pods/{path}": to_yaml([patch], MADE) for path, patch in patches.items()},
    }


def _names(role: str) -> list[str]:
    gateways = {"search", "train"}
    return [name for name in SIZES if (name in gateways) == (role == "gateway")]


def _named(names: Iterable[str] | None) -> dict[str, str]:
    return {"name": "|".join(names)} if names else {}


def _inline(target: Mapping[str, str], patch: Tree | list[Tree]) -> Tree:
    return {"target": dict(target), "patch": dump(patch)}


def _literals(**settings: str) -> list[Tree]:
    literals = [f"{name}={value}" for name, value in settings.items()]
    return [{"name": NAME, "behavior": "merge", "literals": literals}]


def _components() -> dict[str, str]:
    found = {
        "gpu": _gpu(),
        "tls": _tls(),
        "milvus": _milvus(),
        "shared-models": _shared_models(),
        "model-image": _model_image(),
        "model-source": _model_source(),
        "train-nodes": _train_nodes(),
        "open": _open(),
        "ingress": _ingress(),
        "prometheus-operator": _operator(),
        "scale-by-queue": _scale_by_queue(),
    }
    abouts = {
        "gpu": "A GPU for each encoder and for the trainer, and the image with CUDA.",
        "tls": "TLS up to the gateways' pods, by the Secret cliptune-tls.",
        "milvus": "The index in a Milvus that is there already; its token, if it asks for one, is "
        "in the\nSecret cliptune-milvus under `token`.",
        "shared-models": "A volume of models that the encoders and the index share, for `cliptune "
        "swap`. Its storage\nclass must offer ReadWriteMany, or all must run on one node.",
        "model-image": "The model from an image of your own with an artifact in /artifact: name it "
        "with its\ndigest under `images:`.",
        "model-source": "The model from a bucket or a web server, checked against its digest: an "
        "init container\nfetches it, so that pods share no volume. Where it is say MODEL_SOURCE "
        "and MODEL_DIGEST among\nthe settings; who may read it says the Secret cliptune-model, by "
        "variables such as\nAWS_ACCESS_KEY_ID.",
        "train-nodes": "A training on two machines or more: an Indexed Job of one process each. "
        "All share a\nvolume (ReadWriteMany), with what is to be done in run/run.yml. Name it "
        "before components/gpu.",
        "open": "Without API keys: whoever reaches a gateway may do everything.",
        "ingress": "HTTP and the search page behind the cluster's ingress: give it your host, and "
        "its\ncertificate in the Secret cliptune-ingress.",
        "prometheus-operator": "For the Prometheus operator, which doesn't go by annotations: what "
        "it scrapes, and\nthe alerts of monitoring/alerts.yml.",
        "scale-by-queue": "Encoders by how many texts or pictures wait, too: where Prometheus' "
        "adapter offers\ncliptune_waiting_rows as a metric of pods.",
    }
    files = {}
    for name, content in found.items():
        more = {path: text for path, text in content.items() if isinstance(text, str)}
        tree = content["kustomization"]
        assert isinstance(tree, dict)
        files[f"components/{name}/kustomization.yaml"] = _kustomization(
            tree, "Component", abouts[name]
        )
        files |= {f"components/{name}/{path}": text for path, text in more.items()}
    return files


def _gpu() -> Tree:
    container: Tree = {"resources": {"limits": {"nvidia.com/gpu": 1}}}
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    target = {"kind": ALL_KINDS, **_named((*GPU_PARTS, TRAIN_NODES))}
    # One whose driver fails would hold its GPU, and serve by the CPU, slowly.
    insisting: Tree = {"env": [{"name": "CLIPTUNE_DEVICE", "value": "cuda"}]}
    encoders = {"kind": KINDS, **_named(ENCODERS)}
    return {
        "kustomization": {
            "images": [{"name": NAME, "newTag": f"{VERSION}-gpu"}],
            "patches": [
                _inline(target, _patch({"tolerations": tolerations}, container)),
                _inline(encoders, _patch(container=insisting)),
            ],
        }
    }


def _tls() -> Tree:
    certificate = _literals(
        CLIPTUNE_SSL_CERTFILE="/etc/cliptune/tls/tls.crt",
        CLIPTUNE_SSL_KEYFILE="/etc/cliptune/tls/tls.key",
    )
    secret = {"name": "tls", "secret": {"secretName": "cliptune-tls", "optional": False}}
    probes: Tree = {
        probe: {"httpGet": {"scheme": "HTTPS"}}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    target = {"kind": KINDS, **_named(_names("gateway"))}
    patch = _inline(target, _patch({"volumes": [secret]}, probes))
    return {"kustomization": {"configMapGenerator": certificate, "patches": [patch]}}


def _milvus() -> Tree:
    by_file = _by_file(milvus())
    gone: Tree = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "indexer"},
        "$patch": "delete",
    }
    # The old one first: two workloads of one name would be ambiguous to what comes after.
    tree: Tree = {
        "resources": list(by_file),
        "components": ["../pods"],
        "patches": [_inline({"kind": "StatefulSet", "name": "indexer"}, gone)],
        "configMapGenerator": _literals(CLIPTUNE_INDEX=MILVUS, CLIPTUNE_PICTURES="/data/pictures"),
    }
    return {"kustomization": tree, **{f: to_yaml(trees, MADE) for f, trees in by_file.items()}}


def _shared_models() -> Tree:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "cliptune-models", "namespace": NAME},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "10Gi"}},
        },
    }
    patches = []
    for name in MODEL_READERS:
        read_only: Tree = {} if name in MODEL_WRITERS else {"readOnly": True}
        source: Tree = {"claimName": "cliptune-models", **read_only}
        volume = {"name": "models", "emptyDir": None, "persistentVolumeClaim": source}
        patches.append(_inline({"kind": KINDS, "name": name}, _patch({"volumes": [volume]})))
    tree: Tree = {
        "resources": ["models.yaml"],
        "patches": patches,
        "configMapGenerator": _literals(CLIPTUNE_GENERATIONS="/models/generations"),
    }
    return {"kustomization": tree, "models.yaml": to_yaml([claim], MADE)}


def _model_image() -> Tree:
    container = init_container(
        image="cliptune-model",
        command=["cp", "-r", "/artifact", MODEL],
        resources={
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"memory": "128Mi"},
        },
    )
    return {"kustomization": _with_model(container)}


def _model_source() -> Tree:
    tree = _with_model(plain_mapping(model_fetcher()))
    return {
        "kustomization": {"resources": ["network.yaml"], **tree},
        "network.yaml": to_yaml([plain(model_policy())], MADE),
    }


def _with_model(container: Tree) -> Tree:
    """The encoders with a model that `container` brings."""
    target = {"kind": KINDS, **_named(ENCODERS)}
    return {
        "patches": [_inline(target, _patch({"initContainers": [container]}))],
        "configMapGenerator": _literals(CLIPTUNE_ARTIFACT=MODEL),
    }


def _train_nodes() -> Tree:
    by_file = _by_file(train_nodes())
    files = {file: to_yaml(trees, MADE) for file, trees in by_file.items()}
    return {"kustomization": {"resources": list(by_file), "components": ["../pods"]}, **files}


def _open() -> Tree:
    keys = {"name": "keys", "secret": {"secretName": "cliptune-keys", "optional": True}}
    target = {"kind": KINDS, **_named(_names("gateway"))}
    tree: Tree = {
        "configMapGenerator": _literals(CLIPTUNE_API_KEYS_FILE=""),
        "patches": [_inline(target, _patch({"volumes": [keys]}))],
    }
    return {"kustomization": tree}


def _ingress() -> Tree:
    host = "search.example.org"
    service = {"name": "search", "port": {"name": "http"}}
    path: Tree = {"path": "/", "pathType": "Prefix", "backend": {"service": service}}
    ingress: Tree = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {
            "name": "search",
            "namespace": NAME,
            # Pictures are larger than what ingress-nginx lets through by itself.
            "annotations": {"nginx.ingress.kubernetes.io/proxy-body-size": "64m"},
        },
        "spec": {
            "tls": [{"hosts": [host], "secretName": "cliptune-ingress"}],
            "rules": [{"host": host, "http": {"paths": [path]}}],
        },
    }
    return {
        "kustomization": {"resources": ["ingress.yaml"]},
        "ingress.yaml": to_yaml([ingress], MADE),
    }


def _operator() -> Tree:
    by_file = _by_file(monitoring())
    files = {file: to_yaml(trees, MADE) for file, trees in by_file.items()}
    return {"kustomization": {"resources": list(by_file)}, **files}


def _scale_by_queue() -> Tree:
    target = {"type": "AverageValue", "averageValue": "16"}
    metric: Tree = {
        "type": "Pods",
        "pods": {"metric": {"name": "cliptune_waiting_rows"}, "target": target},
    }
    patch: list[Tree] = [{"op": "add", "path": "/spec/metrics/-", "value": metric}]
    scalers = {"kind": "HorizontalPodAutoscaler", "name": "text|vision"}
    return {"kustomization": {"patches": [_inline(scalers, patch)]}}


def _overlays() -> dict[str, str]:
    smaller: list[Tree] = [{"op": "replace", "path": "/spec/minReplicas", "value": 1}]
    less: list[Tree] = [
        {
            "op": "replace",
            "path": "/spec/template/spec/containers/0/resources/requests",
            "value": {"cpu": "100m", "memory": "512Mi"},
        }
    ]
    dev: Tree = {
        "resources": ["../../base"],
        "components": ["../../components/open"],
        "patches": [
            _inline({"kind": "HorizontalPodAutoscaler"}, smaller),
            _inline({"kind": KINDS}, less),
        ],
    }
    found: dict[str, tuple[Tree, str]] = {
        "cpu": ({"resources": ["../../base"]}, "As it is: encoders on CPUs, keys required."),
        "dev": (dev, "To try it out on one small node: without keys, one pod of each."),
    }
    for name in ("gpu", "milvus", "tls"):
        tree: Tree = {"resources": ["../../base"], "components": [f"../../components/{name}"]}
        found[name] = (tree, f"The base with components/{name}.")
    return {
        f"overlays/{name}/kustomization.yaml": _kustomization(tree, about=about)
        for name, (tree, about) in found.items()
    }
