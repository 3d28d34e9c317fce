"""The overlay for GPUs where there is none."""

from __future__ import annotations

import time
from pathlib import Path

from tests.k8s.load import Tally
from tests.k8s.rendering import K8S, kustomized
from tests.k8s.scenarios.common import admin_key, report, running
from tests.waiting import wait_until


def gpu(folder: Path) -> None:
    """`overlays/gpu` without one: pods wait for it, and never serve by the CPU in its place."""
    _, keys = admin_key()
    objects = [*kustomized(K8S / "overlays" / "gpu"), keys]
    with running(objects, folder, ("indexer",)) as cluster:
        began = time.monotonic()
        encoders = [*cluster.start("text"), *cluster.start("vision")]
        waiting = [*encoders, *cluster.start("trainer")]
        for pod in waiting:
            wait_until(lambda pod=pod: f"{pod.name}: Insufficient nvidia.com/gpu" in cluster.events)
        report("no GPU", Tally(), began, waiting=[pod.component for pod in waiting])
        # A node that promises one, whose driver doesn't work.
        began, cluster.gpus = time.monotonic(), True
        cluster.wait_for(*cluster.of("trainer"))  # its runs look for it
        for pod in encoders:
            wait_until(lambda pod=pod: pod.restarts, 120)
            assert not pod.is_ready
            assert f"{pod.name}: ended with status 1" in cluster.events
        told = "can't start: device 'cuda' is not on this machine"
        last = {pod.component: _telling(pod.log, told) for pod in encoders}
        report("a GPU that doesn't work", Tally(), began, last=last)


def _telling(log: Path, words: str) -> str:
    [*_, last] = [line for line in log.read_text().splitlines() if words in line] or [""]
    assert last, log.read_text()[-2000:]
    return last
