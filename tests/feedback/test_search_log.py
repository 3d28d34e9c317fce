"""A log of searches on a disk: what is written, kept, dropped, removed, and by whom it is read."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from cliptune.errors import BadData, BadInput, NotFound
from cliptune.feedback import folder as folder_module
from cliptune.feedback import log as log_module
from cliptune.feedback.folder import LogFolder
from cliptune.feedback.log import SearchLog
from cliptune.feedback.records import (
    EVENTS,
    GRADE,
    Asked,
    Feedback,
    Record,
    Search,
    Shown,
    from_line,
    to_line,
)

DAY = date(2026, 11, 29)
PAGE = Path(__file__).parents[2] / "docs" / "search-log.md"


def search(identity: str, text: str | None = "red boots", shown: str = "abc") -> Search:
    return Search(
        id=identity,
        at=datetime(2026, 11, 29, tzinfo=UTC),
        model="d" * 64,
        query=[Asked(text=text) if text else Asked(picture=True)],
        parameters={"filter": {"price": {"$lt": 30}}},
        shown=[Shown(rank=i, id=one, score=0.3) for i, one in enumerate(shown, 1)],
    )


def feedback(identity: str, *ids: str) -> Feedback:
    at = datetime(2026, 11, 29, tzinfo=UTC)
    return Feedback(search=identity, at=at, event="click", ids=list(ids))


def written(path: Path, *records: Record, day: date = DAY) -> LogFolder:
    log = LogFolder(path)
    log.append(b"".join(map(to_line, records)), day)
    return log


def test_lines_are_json_that_can_be_read_again() -> None:
    for record in (search("1"), search("2", None), feedback("1", "a", "b")):
        line = to_line(record)
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert json.loads(line)["format"] == 1
        assert from_line(line) == record
    later = {**json.loads(to_line(search("1"))), "a field of later": 1}
    assert from_line(json.dumps(later).encode()) == search("1")
    with pytest.raises(BadData, match=r"format 2 is newer than this cliptune reads \(1\)"):
        from_line(json.dumps({**later, "format": 2}).encode())
    assert [GRADE[event] for event in EVENTS] == [1, 2, 3]


def test_the_page_names_every_field() -> None:
    page = PAGE.read_text("utf-8")
    for kind in (Search, Feedback, Asked, Shown):
        assert not [name for name in kind.model_fields if f"`{name}`" not in page], kind


def test_files_are_of_a_day_and_of_a_size_and_their_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "MAX_FILE", 600)
    for number in range(4):
        log = written(tmp_path / "log", search(str(number)))
    written(tmp_path / "log", feedback("3", "a"), day=DAY + timedelta(days=1))
    names = [path.name for path in log.files()]
    assert names == [
        "searches-2026-11-29-000.jsonl",
        "searches-2026-11-29-001.jsonl",
        "searches-2026-11-30-000.jsonl",
    ]
    assert {path.stat().st_mode & 0o777 for path in log.files()} == {0o600}
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o700
    told = [one.id if isinstance(one, Search) else one.search for one in log.records()]
    assert told == ["0", "1", "2", "3", "3"]
    with pytest.raises(NotFound, match="no folder of recorded searches at"):
        list(LogFolder(tmp_path / "none").records())
    with pytest.raises(NotFound):
        LogFolder(tmp_path / "none").delete(lambda _: True)
    assert not (tmp_path / "none").exists()


def test_what_was_cut_off_is_left_out_and_nothing_else(tmp_path: Path) -> None:
    log = written(tmp_path, search("1"), search("2"))
    [path] = log.files()
    os.truncate(path, path.stat().st_size - 20)  # as a crash does
    log.append(to_line(search("3")), DAY)
    assert [one.id for one in log.records() if isinstance(one, Search)] == ["1", "3"]
    assert log.damaged == 1
    assert (deleted := log.delete(lambda one: one == search("1"))).lines == 1
    assert deleted.damaged == 1
    assert list(log.records()) == [search("3")]
    assert log.damaged == 0


def test_old_days_go_and_others_files_stay(tmp_path: Path) -> None:
    for days in (0, 1, 2, 3):
        log = written(tmp_path, search(str(days)), day=DAY - timedelta(days=days))
    (tmp_path / "searches-of-mine.jsonl").write_text("mine")
    assert log.expire(2, DAY) == ["searches-2026-11-26-000.jsonl"]
    assert len(log.files()) == 3
    assert log.delete(lambda _: True).lines == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "searches-of-mine.jsonl"]


def test_many_threads_and_two_servers_write_whole_lines(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()

    def count(outcome: str, lines: int) -> None:
        counts[outcome] += lines

    logs = [SearchLog(tmp_path, 90, count, pause=0.01) for _ in range(2)]

    def work(number: int) -> None:
        for one in range(50):
            assert logs[number % 2].record(search(f"{number}-{one}", shown="abcdefghij"))

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    LogFolder(tmp_path).delete(lambda _: False)  # takes its turn
    for thread in threads:
        thread.join()
    for log in logs:
        log.close()
    told = [one.id for one in LogFolder(tmp_path).records() if isinstance(one, Search)]
    assert sorted(told) == sorted(f"{number}-{one}" for number in range(8) for one in range(50))
    assert counts == {"written": 400}


def test_a_full_queue_drops_and_a_full_disk_fails_and_both_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    counts: Counter[str] = Counter()

    def count(outcome: str, lines: int) -> None:
        counts[outcome] += lines

    line = len(to_line(search("1")))
    log = SearchLog(tmp_path, 90, count, max_queued=3 * line, pause=3600)
    assert [log.record(search(str(number))) for number in range(5)] == [True] * 3 + [False] * 2
    assert counts == {"dropped": 2}

    with monkeypatch.context() as patch:
        free = shutil.disk_usage(tmp_path).free
        patch.setattr(log_module, "KEPT_FREE", free + 2**30)
        log._write()
    assert "less than 1 GiB would stay free" in caplog.text
    assert counts == {"dropped": 2, "failed": 3}
    assert log.record(search("6"))  # there is room again
    log.close()
    assert counts == {"dropped": 2, "failed": 3, "written": 1}
    assert list(LogFolder(tmp_path).records()) == [search("6")]


def test_a_folder_that_can_t_be_written_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"CLIPTUNE_RECORD_SEARCHES: nothing can be written into"):
        SearchLog(tmp_path / "file" / "log", 90, lambda *_: None)
