r"""What is done to a running cluster, as a program that runs in namespaces of its own.

    unshare --net --mount --pid --fork --kill-child --mount-proc \
        python -m tests.k8s.scenarios short FOLDER

It prints a line of JSON for each scenario.
"""

from __future__ import annotations

import base64
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import requests

from tests.k8s.cluster import Cluster, Pod
from tests.k8s.load import Load, Tally
from tests.k8s.network import RESOLV_CONF
from tests.k8s.rendering import K8S, kustomized
from tests.pictures import picture
from tests.waiting import wait_until

SEARCH = "http://search:51001"
ENCODE = {"data": [{"text": "a red boot NUMBER"}]}


def enter() -> None:
    """See Services by their names, and keep what pods' namespaces are called to ourselves."""
    Path("/run/netns").mkdir(exist_ok=True)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run/netns"], check=True)
    with tempfile.NamedTemporaryFile("w", suffix=".conf", delete=False) as file:
        file.write(RESOLV_CONF)
    subprocess.run(["mount", "--bind", file.name, "/etc/resolv.conf"], check=True)


def post(path: str, data: list[dict[str, Any]], **more: object) -> dict[str, Any]:
    """Ask the gateway's Service."""
    response = requests.post(f"{SEARCH}{path}", json={"data": data, **more}, timeout=60)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


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


def index_and_search(cluster: Cluster) -> None:
    """Pictures are indexed and found, with each part in a pod of its own."""
    began, tally = time.monotonic(), Tally()
    pictures = [
        {"id": str(i), "text": f"t{i}", "image": base64.b64encode(picture(i)).decode()}
        for i in range(6)
    ]
    assert post("/index", pictures)["indexed"] == 6
    for one in pictures:
        [found] = post("/search", [{"image": one["image"]}], parameters={"limit": 1})["data"]
        assert found["matches"][0]["id"] == one["id"]
        tally.answered += 1
    with grpc.insecure_channel("search:51002") as channel:  # clip-as-service's clients
        dry_run = channel.unary_unary("/jina.JinaGatewayDryRunRPC/dry_run")
        assert dry_run(b"", timeout=30) == b""  # success
    report("index and search", tally, began)


def watch(cluster: Cluster) -> None:
    """Each pod has its figures where Prometheus is told to ask, and one request is in all logs."""
    began = time.monotonic()
    headers = {"X-Request-ID": "watched-1"}
    query = {"data": [{"image": base64.b64encode(picture(1)).decode()}]}
    requests.post(f"{SEARCH}/search", json=query, headers=headers, timeout=30)
    figures, logged = {}, {}
    for pod in cluster.pods:
        annotations = pod.template["metadata"]["annotations"]
        where = f"{pod.address}:{annotations['prometheus.io/port']}"
        text = requests.get(f"http://{where}{annotations['prometheus.io/path']}", timeout=10).text
        is_gateway = pod.component == "search"
        own = "cliptune_requests_total{" if is_gateway else f'executor="{pod.component}"'
        figures[pod.component] = own in text
        logged[pod.component] = bool(wait_until(lambda pod=pod: _names(pod, "watched-1")))
    public = requests.get(f"{SEARCH}/metrics", timeout=10).status_code
    report("watch", Tally(), began, figures=figures, logged=logged, public_metrics=public)


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
    report("batches of 16 clients", tally, began, rows_a_batch=round(rows / batches, 2))


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
    report("scale 1, 3, 1", tally, began, shares=shown, found_after=round(found_after, 1))


def without_index(cluster: Cluster) -> None:
    """While the Indexer restarts, texts are embedded all the same."""
    began = time.monotonic()
    with Load("search", "/encode", ENCODE) as tally:
        [indexer] = cluster.of("indexer")
        indexer.kill()
        while indexer.is_ready:
            time.sleep(0.1)
        cluster.wait_for(indexer)
    found = post("/search", [{"text": "t1"}], parameters={"limit": 6})["data"][0]["matches"]
    report("kill the indexer", tally, began, documents=len(found), restarts=indexer.restarts)


def roll_out(cluster: Cluster, name: str) -> None:
    """Replace all pods of a part under load."""
    began = time.monotonic()
    with Load("search", "/encode", ENCODE) as tally:
        cluster.roll_out(name)
        time.sleep(1)
    report(f"roll out {name}", tally, began)


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
    report(f"kill a pod of {name}", tally, began, of=len(cluster.of(name)))


def kill_at_random(cluster: Cluster, seconds: float) -> None:
    """Kill a pod of any part every half a minute, while texts are embedded and pictures indexed."""
    began = time.monotonic()
    acknowledged, refused = set[str](), Counter[str]()
    killed = Counter[str]()
    with Load("search", "/encode", ENCODE) as tally:
        due = began
        while time.monotonic() < began + seconds:
            if time.monotonic() > due:
                pod = random.choice(cluster.pods)
                killed[pod.component] += pod.is_ready
                pod.kill()
                due += 30
            identity = f"kept-{len(acknowledged) + refused.total()}"
            document = {"id": identity, "image": base64.b64encode(picture(1)).decode()}
            try:
                answer = requests.post(f"{SEARCH}/index", json={"data": [document]}, timeout=60)
            except requests.ConnectionError as error:
                refused[type(error).__name__] += 1
                continue
            if answer.status_code == 200:
                acknowledged.add(identity)
            else:
                refused[f"{answer.status_code} {answer.text[:200]}"] += 1
                time.sleep(0.1)
        cluster.wait_for(*cluster.pods)
    stored: set[str] = set()
    wait_until(lambda: requests.get(f"{SEARCH}/readyz", timeout=10).status_code == 200)
    for page in range(0, len(acknowledged), 100):
        asked = [{"id": identity} for identity in sorted(acknowledged)[page : page + 100]]
        stored |= {one["id"] for one in post("/get", asked)["data"]}
    lost = len(acknowledged - stored)
    written = {"acknowledged": len(acknowledged), "refused": dict(refused), "lost": lost}
    report("kill at random", tally, began, killed=dict(killed), writes=written)


PARTS = ("text", "vision", "indexer", "search")


def main(scenario: str, folder: Path) -> None:
    """Run the scenarios of `short` or `long`."""
    objects = kustomized(K8S / "overlays" / "dev")
    enter()
    environment = {"PATH": f"{sys.prefix}/bin:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    cluster = Cluster(objects, folder, environment)
    try:
        run(cluster, scenario)
    finally:
        began = time.monotonic()
        cluster.stop()
    report("end", Tally(), began, events=cluster.events)


def run(cluster: Cluster, scenario: str) -> None:
    """Start the search side, and do to it what the scenario does."""
    began = time.monotonic()
    for name in PARTS:
        cluster.start(name)
    cluster.wait_for(*cluster.pods)
    limited = all(pod.memory for pod in cluster.pods)
    report("start", Tally(), began, memory_is_limited=limited)
    index_and_search(cluster)
    watch(cluster)
    batch(cluster)
    without_index(cluster)
    scale(cluster, seconds=3)
    if scenario == "long":
        for name in ("text", "vision", "search"):
            cluster.scale(name, 2)
        for name in ("text", "vision", "search"):
            roll_out(cluster, name)
        for name in ("text", "search"):
            kill(cluster, name)
        kill_at_random(cluster, seconds=180)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
