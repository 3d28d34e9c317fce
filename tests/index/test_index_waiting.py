"""What is tried again, for how long, and what is said in the end."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cliptune.errors import Unavailable
from cliptune.index import open_index
from cliptune.index.durable import LockBusy, file_lock, is_locked
from cliptune.index.retries import wait_until
from cliptune.index.versions import locks
from tests.index.index_helpers import doc, docs


def test_a_condition_is_asked_until_it_holds_or_time_is_up() -> None:
    answers = iter([False, False, True, False])
    assert wait_until(lambda: next(answers), 5, every=0.001)
    assert next(answers) is False, "it was asked no more"
    asked: list[float] = []
    began = time.monotonic()
    assert not wait_until(lambda: bool(asked.append(time.monotonic())), 0.1, every=0.02)
    assert 0.1 <= time.monotonic() - began < 1
    assert len(asked) > 2
    asked.clear()
    assert not wait_until(lambda: bool(asked.append(0)), 0, every=10)
    assert len(asked) == 1


def test_an_error_of_the_question_ends_the_waiting() -> None:
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: bool(1 / 0), 10, every=10)


def test_a_write_that_always_conflicts_is_given_up_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with open_index(tmp_path, fsync=False) as index:
        index.add(docs(doc("one")))

        def conflict() -> None:
            raise RuntimeError("Retryable commit conflict: preempted")

        with pytest.raises(Unavailable, match="writing failed.*Retryable commit conflict"):
            index._folder.retry("writing", conflict)  # type: ignore[attr-defined]
        assert 5 < sum(pauses) < 6
        assert max(pauses) < 1.1

        def broken() -> None:
            raise RuntimeError("no space left on device")

        pauses.clear()
        with pytest.raises(Unavailable, match="the disk is full"):
            index._folder.retry("writing", broken)  # type: ignore[attr-defined]
        assert pauses == [], "it would fail again"


def test_a_busy_store_inside_a_switch_is_not_taken_for_writes_that_do_not_end(
    tmp_path: Path,
) -> None:
    store = tmp_path / "store.lock"
    for held in (locks.writes_held, locks.writing, locks.swapping):
        with (
            pytest.raises(LockBusy, match="has been writing for 0 s"),
            held(tmp_path),
            file_lock(store, 0),
            file_lock(store, 0),
        ):
            pass
    assert not is_locked(tmp_path / ".swap.lock")
    with locks.swapping(tmp_path):
        assert locks.is_swapping(tmp_path)
    assert not locks.is_swapping(tmp_path)
