"""The search side under load: parts that are scaled, rolled out and killed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import grpc
import requests

from tests.k8s.cluster import Cluster
from tests.k8s.load import Load, Tally
from tests.k8s.pods import Pod
from tests.k8s.rendering import K8S, kustomized
from tests.k8s.scenarios.common import (
    ENCODE,
    SEARCH,
    SEARCH_SIDE,
    documents,
    index_and_find,
    post,
    report,
    running,
    unharmed,
)
from tests.k8s.scenarios.isolation import isolation
from tests.waiting import wait_until


def dev(folder: Path) -> None:
    """`overlays/dev`: it is reached by whom it should be, scales, and gets over a killed index."""
    with running(kustomized(K8S / "overlays" / "dev"), folder) as cluster:
        index_and_search()
        isolation(cluster)
        watch(cluster)
        batch(cluster)
        without_index(cluster)
        scale(cluster, seconds=3)
        assert cluster.events == ["indexer-0: ended with status 137"]


def changes(folder: Path) -> None:
    """`overlays/dev` with two of each: all parts are rolled out under load, and some killed."""
    with running(kustomized(K8S / "overlays" / "dev"), folder) as cluster:
        index_and_find(range(6))
        for name in ("text", "vision", "search"):
            cluster.scale(name, 2)
        for name in SEARCH_SIDE:
            roll_out(cluster, name)
        for name in ("text", "search"):
            kill(cluster, name)


def index_and_search() -> None:
    """Pictures are indexed and found, with each part in a pod of its own."""
    began = time.monotonic()
    tally = Tally(index_and_find(range(6)))
    with grpc.insecure_channel("search:51002") as channel:  # clip-as-service's clients
        dry_run = channel.unary_unary("/jina.JinaGatewayDryRunRPC/dry_run")
        assert dry_run(b"", timeout=30) == b""  # success
    report("index and search", tally, began)


def watch(cluster: Cluster) -> None:
    """Each pod has its figures where Prometheus is told to ask, and one request is in all logs."""
    began = time.monotonic()
    headers = {"X-Request-ID": "watched-1"}
    query = {"data": [{"image": documents([1])[0]["image"]}]}
    requests.post(f"{SEARCH}/search", json=query, headers=headers, timeout=30)
    for pod in cluster.pods:
        annotations = pod.template["metadata"]["annotations"]
        where = f"{pod.address}:{annotations['prometheus.io/port']}"
        text = requests.get(f"http://{where}{annotations['prometheus.io/path']}", timeout=10).text
        is_gateway = pod.component == "search"
        own = "cliptune_requests_total{" if is_gateway else f'executor="{pod.component}"'
        assert own in text, pod.name
        wait_until(lambda pod=pod: _names(pod, "watched-1"), told=lambda pod=pod: pod.name)
    assert requests.get(f"{SEARCH}/metrics", timeout=10).status_code == 404
    report("watch", Tally(), began)


def _names(pod: Pod, request_id: str) -> bool:
    lines = [line for line in pod.log.read_text().splitlines() if line.startswith('{"time"')]
    return request_id in {json.loads(line).get("request_id") for line in lines}


def figure(pod: Pod, name: str) -> float:
    """A metric of a pod, over all its labels."""
    text = requests.get(f"http://{pod.address}:9090/metrics", timeout=10).text
    lines = [line for line in text.splitlines() if line.startswith(f"{name}{{")]
    return sum(float(line.split()[-1]) for line in lines)


def served(cluster: Cluster, name: str) -> dict[str, float]:
    """How many requests each pod of a part has answered."""
    count = "cliptune_executor_seconds_count"
    return {pod.name: figure(pod, count) for pod in cluster.of(name)}


def batch(cluster: Cluster) -> None:
    """Requests of many clients share the text tower's batches."""
    began = time.monotonic()
    [text] = cluster.of("text")
    names = ("cliptune_batch_rows_sum", "cliptune_batch_rows_count")
    before = [figure(text, name) for name in names]
    with Load("search", "/encode", ENCODE, clients=16, pause=0) as tally:
        time.sleep(3)
    rows, batches = (figure(text, name) - old for name, old in zip(names, before, strict=True))
    unharmed("batches of 16 clients", tally, began, rows_a_batch=round(rows / batches, 2))
    assert rows / batches > 1.3


def scale(cluster: Cluster, seconds: float) -> None:
    """Text encoders 1, 3, 1 under load: each gets its share, and no request fails."""
    began = time.monotonic()
    with Load("search", "/encode", ENCODE) as tally:
        cluster.scale("text", 3)
        at_once = time.monotonic()
        while len(cluster.of("text")) != sum(n > 0 for n in served(cluster, "text").values()):
            time.sleep(0.2)
        found_after = time.monotonic() - at_once
        before = served(cluster, "text")
        time.sleep(seconds)
        after = served(cluster, "text")
        shares = {name: after[name] - before[name] for name in after}
        cluster.scale("text", 1)
        time.sleep(1)
    mean = sum(shares.values()) / 3
    shown = {name: round(count / mean, 2) for name, count in shares.items()}
    unharmed("scale 1, 3, 1", tally, began, shares=shown, found_after=round(found_after, 1))
    assert len(shown) == 3
    assert all(0.7 < share < 1.3 for share in shown.values()), shown


def without_index(cluster: Cluster) -> None:
    """While the Indexer restarts, texts are embedded all the same; nothing is lost of it."""
    began = time.monotonic()
    with Load("search", "/encode", ENCODE) as tally:
        [indexer] = cluster.of("indexer")
        indexer.kill()
        while indexer.is_ready:
            time.sleep(0.1)
        cluster.wait_for(indexer)
    found = post("/search", [{"text": "t1"}], parameters={"limit": 6})["data"][0]["matches"]
    unharmed("kill the indexer", tally, began, documents=len(found), restarts=indexer.restarts)
    assert (indexer.restarts, len(found)) == (1, 6)


def roll_out(cluster: Cluster, name: str) -> None:
    """Replace all pods of a part under load."""
    began = time.monotonic()
    with Load("search", "/encode", ENCODE) as tally:
        cluster.roll_out(name)
        time.sleep(1)
    unharmed(f"roll out {name}", tally, began)


def kill(cluster: Cluster, name: str) -> None:
    """Kill one pod of a part under load."""
    began = time.monotonic()
    with Load("search", "/encode", ENCODE) as tally:
        pod = cluster.of(name)[0]
        pod.kill()
        while pod.is_ready:
            time.sleep(0.05)
        cluster.wait_for(pod)
        time.sleep(1)
    # Those that were on their way to a gateway's process are lost with it.
    report(f"kill a pod of {name}", tally, began, of=len(cluster.of(name)))
    assert len(tally.failures) <= (4 if name == "search" else 0), tally.failures[:5]
