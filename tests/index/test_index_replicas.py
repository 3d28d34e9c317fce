"""Several processes over one folder: what one of them writes, the others find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cliptune.errors import Unavailable
from cliptune.index import open_index
from tests.index.index_helpers import DIGEST, OTHER_DIGEST, doc, docs, vector

OPTIONS = {"fsync": False, "ann_threshold": 300}

REPLICA = """
import json, sys
from tests.index.index_helpers import vector
from cliptune.index import open_index

index = open_index(sys.argv[1], fsync=False, ann_threshold=300)
print(flush=True)
for line in sys.stdin:
    seed, digest, filter = json.loads(line)
    [matches] = index.search(vector(seed)[None], digest, limit=5, filter=filter)
    status = index.status()
    print(json.dumps([[m.id for m in matches], index.count(filter), status.state]), flush=True)
"""


class Replica:
    """A process that reads the folder."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", REPLICA, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def ask(self, seed: int, digest: str = DIGEST, filter: str | None = None) -> list[Any]:
        """(ids found, count, state)"""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([seed, digest, filter]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    started = Replica(tmp_path)
    yield started
    started.process.kill()
    started.process.communicate()


@pytest.mark.e2e
def test_a_replica_sees_every_write_at_once(tmp_path: Path, replica: Replica) -> None:
    assert replica.ask(1) == [[], 0, "flat"]
    with open_index(tmp_path, **OPTIONS) as index:
        index.add(docs(*(doc(f"d{n}", seed=n, tags={"n": n}) for n in range(400))))
        assert replica.ask(7)[0][0] == "d7"
        index.add(docs(doc("d7", seed=1007, tags={"n": -7})))
        assert replica.ask(1007, filter="n < 0") == [["d7"], 1, "flat"]
        index.delete(ids=["d7"])
        assert replica.ask(1007, filter="n < 0") == [[], 0, "flat"]
        index.optimize()
        found, count, state = replica.ask(8)
        assert (found[0], count, state) == ("d8", 399, "ready")
        index.add(docs(doc("new", seed=5000)))
        assert replica.ask(5000)[0][0] == "new"
        index.clear()
        assert replica.ask(8) == [[], 0, "flat"]
        index.add(docs(doc("other", seed=9, model_digest=OTHER_DIGEST)))
        assert replica.ask(9, OTHER_DIGEST)[0] == ["other"]


@pytest.mark.e2e
def test_a_replica_reads_on_while_the_folder_is_compacted_and_built_anew(
    tmp_path: Path, replica: Replica
) -> None:
    done = threading.Event()
    with open_index(tmp_path, max_segments=1, **OPTIONS) as index:
        index.add(docs(*(doc(f"d{n}", seed=n) for n in range(400))))

        def work() -> None:
            for n in range(8):
                index.add(docs(doc(f"d{n}", seed=1000 + n)))
                index.optimize()
            done.set()

        thread = threading.Thread(target=work)
        thread.start()
        asked = 0
        while not done.is_set():
            found, count, _ = replica.ask(100 + asked % 300)
            assert (found[0], count) == (f"d{100 + asked % 300}", 400)
            asked += 1
        thread.join()
        assert asked > 8
        assert [replica.ask(1000 + n)[0][0] for n in range(8)] == [f"d{n}" for n in range(8)]


def test_a_folder_that_cannot_be_written_to_is_searched(
    tmp_path: Path, mount_disk: Callable[[Path, str], None]
) -> None:
    disk = tmp_path / "disk"
    mount_disk(disk, "16m")
    with open_index(disk / "index", **OPTIONS) as index:
        index.add(docs(*(doc(f"d{n}", seed=n) for n in range(400))))
        index.optimize()
    mount_disk(disk, "16m,ro")
    with open_index(disk / "index", **OPTIONS) as index:
        [[first]] = index.search(vector(7)[None], DIGEST, limit=1)
        assert (first.id, index.get(["d9"])[0].id) == ("d7", "d9")
        assert (index.status().rows, index.status().state) == (400, "ready")
        with pytest.raises(Unavailable, match=r"write\.lock: can't be opened for writing"):
            index.add(docs(doc("new")))
        with pytest.raises(Unavailable, match=r"optimize\.lock: can't be opened for writing"):
            index.optimize()
