"""The manifests as the real tools make them: `kubectl kustomize` and `helm template`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
TOOLS = ROOT / os.environ.get("CLIPTUNE_PEERS_DIR", ".peers") / "kubernetes"
"""Where `scripts/install-kubernetes-tools` puts them."""
_HASHED = re.compile(r"^(cliptune)-[0-9a-z]{10}$")

Manifest = dict[str, Any]


def tool(name: str) -> str:
    """The path of `kubectl`, `helm` or `hadolint`; skips where it isn't there."""
    own = TOOLS / "bin" / name
    found = str(own) if own.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here: scripts/install-kubernetes-tools installs it")
    return found


def kustomized(folder: Path) -> list[Manifest]:
    """The objects of an overlay."""
    return _loaded([tool("kubectl"), "kustomize", str(folder)])


def own_overlay(folder: Path, *components: str, settings: Sequence[str] = ()) -> Path:
    """An overlay of somebody's own over the base, beside a copy of ours."""
    if not (copy := folder / "k8s").is_dir():
        shutil.copytree(K8S, copy)
    own = copy / "overlays" / "own"
    own.mkdir(exist_ok=True)
    tree: dict[str, object] = {
        "resources": ["../../base"],
        "components": [f"../../components/{name}" for name in components],
    }
    if settings:
        tree["configMapGenerator"] = [
            {"name": "cliptune", "behavior": "merge", "literals": list(settings)}
        ]
    (own / "kustomization.yaml").write_text(yaml.safe_dump(tree))
    return own


def templated(*words: str) -> list[Manifest]:
    """The objects of the chart; `words` are options of `helm template`."""
    chart = str(K8S / "chart")
    return _loaded([tool("helm"), "template", "cliptune", chart, "--namespace", "cliptune", *words])


def _loaded(command: list[str]) -> list[Manifest]:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [tree for tree in yaml.safe_load_all(done.stdout) if tree]


def by_name(objects: list[Manifest], *kinds: str) -> dict[str, Manifest]:
    """Those of some kinds by their names, without the digest that a ConfigMap's name ends with."""
    chosen = [one for one in objects if one["kind"] in kinds]
    return {_HASHED.sub(r"\1", one["metadata"]["name"]): one for one in chosen}
