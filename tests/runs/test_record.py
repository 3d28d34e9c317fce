"""Records: whole or not at all, and one writer at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cliptune import runs
from cliptune.documents import ClipDoc
from cliptune.errors import AlreadyExists, BadData, BadInput, NotFound
from cliptune.names import RUN
from cliptune.runs.experiments import make_name
from cliptune.runs.liveness import ProcessMark
from cliptune.runs.record import Record, Status, read_record, update_record, write_record


def new_record(**values: object) -> Record:
    return Record(name="r", experiment="e", config={"a": [1]}, created="now", **values)  # type: ignore[arg-type]


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    record = new_record(
        status=Status.FAILED, details="é", process=ProcessMark.of(os.getpid()), starts=2
    )
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record


def test_fields_of_a_later_version_are_kept(tmp_path: Path) -> None:
    write_record(tmp_path, new_record())
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "red"}))
    update_record(tmp_path, lambda _: {"details": "x"})
    assert json.loads(path.read_text())["colour"] == "red"
    assert json.loads(path.read_text())["details"] == "x"


WRITER = """
import sys
from pathlib import Path
from cliptune.runs.record import update_record
for _ in range(100):
    update_record(Path(sys.argv[1]), lambda r: {'starts': r.starts + 1, 'details': 'x' * 50_000})
"""


def test_no_change_is_lost_and_no_half_record_is_seen(tmp_path: Path) -> None:
    write_record(tmp_path, new_record())
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) for _ in range(2)]
    while any(writer.poll() is None for writer in writers):
        assert read_record(tmp_path).details in ("", "x" * 50_000)  # raises on half a file
    assert read_record(tmp_path).starts == 200


def test_a_writer_that_is_killed_leaves_no_lock(tmp_path: Path) -> None:
    write_record(tmp_path, new_record())
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from cliptune.runs.record import update_record\n"
        "update_record(Path(sys.argv[1]), lambda r: os.kill(os.getpid(), signal.SIGKILL))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    assert update_record(tmp_path, lambda _: {"details": "free"}).details == "free"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../up", "-x", ".hidden", "a b", "ä", "x" * 101]
)
def test_names_that_are_no_folder_names_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match="run name"):
        RUN.check(name)
    with pytest.raises(BadInput):
        runs.create_run({}, {}, run_name=name)


def test_made_up_names_are_allowed_and_differ() -> None:
    names = {make_name() for _ in range(50)}
    assert len(names) > 45
    assert all(RUN.check(name).count("-") == 2 for name in names)


def test_a_name_in_use_is_refused() -> None:
    runs.create_run({}, {}, run_name="tidy")
    with pytest.raises(AlreadyExists, match="'tidy'"):
        runs.create_run({}, {}, run_name="tidy")
    runs.create_run({}, {}, run_name="tidy", experiment_name="other")


CREATOR = """
import sys, time
from pathlib import Path
from cliptune import runs
from cliptune.documents import ClipDoc
from cliptune.errors import AlreadyExists
from docarray import DocList
docs = DocList[ClipDoc]([ClipDoc(text=sys.argv[1], image=b'x' * 1000) for _ in range(600)])
print('ready', flush=True)
sys.stdin.readline()
try:
    runs.create_run({'who': sys.argv[1]}, {'train_data': docs}, run_name='same')
    print('won', flush=True)
except AlreadyExists:
    print('lost', flush=True)
