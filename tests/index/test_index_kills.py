"""The embedded store against kill -9 and a full disk: what was acknowledged is there, whole."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from cliptune.documents import ClipDoc
from cliptune.errors import Unavailable
from cliptune.index import Index, open_index
from tests.forking import fork_server
from tests.index.index_helpers import DIGEST, doc, docs, vector

KILLS = 100
AHEAD = 3
"""Writers that get ready meanwhile."""
OPTIONS = {"ann_threshold": 300}


def written(id: str, version: int) -> ClipDoc:
    """A document whose every part tells its id and version."""
    seed = int.from_bytes(hashlib.sha256(f"{id} {version}".encode()).digest()[:4], "big")
    return doc(
        id, seed=seed, text=f"{id} {version}", tags={"v": version}, image=b"%d" % version * 500
    )


def write_until_killed(folder: Path, turn: int, acknowledge: Connection) -> None:
    """Wait to be told, then add, replace and delete; say after each call that it has returned."""
    import lancedb  # noqa: F401  (what takes longest, so before it waits)

    acknowledge.recv()
    index = open_index(folder, **OPTIONS)

    def tidy() -> None:
        while True:
            index.optimize()

    threading.Thread(target=tidy, daemon=True).start()
    acknowledge.send("ready")
    draw = random.Random(turn)
    for number in range(10_000):
        version = turn * 10_000 + number
        ids = draw.sample([f"d{n}" for n in range(400)], draw.choice([1, 7, 40]))
        acknowledge.send(("begin", ids, version))
        if number % 5 == 4:
            index.delete(ids=ids)
            acknowledge.send(("deleted", ids, version))
        else:
            index.add(docs(*(written(one, version) for one in ids)))
            acknowledge.send(("written", ids, version))


@pytest.fixture
def forks() -> Iterator[ForkServerContext]:
    # What takes longest of importing LanceDB, and starts no threads of its own.
    with fork_server("tests.index.test_index_kills", "pandas", "lance_namespace") as context:
        yield context


@pytest.mark.e2e
@pytest.mark.timeout(1800)
def test_what_was_acknowledged_survives_100_kills(
    memory_path: Path, forks: ForkServerContext
) -> None:
    draw = random.Random(os.urandom(8))
    expected: dict[str, int] = {}  # the version of each id
    cut_short = 0

    def start(turn: int) -> tuple[BaseProcess, Connection]:
        ours, theirs = forks.Pipe()
        writer = forks.Process(
            target=write_until_killed, args=(memory_path, turn, theirs), daemon=True
        )
        writer.start()
        theirs.close()
        return writer, ours

    started = deque(start(turn) for turn in range(1, AHEAD + 1))
    for turn in range(1, KILLS + 1):
        writer, ours = started.popleft()
        if turn + AHEAD <= KILLS:
            started.append(start(turn + AHEAD))
        ours.send("go")
        assert ours.recv() == "ready"
        time.sleep(draw.uniform(0, 0.4))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        unsure: tuple[list[str], int] | None = None
        try:
            while True:
                said, ids, version = ours.recv()
                unsure = (ids, version) if said == "begin" else None
                if said == "written":
                    expected |= dict.fromkeys(ids, version)
                elif said == "deleted":
                    for one in ids:
                        expected.pop(one, None)
        except EOFError:
            pass
        cut_short += unsure is not None
        with open_index(memory_path, **OPTIONS) as index:
            expected = check(index, expected, unsure)
    assert cut_short > KILLS / 4, "the kills should hit writes"


def check(
    index: Index, expected: dict[str, int], unsure: tuple[list[str], int] | None
) -> dict[str, int]:
    """Compare with what was acknowledged; the call cut short has happened as a whole or not."""
    found = [
        one for batch in index.scan(include_embedding=True, include_image=True) for one in batch
    ]
    assert len({one.id for one in found}) == len(found) == index.count()
    for one in found:
        whole = written(str(one.id), one.tags["v"])
        assert (one.text, one.tags, one.image) == (whole.text, whole.tags, whole.image)
        np.testing.assert_array_equal(one.embedding, whole.embedding)
    versions = {str(one.id): one.tags["v"] for one in found}
    possible = [expected]
    if unsure:
        ids, version = unsure
        left = {one: v for one, v in expected.items() if one not in ids}
        possible += [left, left | dict.fromkeys(ids, version)]
    assert versions in possible
    if found:
        [matches] = index.search(vector(0)[None], DIGEST, limit=1000)
        assert {match.id for match in matches} == versions.keys()
        assert len(matches) == len(versions)
    return versions


@pytest.mark.e2e
def test_a_full_disk_is_told_and_reads_go_on(
    tmp_path: Path, mount_disk: Callable[[Path, str], None]
) -> None:
    folder = tmp_path / "disk"
    mount_disk(folder, "8m")
    with open_index(folder / "index", **OPTIONS) as index:
        index.add(docs(*(doc(f"d{n}") for n in range(400))))
        kept = 400

        def fill() -> None:
            nonlocal kept
            for n in range(1000):
                index.add(docs(doc(f"big{n}", image=os.urandom(500_000))))
                kept += 1

        with pytest.raises(Unavailable, match="the disk is full"):
            fill()
        assert index.count() == kept
        assert len(index.search(vector(3)[None], DIGEST, limit=1000)[0]) == kept
        assert index.get(["d7"])[0].id == "d7"
        with pytest.raises(Unavailable, match="the disk is full"):
            index.optimize()
        mount_disk(folder, "64m")
        index.add(docs(doc("later", image=os.urandom(500_000))))
        index.optimize()
        assert index.count() == kept + 1
    with open_index(folder / "index", **OPTIONS) as index:
        assert index.count() == kept + 1
