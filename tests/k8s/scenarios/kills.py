"""Pods that are killed at random for a while."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from tests.k8s.cluster import Cluster
from tests.k8s.load import Load
from tests.k8s.rendering import K8S, kustomized
from tests.k8s.scenarios.common import ENCODE, SEARCH, documents, report, running, stored
from tests.waiting import wait_until

SECONDS = 600.0
EVERY = 30.0
"""Seconds between two kills."""


def kills(folder: Path) -> None:
    """`overlays/dev` with two of each but the index: a pod of any part is killed now and again.

    One request in a hundred may fail, as connections to a gateway break off with it; no document
    that was acknowledged is lost.
    """
    with running(kustomized(K8S / "overlays" / "dev"), folder) as cluster:
        for name in ("text", "vision", "search"):
            cluster.scale(name, 2)
        began = time.monotonic()
        with Load("search", "/encode", ENCODE) as tally, writing() as (acknowledged, refused):
            killed, recovered = kill_now_and_again(cluster, began + SECONDS)
        cluster.wait_for(*cluster.pods)
        wait_until(lambda: requests.get(f"{SEARCH}/readyz", timeout=10).status_code == 200)
        lost = acknowledged - stored(sorted(acknowledged))
        written = {"acknowledged": len(acknowledged), "refused": dict(refused), "lost": len(lost)}
        seconds = {name: f"{min(all_)} to {max(all_)}" for name, all_ in recovered.items()}
        report(
            "kill at random", tally, began, killed=dict(killed), ready_again=seconds, writes=written
        )
        assert not lost
        assert len(acknowledged) > 100
        assert len(tally.failures) <= (tally.answered + len(tally.failures)) / 100


def kill_now_and_again(
    cluster: Cluster, until: float
) -> tuple[Counter[str], dict[str, list[float]]]:
    """Kill pods that are ready; returns how many of each part, and when each was back (seconds)."""
    killed, recovered = Counter[str](), dict[str, list[float]]()
    due = time.monotonic()
    while (now := time.monotonic()) < until:
        pod = random.choice([pod for pod in cluster.pods if pod.is_ready])
        pod.kill()
        killed[pod.component] += 1
        wait_until(lambda pod=pod: not pod.is_ready)
        cluster.wait_for(pod)
        recovered.setdefault(pod.component, []).append(round(time.monotonic() - now, 1))
        due = max(due + EVERY, time.monotonic())
        time.sleep(max(min(due, until) - time.monotonic(), 0))
    return killed, recovered


@contextmanager
def writing() -> Iterator[tuple[set[str], Counter[str]]]:
    """Index one document after the other; the ids that were acknowledged, and what was refused."""
    acknowledged, refused, ending = set[str](), Counter[str](), threading.Event()
    [document] = documents([1])

    def write() -> None:
        while not ending.is_set():
            identity = f"kept-{len(acknowledged) + refused.total()}"
            try:
                body = {"data": [document | {"id": identity}]}
                answer = requests.post(f"{SEARCH}/index", json=body, timeout=60)
            except requests.ConnectionError as error:
                refused[type(error).__name__] += 1
                continue
            if answer.status_code == 200:
                acknowledged.add(identity)
            else:
                refused[f"{answer.status_code} {answer.text[:200]}"] += 1
                ending.wait(0.1)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield acknowledged, refused
    finally:
        ending.set()
        thread.join()