"""


@pytest.mark.e2e
def test_one_of_several_at_once_gets_a_name() -> None:
    from cliptune.runs.documents import stored_documents

    creators = [
        subprocess.Popen(
            [sys.executable, "-c", CREATOR, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for creator in creators:
        assert creator.stdout is not None
        assert creator.stdout.readline() == "ready\n"
    results = []
    for creator in creators:
        assert creator.stdin is not None
        creator.stdin.write("go\n")
        creator.stdin.flush()
    for creator in creators:
        results.append(creator.communicate()[0].strip())
    assert sorted(results) == ["lost", "lost", "won"]
    run = runs.get_run("same")
    winner = results.index("won")
    assert run.config == {"who": str(winner)}
    docs = stored_documents(run.folder / "data" / "train_data", 600)
    assert {doc.text for doc in docs} == {str(winner)}
    assert [path.name for path in run.folder.parent.iterdir() if path.is_dir()] == ["same"]


def test_documents_are_kept_as_they_were_and_never_pickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle

    import numpy as np
    from docarray import DocList

    from cliptune.runs.documents import store_documents, stored_documents

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("pickled")

    for name in ("dumps", "dump", "loads", "load"):
        monkeypatch.setattr(pickle, name, forbidden)
    tags = {"price": 12.5, "n": 3, "colours": ["red", "blue"], "deep": {"ok": True, "none": None}}
    docs = DocList[ClipDoc](
        [
            ClipDoc(text=f"t{i}", image=bytes([i % 256, 0, 255]), label="l", tags=tags)
            for i in range(1000)
        ]
    )
    docs[0].embedding = np.arange(4, dtype=np.float32)
    docs[1].uri = "pictures/a.jpg"
    docs[2].uri = "data:image/png;base64,AAAA"
    monkeypatch.chdir(tmp_path)
    store_documents(docs, tmp_path / "stored")
    back = stored_documents(tmp_path / "stored", 1000)
    assert [doc.id for doc in back] == [doc.id for doc in docs]
    assert [doc.image for doc in back] == [doc.image for doc in docs]
    assert back[5].tags == tags
    assert back[0].embedding is not None
    assert back[0].embedding.tolist() == [0, 1, 2, 3]
    assert back[1].uri == str(tmp_path / "pictures/a.jpg")
    assert docs[1].uri == "pictures/a.jpg", "the user's own document must stay as it was"
    assert back[2].uri == docs[2].uri
    for part in (tmp_path / "stored").iterdir():
        # A pickle of protocol 2 and later begins with 0x80; DocArray's stream with its version.
        assert part.read_bytes()[0] == 2


def test_runs_are_found_listed_and_deleted() -> None:
    for number in range(5):
        runs.create_run({}, {}, run_name=f"r{number}")
    other = runs.create_run({}, {}, run_name="lone", experiment_name="second")
    assert [run.name for run in runs.list_runs("default", size=2)] == ["r4", "r3"]
    assert [run.name for run in runs.list_runs("default", page=3, size=2)] == ["r0"]
    assert len(runs.list_runs()) == 6
    assert runs.get_run("lone") == other
    with pytest.raises(NotFound, match="'r3'"):
        runs.get_run("r33")
    with pytest.raises(NotFound, match="'second'"):
        runs.get_run("lone", "secnd")
    with pytest.raises(NotFound):
        runs.get_run("../default/r1")
    with pytest.raises(BadInput, match="page is 0"):
        runs.list_runs(page=0)
    runs.delete_run("r1")
    assert [run.name for run in runs.list_runs("default")] == ["r4", "r3", "r2", "r0"]
    with pytest.raises(NotFound):
        runs.delete_run("r1")
    runs.delete_runs("default")
    assert runs.list_runs("default") == []
    assert [e.name for e in runs.list_experiments()] == ["default", "second"]
    runs.delete_experiment("second")
    with pytest.raises(NotFound):
        other.status()
    with pytest.raises(NotFound):
        runs.get_experiment("second")


def test_a_run_of_several_experiments_must_be_told_apart() -> None:
    for experiment in ("a", "b"):
        runs.create_run({}, {}, run_name="twin", experiment_name=experiment)
    with pytest.raises(BadInput, match="a, b"):
        runs.get_run("twin")
    in_default = runs.create_run({}, {}, run_name="twin")
    assert runs.get_run("twin") == in_default
    assert runs.get_run("twin", "b").experiment_name == "b"


def test_experiments_are_made_once() -> None:
    assert runs.create_experiment("spring").name == "spring"
    with pytest.raises(AlreadyExists, match="spring"):
        runs.create_experiment("spring")
    assert runs.get_experiment("spring").list_runs() == []


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"status": "GONE"}'])
def test_a_damaged_record_is_named_and_hides_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("CLIPTUNE_HOME", str(tmp_path))
    for name in ("one", "two"):
        runs.create_run({}, {}, name)
    (tmp_path / "runs" / "default" / "one" / "run.json").write_text(content)
    (tmp_path / "runs" / "default" / "experiment.json").write_text(content)
    assert [run.name for run in runs.list_runs()] == ["two"]
    assert [experiment.name for experiment in runs.list_experiments()] == ["default"]
    with pytest.raises(BadData, match=r"one/run\.json is damaged"):
        runs.get_run("one")
    runs.delete_runs()
    assert (tmp_path / "runs" / "default" / "one").is_dir(), "what can't be read isn't deleted"
