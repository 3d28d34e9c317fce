"""Too little memory, and a volume that is full."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import requests

from tests.k8s.cluster import Cluster
from tests.k8s.container import in_bytes
from tests.k8s.load import Load, Tally
from tests.k8s.rendering import K8S, kustomized
from tests.k8s.scenarios.common import (
    ENCODE,
    SEARCH,
    documents,
    index_and_find,
    post,
    report,
    running,
    stored,
    unharmed,
)
from tests.waiting import wait_until

SIZE = 48 * 2**20
"""Bytes of the volume that gets full."""


def memory(folder: Path) -> None:
    """`overlays/dev`: a pod whose memory runs out is started again, and the others go on."""
    with running(kustomized(K8S / "overlays" / "dev"), folder) as cluster:
        index_and_find(range(6))
        cluster.scale("text", 2)
        run_out(cluster)
        too_small(cluster)


def run_out(cluster: Cluster) -> None:
    """Something else takes what a text encoder may have: the kernel kills the encoder."""
    began = time.monotonic()
    pod = cluster.of("text")[0]
    assert pod.memory, "no memory is limited here"
    assert pod.container
    # The kubelet, too, has the kernel choose containers first.
    Path(f"/proc/{pod.container.pid}/oom_score_adj").write_text("999")
    limit = in_bytes(pod.template["spec"]["containers"][0]["resources"]["limits"]["memory"])
    hog = (
        "import pathlib, time\n"
        f"pathlib.Path('{pod.memory.folder}/cgroup.procs').write_text('0')\n"
        f"held = bytearray({limit - 2**26})\n"
        "for place in range(0, len(held), 4096): held[place] = 1\n"
        "time.sleep(60)\n"
    )
    with Load("search", "/encode", ENCODE) as tally:
        process = subprocess.Popen([sys.executable, "-c", hog])
        wait_until(lambda: pod.restarts, 120)
        process.kill()
        process.wait()
        cluster.wait_for(pod)
        time.sleep(1)
    unharmed("memory of a pod runs out", tally, began, restarts=pod.restarts)
    assert any(f"{pod.name}: ended with status 137 (OOMKilled)" in one for one in cluster.events)
    assert not any(other.restarts for other in cluster.pods if other is not pod)


def too_small(cluster: Cluster) -> None:
    """A limit that the model doesn't fit in: new pods are killed, and the old ones stay."""
    began = time.monotonic()
    workload = cluster.workload("text")
    limits = workload["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    usual, limits["memory"] = limits["memory"], "256Mi"
    with Load("search", "/encode", ENCODE) as tally:
        [pod] = cluster.start("text")
        wait_until(lambda: pod.restarts >= 2, 120)
        was_ready = pod.is_ready
        cluster.remove([pod])
    limits["memory"] = usual
    unharmed("a limit that is too small", tally, began, restarts=pod.restarts)
    assert not was_ready
    assert f"{pod.name}: ended with status 137 (OOMKilled)" in cluster.events


def volume(folder: Path) -> None:
    """`overlays/dev`: the index' volume gets full. Writes are refused until there is room again."""
    data = folder / "volumes" / "indexer-0" / "data"
    data.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(data)], check=True)
    with running(kustomized(K8S / "overlays" / "dev"), folder) as cluster:
        try:
            fill(cluster, data)
        finally:
            cluster.stop()
            subprocess.run(["umount", str(data)], check=True)


def fill(cluster: Cluster, data: Path) -> None:
    """Fill the volume, make room, and restart the index: what was acknowledged is there."""
    began, tally = time.monotonic(), Tally(index_and_find(range(6)))
    acknowledged = {str(i) for i in range(6)}
    # All but little of the volume is somebody else's.
    filler = data / "filler"
    with filler.open("wb") as file:
        while _free(data) > 512 * 1024:
            file.write(bytes(256 * 1024))
            file.flush()
    refused = list[str]()
    for number in range(100, 1000):
        answer = requests.post(f"{SEARCH}/index", json={"data": documents([number])}, timeout=60)
        tally.answered += 1
        if answer.status_code == 200:
            acknowledged.add(str(number))
        else:
            refused.append(f"{answer.status_code} {answer.text}")
            if len(refused) == 5:
                break
    found = post("/search", [{"text": "t1"}], parameters={"limit": 100})["data"][0]["matches"]
    there = stored(sorted(acknowledged))
    report("a full volume", tally, began, refused=refused[:1], found=len(found))
    assert len(refused) == 5, "the volume got never full"
    assert all("no space left" in one.lower() or "full" in one.lower() for one in refused), refused
    assert all(one.startswith(("503", "507")) for one in refused), refused
    assert str(data) not in " ".join(refused)
    assert there == acknowledged
    assert len(found) == len(acknowledged)
    began, tally = time.monotonic(), Tally()
    filler.unlink()
    tally.answered += index_and_find(range(2000, 2006))
    acknowledged |= {str(i) for i in range(2000, 2006)}
    [indexer] = cluster.of("indexer")
    assert indexer.restarts == 0
    indexer.kill()
    wait_until(lambda: not indexer.is_ready)
    cluster.wait_for(indexer)
    wait_until(lambda: requests.get(f"{SEARCH}/readyz", timeout=10).status_code == 200)
    lost = acknowledged - stored(sorted(acknowledged))
    tally.answered += index_and_find(range(3000, 3003))
    report("room again", tally, began, acknowledged=len(acknowledged), lost=len(lost))
    assert not lost


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
