"""The embedded store's own promises: its folder, its lock, its ANN index, its survival."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lancedb
import numpy as np
import pytest
from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.errors import BadInput, DamagedIndex, Unavailable
from cliptune.index import Index, open_index
from cliptune.index.durable import file_lock
from cliptune.index.lance.folder import table_names
from cliptune.index.metadata import Stamp
from tests.index.index_helpers import DIGEST, DIM, OTHER_DIGEST, cosine, doc, docs, vector


def test_uris_that_are_folders_and_that_are_not(tmp_path: Path) -> None:
    with open_index(f"file://{tmp_path}/a") as index:
        index.add(docs(doc("one")))
    with open_index(str(tmp_path / "a")) as index:
        assert index.count() == 1
    for uri in ("http://localhost:19530", "HTTPS://milvus"):
        with pytest.raises(BadInput, match="the name of a collection"):
            open_index(uri)
    for uri in ("s3://bucket/x", "", "  ", "a\0b"):
        with pytest.raises(BadInput, match="folder's path"):
            open_index(uri)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="this is a file"):
        open_index(tmp_path / "file")
    with pytest.raises(BadInput, match=r"colour.*store_images"):
        open_index(tmp_path / "b", colour="red")
    with pytest.raises(BadInput, match="max_segments.*0"):
        open_index(tmp_path / "b", max_segments=0)


def test_stamps_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with open_index(tmp_path) as index:
        index.add(docs(doc("one")))
    path = tmp_path / "cliptune-index.json"
    stamp = json.loads(path.read_text())
    assert (stamp["version"], stamp["model_digest"], stamp["dim"]) == (1, DIGEST, DIM)
    for content, problem in [
        (json.dumps({**stamp, "version": 3, "created_by": "cliptune 9"}), "cliptune 9.*Upgrade"),
        ("{", "not the stamp"),
        ("[]", "not the stamp"),
        ('{"version": 1}', "lacks"),
        (json.dumps({**stamp, "table": "../../x"}), "unusable"),
        (json.dumps({**stamp, "dim": "8"}), "unusable"),
        ("\ud800".encode("utf-8", "surrogatepass"), "can't be read"),
    ]:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(DamagedIndex if "Upgrade" not in problem else BadInput, match=problem):
            open_index(tmp_path)
    path.write_text(json.dumps({**stamp, "table": "documents-000000000000"}))
    with open_index(tmp_path) as index, pytest.raises(Unavailable, match="can't be opened"):
        index.count()
    path.write_text(json.dumps(stamp))
    with open_index(tmp_path) as index:
        assert index.count() == 1


def test_a_first_write_that_was_cut_short_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with open_index(tmp_path) as index:
        with monkeypatch.context() as patch:
            patch.setattr(Stamp, "write", die)
            with pytest.raises(KeyboardInterrupt):
                index.add(docs(doc("lost")))
        assert index.count() == 0
        index.add(docs(doc("b", embedding=vector(1, 3), model_digest=OTHER_DIGEST)))
        assert [one.id for one in index.get(["lost", "b"])] == ["b"]
        assert len(list(tmp_path.glob("*.lance"))) == 1
        index.clear()
        assert not list(tmp_path.glob("*.lance"))


def test_writes_are_flushed_to_disk_before_they_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: set[Path] = set()
    fsync = os.fsync

    def watch(handle: int) -> None:
        flushed.add(Path(os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watch)
    with open_index(tmp_path) as index:
        known: set[Path] = set()
        for write in (
            lambda: index.add(docs(doc("one"), doc("two"))),
            lambda: index.add(docs(doc("two"), doc("three"))),
            lambda: index.delete(ids=["one"]),
            index.optimize,
        ):
            write()
            files = {path for path in tmp_path.rglob("*") if path.is_file()}
            new = {path for path in files - known if not path.name.endswith(".lock")}
            # The stamp is flushed under its temporary name.
            assert {path for path in new if path.suffix != ".json"} <= flushed
            assert {path.parent for path in new} <= flushed
            known = files


def test_a_writer_waits_for_its_turn_and_then_says_so(tmp_path: Path) -> None:
    with open_index(tmp_path, lock_timeout=0.05) as hasty, open_index(tmp_path) as patient:
        hasty.add(docs(doc("one")))
        with file_lock(tmp_path / ".write.lock", 1):
            with pytest.raises(Unavailable, match="writing"):
                hasty.add(docs(doc("two")))
            assert hasty.count() == 1  # reading goes on
            thread = threading.Thread(target=lambda: patient.add(docs(doc("two"))))
            thread.start()
            time.sleep(0.1)
            assert hasty.count() == 1
        thread.join(10)
        assert hasty.count() == 2


def _count_in_child(index: Index, results: multiprocessing.Queue) -> None:
    try:
        results.put(index.count())
    except BadInput as error:
        results.put(str(error))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_an_index_carried_through_a_fork_refuses_to_hang(tmp_path: Path) -> None:
    with open_index(tmp_path) as index:
        index.add(docs(doc("one")))
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        child = context.Process(target=_count_in_child, args=(index, results), daemon=True)
        child.start()
        assert "forked" in results.get(timeout=20)
        child.join(20)


@pytest.mark.e2e
def test_importing_starts_nothing() -> None:
    code = (
        "import sys, threading, cliptune.index, cliptune.index.lance.store;"
        "print('lancedb' in sys.modules, 'jina' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


def test_status_says_when_optimizing_is_due(tmp_path: Path) -> None:
    with open_index(tmp_path, ann_threshold=300, max_fragments=5, fsync=False) as index:
        index.add(docs(*(doc(f"d{n}") for n in range(200))))
        assert (index.status().state, index.status().optimize_due) == ("flat", False)
        assert index.optimize().state == "flat"
        index.add(docs(*(doc(f"d{n}") for n in range(200, 400))))
        assert (index.status().unindexed_rows, index.status().optimize_due) == (400, True)
        status = index.optimize()
        assert (status.state, status.unindexed_rows, status.optimize_due) == ("ready", 0, False)
        index.add(docs(*(doc(f"d{n}") for n in range(390, 480))))
        assert (index.status().unindexed_rows, index.status().optimize_due) == (90, False)
        for n in range(5):
            index.add(docs(doc(f"e{n}")))
        assert index.status().optimize_due  # many small files
        assert not index.optimize().optimize_due
        segments = []
        for n in range(8):
            index.add(docs(doc(f"e{n}")))
            index.optimize()
            segments.append(_segments(tmp_path))
        # Built anew now and then, else searches slow down.
        assert 1 < max(segments) <= 6
        with file_lock(tmp_path / ".optimize.lock", 0):
            assert index.status().state == "building"
            assert index.optimize().state == "building"  # someone else is at it
        assert json.loads(json.dumps(index.status().to_dict()))["rows"] == 488


def test_writes_and_searches_go_on_while_it_optimizes(tmp_path: Path) -> None:
    errors: list[Exception] = []
    done = threading.Event()
    with open_index(tmp_path, ann_threshold=300, fsync=False, max_fragments=2) as index:
        index.add(docs(*(doc(f"d{n}", tags={"n": n}) for n in range(400))))

        def optimize() -> None:
            try:
                while not done.is_set():
                    index.optimize()
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=optimize)
        thread.start()
        try:
            for n in range(40):
                index.add(docs(doc(f"d{n}", tags={"n": -1}), doc(f"e{n}")))
                assert index.delete(ids=[f"d{399 - n}"]) == 1
                [[first]] = index.search(doc(f"e{n}").embedding[None], DIGEST, limit=1)
                assert first.id == f"e{n}"
                assert index.count("n == -1") == n + 1
        finally:
            done.set()
            thread.join(60)
        assert not errors
        assert index.count() == 400
        index.clear()
        assert index.optimize().rows == 0


ADDER = """
import sys
from tests.index.index_helpers import doc, docs
from cliptune.index import open_index

