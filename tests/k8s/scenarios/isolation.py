"""Who reaches whom: NetworkPolicies, tried from within the pods' namespaces."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from tests.k8s.cluster import Cluster
from tests.k8s.load import Tally
from tests.k8s.policies import enforce
from tests.k8s.scenarios.common import report
from tests.waiting import wait_until

EXECUTOR, METRICS, WEB = 8080, 9090, 8000


def isolation(cluster: Cluster) -> None:
    """What the policies allow is reached, and what they forbid is not."""
    began = time.monotonic()
    web = cluster.add_stranger("stranger", "default")
    prometheus = cluster.add_stranger("prometheus-0", "monitoring", name="prometheus")
    pods = {pod.component: pod.address for pod in cluster.pods}
    names = {pod.component: pod.name for pod in cluster.pods}
    executors, gateway = ("text", "vision", "indexer"), pods["search"]
    serving = ["nsenter", f"--net=/run/netns/{web.name}", sys.executable, "-m", "http.server"]
    server = subprocess.Popen(
        [*serving, str(WEB)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/usr/share",
    )
    expected: dict[tuple[str, str, int], bool] = {
        **{(web.name, pods[name], EXECUTOR): False for name in executors},
        **{(web.name, address, METRICS): False for address in pods.values()},
        **{(web.name, gateway, port): True for port in (51000, 51001, 51002)},
        **{(prometheus.name, address, METRICS): True for address in pods.values()},
        **{(prometheus.name, pods[name], EXECUTOR): False for name in executors},
        **{(names["search"], pods[name], EXECUTOR): True for name in executors},
        **{(names["search"], pods[name], METRICS): False for name in executors},
        (names["text"], pods["indexer"], EXECUTOR): False,
        (names["indexer"], gateway, 51001): False,
        # Nothing calls home.
        **{(name, web.address, WEB): False for name in names.values()},
        (prometheus.name, web.address, WEB): True,
    }
    try:
        wait_until(lambda: reaches(web.name, "127.0.0.1", WEB))
        with ThreadPoolExecutor(16) as pool:
            found = dict(zip(expected, pool.map(lambda one: reaches(*one), expected), strict=True))
            wrong = {key: it for key, it in found.items() if it != expected[key]}
            assert not wrong, f"reached or not, against what the policies say: {wrong}"
            # It is the policies that keep them apart: without them, all of it is reached.
            enforce([], cluster.peers())
            assert all(pool.map(lambda one: reaches(*one), expected))
    finally:
        cluster.enforce()
        server.kill()
        server.wait()
    allowed = sum(expected.values())
    report("isolation", Tally(), began, allowed=allowed, forbidden=len(expected) - allowed)


def reaches(name: str, address: str, port: int) -> bool:
    """Whether a pod can connect to an address."""
    connect = f"exec 3<>/dev/tcp/{address}/{port}"
    command = ["nsenter", f"--net=/run/netns/{name}", "timeout", "2", "bash", "-c", connect]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
