"""The index in a Milvus of another namespace."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import requests

from tests.k8s.cluster import Cluster
from tests.k8s.load import Load, Tally
from tests.k8s.rendering import K8S, ROOT, kustomized
from tests.k8s.scenarios.common import (
    ENCODE,
    SEARCH,
    SEARCH_SIDE,
    admin_key,
    report,
    running,
    unharmed,
)
from tests.k8s.scenarios.isolation import reaches
from tests.waiting import wait_until

PORT = 19530


def milvus(folder: Path) -> None:
    """`overlays/milvus`: the index is in a Milvus of another namespace, several pods serve it."""
    key, keys = admin_key()
    objects = [*kustomized(K8S / "overlays" / "milvus"), keys]
    with running(objects, folder, ()) as cluster:
        server = cluster.add_stranger("milvus", "milvus")
        process = serve(server.name, folder / "milvus")
        try:
            wait_until(lambda: reaches(server.name, "127.0.0.1", PORT), 180)
            for name in SEARCH_SIDE:
                cluster.start(name)
            cluster.wait_for(*cluster.pods)
            use(cluster, server.address, key)
        finally:
            process.kill()
            process.wait()


def serve(namespace: str, data: Path) -> subprocess.Popen[bytes]:
    """A Milvus within the namespace of a pod."""
    program = [sys.executable, str(ROOT / "scripts" / "milvus_server.py"), "--quick"]
    where = ["--data", str(data), "--port", str(PORT)]
    command = ["nsenter", f"--net=/run/netns/{namespace}", *program, *where]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def use(cluster: Cluster, server: str, key: str) -> None:
    """Index and search; replace the Indexer without a failed request; the rest stays cut off."""
    from cliptune.serving import Client
    from tests.pictures import shop

    began = time.monotonic()
    client = Client("grpc://search:51000", api_key=key)
    assert client.index(shop()) == 6
    assert {one.id for one in client.search("red thing", limit=6).matches} == {
        one.id for one in shop()
    }
    pods = {pod.component: pod.name for pod in cluster.pods}
    reached = {name: reaches(pod, server, PORT) for name, pod in pods.items()}
    assert reached == {"text": False, "vision": False, "search": False, "indexer": True}
    report("index and search", Tally(8), began)
    began = time.monotonic()
    query = {"data": [{"text": "red thing NUMBER"}], "parameters": {"limit": 3}}
    with (
        Load("search", "/search", query, key=key) as tally,
        Load("search", "/encode", ENCODE, key=key),
    ):
        cluster.roll_out("indexer")
        time.sleep(1)
    unharmed("roll out the indexer", tally, began)
    # Its pictures are on a volume that the pods share.
    first = shop()[0]
    [found] = client.get([first.id])
    assert found.id == first.id
    headers = {"Authorization": f"Bearer {key}"}
    picture = requests.get(
        f"{SEARCH}/pictures/{requests.utils.quote(first.id, safe='')}", headers=headers, timeout=30
    )
    assert (picture.status_code, picture.content) == (200, first.image)