index = open_index(sys.argv[1], fsync=False)
print(flush=True)
sys.stdin.readline()
for n in range(25):
    index.add(docs(doc(f"both-{n}", text=sys.argv[2]), doc(f"{sys.argv[2]}-{n}")))
"""


@pytest.mark.e2e
def test_processes_that_write_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", ADDER, str(tmp_path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for name in ("one", "two")
    ]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()  # until both are ready
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
    assert [writer.returncode for writer in writers] == [0, 0]
    with open_index(tmp_path) as index:
        assert index.count() == 75
        matches = index.search(vector(0)[None], DIGEST, limit=1000)[0]
        assert len({one.id for one in matches}) == 75


def _segments(folder: Path) -> int:
    [table] = folder.glob("*.lance")
    indices = lancedb.connect(folder).open_table(table.stem).list_indices()
    return next(one.num_segments for one in indices if one.columns == ["embedding"])


def clustered(rng: np.random.Generator, n: int, dim: int, centres: np.ndarray) -> np.ndarray:
    near = centres[rng.integers(0, len(centres), n)]
    return (near + 0.9 * rng.standard_normal((n, dim))).astype(np.float32)


@pytest.mark.e2e
def test_the_ann_index_finds_what_brute_force_finds(tmp_path: Path) -> None:
    n, dim = 30_000, 64
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((600, dim))
    embeddings = clustered(rng, n, dim, centres)
    queries = clustered(rng, 100, dim, centres)
    with open_index(tmp_path, fsync=False) as index:

        def add(numbers: range) -> None:
            index.add(
                DocList[ClipDoc](
                    ClipDoc(
                        id=f"d{i}",
                        embedding=embeddings[i],
                        model_digest=DIGEST,
                        tags={"rare": i % 1000, "some": i % 20, "most": i % 10},
                    )
                    for i in numbers
                )
            )

        def recall(keep: Callable[[np.ndarray], np.ndarray], filter: str | None) -> float:
            allowed = np.flatnonzero(keep(np.arange(n)))
            scores = cosine(queries, embeddings[allowed])
            best = allowed[np.argsort(-scores, axis=1)[:, :10]]
            found = index.search(queries, DIGEST, limit=10, filter=filter)
            for matches, row in zip(found, best, strict=True):
                assert len(matches) == len(row)
            hits = [
                len({f"d{i}" for i in row} & {one.id for one in matches})
                for matches, row in zip(found, best, strict=True)
            ]
            return sum(hits) / best.size

        for start in range(0, n, 6000):
            add(range(start, start + 6000))
        assert recall(lambda i: i >= 0, None) == 1  # exact before the index is built
        status = index.optimize()
        assert (status.state, status.unindexed_rows) == ("ready", 0)
        filters = [
            (lambda i: i >= 0, None),
            (lambda i: i % 1000 == 7, "rare == 7"),
            (lambda i: i % 20 < 3, "some < 3"),
            (lambda i: i % 10 != 0, "most != 0"),
        ]
        for keep, filter in filters:
            assert recall(keep, filter) >= 0.95, filter
        # Replaced documents are found at their new place at once, and after the next optimize.
        embeddings[:3000] = clustered(rng, 3000, dim, centres)
        add(range(3000))
        assert index.status().unindexed_rows == 3000
        for keep, filter in filters:
            assert recall(keep, filter) >= 0.95, filter
        assert index.optimize().unindexed_rows == 0
        for keep, filter in filters:
            assert recall(keep, filter) >= 0.95, filter
        gone = {f"d{i}" for i in range(0, n, 2)}
        assert index.delete(ids=gone) == n // 2
        assert recall(lambda i: i % 2 == 1, None) >= 0.95


def test_a_scan_sees_one_moment(tmp_path: Path) -> None:
    index = open_index(tmp_path / "index", fsync=False)
    index.add(docs(*(doc(f"d{n}") for n in range(9))))
    scan = index.scan(batch_size=3)
    found = list(next(scan))
    index.delete(ids=["d8"])
    index.add(docs(doc("d7", text="changed"), doc("d5a")))
    index.optimize()
    found += [one for batch in scan for one in batch]
    assert [(one.id, one.text) for one in found] == [(f"d{n}", None) for n in range(9)]


def test_an_index_of_an_earlier_version_gets_the_columns_that_it_lacks(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with open_index(folder, fsync=False) as index:
        index.add(docs(doc("old", image=b"picture")))
    [path] = folder.glob("documents-*.lance")
    lancedb.connect(folder).open_table(path.stem).drop_columns(["image_digest"])
    with open_index(folder, fsync=False) as index:
        assert index.get(["old"])[0].image_digest is None
        index.add(docs(doc("new", image=b"picture")))
        assert index.get(["new"])[0].image_digest is not None


def test_a_compaction_that_writes_always_outrun_gets_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between attempts
    with open_index(tmp_path, fsync=False, lock_timeout=0.05) as index:
        index.add(docs(doc("one")))
        index.add(docs(doc("two")))
        table = index._folder.open().table
        optimize, attempts = table.optimize, []

        def outrun(**options: object) -> object:
            try:
                index.add(docs(doc(f"more-{len(attempts)}")))
            except Unavailable:  # the write waits
                attempts.append("alone")
                return optimize(**options)
            attempts.append("outrun")
            raise RuntimeError("Retryable commit conflict: preempted")

        monkeypatch.setattr(table, "optimize", outrun)
        index.optimize()
        assert attempts[-2:] == ["outrun", "alone"]
        index.add(docs(doc("later")))
        assert index.count() == len(attempts) + 2


def test_tables_are_listed_while_others_are_removed(tmp_path: Path) -> None:
    lasting = tmp_path / "documents-000000000000.lance" / "_versions"
    lasting.mkdir(parents=True)
    (lasting / "1.manifest").touch()
    ended = threading.Event()

    def come_and_go(number: int) -> None:
        versions = tmp_path / f"documents-{number:012x}.lance" / "_versions"
        while not ended.is_set():
            versions.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(versions.parent)

    with ThreadPoolExecutor() as threads:
        for number in range(1, 5):
            threads.submit(come_and_go, number)
        try:
            for _ in range(1_500):
                assert table_names(tmp_path) == ["documents-000000000000"]
        finally:
            ended.set()
