"""What scenarios have in common: a cluster that starts and ends, requests, and reports."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from cliptune.gateway.access.api_keys import make_key, new_key
from tests.k8s.cluster import NAMESPACE, Cluster, Manifest
from tests.k8s.load import Tally
from tests.k8s.network import RESOLV_CONF
from tests.pictures import picture

SEARCH = "http://search:51001"
ENCODE = {"data": [{"text": "a red boot NUMBER"}]}
SEARCH_SIDE = ("text", "vision", "indexer", "search")
IMAGE = {
    "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
}
"""Environment variables of the image, and how many threads a pod has: all share this machine."""


def enter() -> None:
    """See Services by their names, and keep what pods' namespaces are called to ourselves."""
    Path("/run/netns").mkdir(exist_ok=True)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run/netns"], check=True)
    with tempfile.NamedTemporaryFile("w", suffix=".conf", delete=False) as file:
        file.write(RESOLV_CONF)
    subprocess.run(["mount", "--bind", file.name, "/etc/resolv.conf"], check=True)


@contextmanager
def running(
    objects: list[Manifest],
    folder: Path,
    parts: Sequence[str] = SEARCH_SIDE,
    *,
    most: int = 9,
    **options: Any,
) -> Iterator[Cluster]:
    """A cluster with pods of these parts, ready: as many of each as it says there, or `most`."""
    enter()
    began = time.monotonic()
    cluster = Cluster(objects, folder, IMAGE, **options)
    try:
        for name in parts:
            cluster.start(name, min(cluster.replicas(name), most))
        cluster.wait_for(*cluster.pods)
        limited = all(pod.memory for pod in cluster.pods)
        report("start", Tally(), began, pods=len(cluster.pods), memory_is_limited=limited)
        yield cluster
    finally:
        began = time.monotonic()
        cluster.stop()
    report("end", Tally(), began, events=cluster.events)
    assert not [one for one in cluster.events if "killed, the grace" in one], cluster.events


def secret(name: str, **files: bytes) -> Manifest:
    """A Secret."""
    data = {file.replace("_", "."): base64.b64encode(text).decode() for file, text in files.items()}
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}


def admin_key() -> tuple[str, Manifest]:
    """An API key that allows all, and the Secret that makes it one."""
    key = new_key()
    line = make_key(key, f"ops-{secrets.token_hex(2)}", "admin").line()
    return key, secret("cliptune-keys", keys=f"{line}\n".encode())


def post(path: str, data: list[dict[str, Any]], **more: object) -> dict[str, Any]:
    """Ask the gateway's Service.

    Raises:
        AssertionError: it refused.
    """
    response = requests.post(f"{SEARCH}{path}", json={"data": data, **more}, timeout=60)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def documents(numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Pictures with titles and numbers for ids."""
    return [
        {"id": str(i), "text": f"t{i}", "image": base64.b64encode(picture(i)).decode()}
        for i in numbers
    ]


def index_and_find(numbers: Sequence[int]) -> int:
    """Index pictures and find each by itself; returns how many searches that took."""
    pictures = documents(numbers)
    assert post("/index", pictures)["indexed"] == len(pictures)
    for one in pictures:
        [found] = post("/search", [{"image": one["image"]}], parameters={"limit": 1})["data"]
        assert found["matches"][0]["id"] == one["id"]
    return len(pictures)


def stored(identities: Sequence[str]) -> set[str]:
    """Which of these documents the index has."""
    found = set[str]()
    for page in range(0, len(identities), 100):
        asked = [{"id": identity} for identity in identities[page : page + 100]]
        found |= {one["id"] for one in post("/get", asked)["data"]}
    return found


def report(name: str, tally: Tally, since: float, **more: object) -> None:
    """Print what a scenario did to its clients."""
    recovery = max((end - begin for begin, end in tally.gaps), default=0.0)
    line = {
        "scenario": name,
        "seconds": round(time.monotonic() - since, 1),
        "requests": tally.answered + len(tally.failures),
        "failures": len(tally.failures),
        "repeated": tally.repeated,
        "recovery_seconds": round(recovery, 1),
        "slowest_seconds": round(tally.slowest, 2),
        "examples": sorted(set(tally.failures))[:3],
        **more,
    }
    print(json.dumps(line), flush=True)


def unharmed(name: str, tally: Tally, since: float, **more: object) -> None:
    """Report it; not one request failed.

    Raises:
        AssertionError: some did.
    """
    report(name, tally, since, **more)
    assert tally.answered > 10, name
    assert not tally.failures, f"{name}: {tally.failures[:5]}"
