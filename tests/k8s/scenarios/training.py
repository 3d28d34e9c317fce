"""The train side: a model is trained through its Service, and the search side goes over to it."""

from __future__ import annotations

import time
from pathlib import Path

import requests

import cliptune
from cliptune.models.artifact import open_artifact
from tests.k8s.cluster import Cluster
from tests.k8s.load import Load, Tally
from tests.k8s.rendering import kustomized, own_overlay
from tests.k8s.scenarios.common import (
    ENCODE,
    SEARCH_SIDE,
    documents,
    index_and_find,
    post,
    report,
    running,
    unharmed,
)
from tests.waiting import wait_until

NEW = "/models/new.zip"


def train(folder: Path) -> None:
    """Both sides, with a volume of models: train, and swap to what was trained."""
    objects = kustomized(own_overlay(folder, "open", "shared-models"))
    parts = (*SEARCH_SIDE, "trainer", "train")
    with running(objects, folder, parts, most=1) as cluster:
        artifact = train_through_the_service(cluster, folder)
        swap(cluster, artifact)


def train_through_the_service(cluster: Cluster, folder: Path) -> Path:
    """Train a model as clients elsewhere do; returns its artifact."""
    began = time.monotonic()
    session = cliptune.connect("grpc://train:52000")
    run = session.fit(
        model="builtin",
        train_data=cliptune.pull("catalogue-eval")[:64],  # documents: they are sent along
        epochs=1,
        run_name="in-a-pod",
    )
    lines = list(run.stream_logs())
    assert run.status()["status"] == "FINISHED", "\n".join(lines)
    path = run.save_artifact(folder)
    assert [one.name for one in session.list_runs()] == ["in-a-pod"]
    log = requests.get("http://train:52001/logs", params={"name": run.name}, timeout=30)
    assert log.text.splitlines() == lines
    report("train", Tally(), began, lines=len(lines))
    # A pod that is replaced has the runs of the one before.
    began = time.monotonic()
    for name in ("trainer", "train"):
        cluster.roll_out(name)
    wait_until(lambda: requests.get("http://train:52001/readyz", timeout=10).status_code == 200)
    again = cliptune.connect("grpc://train:52000").get_run("in-a-pod")
    assert again.status()["status"] == "FINISHED"
    report("roll out the train side", Tally(), began)
    return path


def swap(cluster: Cluster, artifact: Path) -> None:
    """Go over to the artifact under load, as `k8s/README.md` says."""
    index_and_find(range(12))
    digest = open_artifact(artifact).digest
    before = digests(cluster)
    assert digest not in before
    [indexer] = cluster.of("indexer")
    indexer.execute("sh", "-c", f"cat > {NEW}", given=artifact.read_bytes())
    command = ("cliptune", "swap", "--index", "/data/index", "--artifact", NEW, "--force")
    for name, words, expected in (
        ("swap --prepare", (*command, "--prepare"), before),
        ("swap", command, {digest}),
    ):
        began = time.monotonic()
        query = {"data": [{"text": "t1 NUMBER"}], "parameters": {"limit": 3}}
        with (
            Load("search", "/encode", ENCODE) as encoding,
            Load("search", "/search", query) as tally,
        ):
            indexer.execute(*words)
            time.sleep(1)
        unharmed(name, tally, began, encoded=encoding.answered, encode_failures=encoding.failures)
        assert not encoding.failures
        assert digests(cluster) == expected
    began, tally = time.monotonic(), Tally(index_and_find(range(20, 26)))
    assert indexer.restarts == 0
    # Pods that start later serve the new model, too.
    cluster.roll_out("text")
    assert digests(cluster) == {digest}
    asked = [{"image": documents([3])[0]["image"]}]
    [found] = post("/search", asked, parameters={"limit": 1})["data"]
    assert found["matches"][0]["id"] == "3"
    report("index and search after the swap", tally, began)


def digests(cluster: Cluster) -> set[str]:
    """Of the models that answer: both towers'."""
    data = [{"text": "t1"}, {"image": documents([1])[0]["image"]}]
    return {one["model_digest"] for one in post("/encode", data)["data"]}
