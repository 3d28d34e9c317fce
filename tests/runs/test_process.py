"""Real processes: how runs die, and what their readers see."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cliptune import runs
from cliptune.errors import NotReady, RunFailed
from cliptune.runs import Run, liveness, process
from cliptune.runs.liveness import ProcessMark
from cliptune.runs.record import Status, read_record, update_record
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

# Stands in for the worker where only its death counts; the real one is in test_training_runs.py.
SLEEPER = """
import os, signal, sys, threading, time
from pathlib import Path
from cliptune.runs.liveness import ProcessMark
from cliptune.runs.record import Status, update_record
signal.signal(signal.SIGTERM, {on_term})
update_record(Path(sys.argv[1]), lambda r: {{'status': Status.STARTED, 'started': 'now',
                                            'process': ProcessMark.of(os.getpid())}})
print('sleeping', flush=True)
time.sleep(60)
"""


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def use(code: str) -> None:
        monkeypatch.setattr(process, "_WORKER", ("-c", code))

    return use


def started(worker: Callable[[str], None], on_term: str = "signal.SIG_DFL") -> Run:
    worker(SLEEPER.format(on_term=on_term))
    run = runs.create_run({}, {})
    run.start()
    wait_until(lambda: "sleeping" in (run.folder / "run.log").read_text())
    return run


def pid_of(run: Run) -> int:
    mark = read_record(run.folder).process
    assert mark is not None
    return mark.pid


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
        ("raise SystemExit(3)", "exit status 3: it wrote nothing to its log"),
        (
            "import sys\nfrom pathlib import Path\nfrom cliptune.runs import liveness, worker\n"
            "def full(folder): raise OSError(28, 'No space left on device', 'heartbeat')\n"
            "liveness.beat = full\n"
            "sys.exit(worker.run(Path(sys.argv[1]), int(sys.argv[2])))",
            "the disk is full (no space left for heartbeat)",
        ),
    ],
)
def test_a_run_that_dies_at_its_start_says_why_in_its_status(
    worker: Callable[[str], None], code: str, reason: str
) -> None:
    worker(code)
    run = runs.create_run({}, {})
    run.start()
    status = run.wait(20)
    assert status["status"] == "FAILED"
    assert reason in status["details"]
    with pytest.raises(RunFailed, match=re.escape(reason)):
        run.metrics()


def test_a_killed_run_is_failed_with_its_signal(worker: Callable[[str], None]) -> None:
    run = started(worker)
    assert run.status()["status"] == "STARTED"
    os.kill(pid_of(run), signal.SIGKILL)
    status = run.wait(10)
    assert status["status"] == "FAILED"
    assert "signal 9 (SIGKILL) (out of memory?)" in status["details"]
    assert read_record(run.folder).exit == "signal 9 (SIGKILL)"
    assert run.logs().splitlines()[-1].endswith(f"ERROR    FAILED: {status['details']}")
    for call in (run.metrics, run.example_results, run.save_artifact, run.display_metrics):
        with pytest.raises(RunFailed, match="signal 9"):
            call()


def test_no_zombie_stays(worker: Callable[[str], None]) -> None:
    run = started(worker)
    pid = pid_of(run)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    wait_until(lambda: pid not in process._reapers)


def test_a_worker_that_dies_before_its_first_word(worker: Callable[[str], None]) -> None:
    worker("import os, sys; print('no memory', flush=True); os._exit(3)")
    run = runs.create_run({}, {})
    run.start()
    status = run.wait(10)
    assert status["status"] == "FAILED"
    assert "exit status 3" in status["details"]
    assert run.logs().splitlines()[0] == "no memory"


CHILD_OF_ANOTHER = """
import sys, time
from cliptune import runs
from cliptune.runs import process
process._WORKER = ('-c', {sleeper!r})
run = runs.create_run({{}}, {{}}, run_name='foreign')
run.start()
print('ready', flush=True)
{then}
"""


def foreign(then: str) -> subprocess.Popen[str]:
    sleeper = SLEEPER.format(on_term="signal.SIG_DFL")
    code = CHILD_OF_ANOTHER.format(sleeper=sleeper, then=then)
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    with other.stdout as said:
        assert said.readline() == "ready\n"
    return other


def test_a_run_outlives_the_process_that_started_it() -> None:
    other = foreign("")
    assert other.wait(10) == 0
    run = runs.get_run("foreign")
    wait_until(lambda: run.status()["status"] == "STARTED")
    time.sleep(0.3)
    assert run.status()["status"] == "STARTED"
    os.kill(pid_of(run), signal.SIGKILL)  # nobody waits for it now
    status = run.wait(10)
    assert status["status"] == "FAILED"
    assert "killed by signal 9 (out of memory?)" in status["details"]


def test_another_process_sees_the_death_and_its_reason() -> None:
    other = foreign("time.sleep(60)")
    run = runs.get_run("foreign")
    wait_until(lambda: run.status()["status"] == "STARTED")
    os.kill(pid_of(run), signal.SIGKILL)
    assert "signal 9 (SIGKILL)" in run.wait(10)["details"]
    other.kill()
    other.wait()


def test_a_creator_that_dies_before_the_start() -> None:
    run = runs.create_run({}, {})
    gone = subprocess.Popen(["true"])
    mark = ProcessMark.of(gone.pid)
    gone.wait()
    assert run.status()["status"] == "CREATED"
    with pytest.raises(NotReady, match="CREATED"):
        run.logs()
    update_record(run.folder, lambda _: {"starter": mark})
    assert run.status()["status"] == "FAILED"
    assert "created it" in run.status()["details"]


def test_a_recycled_number_is_not_the_run(worker: Callable[[str], None]) -> None:
    """A living process has the run's number, but began at another time: it must not be hit."""
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        mark = ProcessMark.of(bystander.pid)
        assert mark.started is not None
        assert mark.is_alive(Path())
        recycled = replace(mark, started=str(int(mark.started) - 1))
        assert not recycled.is_alive(Path())
        run = runs.create_run({}, {})
        begun = {"status": Status.STARTED, "process": recycled, "starts": 1}
        update_record(run.folder, lambda _: begun)
        assert run.cancel()["status"] == "FAILED"
        runs.delete_run(run.name)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_restarted_machine_is_noticed() -> None:
    run = runs.create_run({}, {})
    mark = replace(ProcessMark.of(os.getpid()), boot="another")
    update_record(run.folder, lambda _: {"status": Status.STARTED, "process": mark, "starts": 1})
    assert run.status() == {
        "status": "FAILED",
        "details": "the machine was restarted while it ran",
    }


def test_a_process_of_another_machine_lives_by_its_heartbeat() -> None:
    run = runs.create_run({}, {})
    mark = replace(ProcessMark.of(os.getpid()), host="elsewhere", pid=2**22 + 1)
    update_record(run.folder, lambda _: {"status": Status.STARTED, "process": mark, "starts": 1})
    liveness.beat(run.folder)
    assert run.status()["status"] == "STARTED"
    with pytest.raises(NotReady, match="elsewhere"):
        run.cancel()
    old = time.time() - liveness.STALE_SECONDS - 1
    os.utime(run.folder / liveness.HEARTBEAT, (old, old))
    assert run.status()["status"] == "FAILED"
    assert "elsewhere" in run.status()["details"]


def test_a_run_that_does_not_stop_is_killed_after_the_grace_time(
    worker: Callable[[str], None],
) -> None:
    run = started(worker, on_term="signal.SIG_IGN")
    begin = time.monotonic()
    status = run.cancel(grace=0.5)
    assert 0.5 <= time.monotonic() - begin < 8
    assert status["status"] == "CANCELLED"
    assert "signal 9" in status["details"]
    with pytest.raises(NotReady, match="CANCELLED"):
        run.metrics()


def test_cancelling_what_has_ended_changes_nothing(worker: Callable[[str], None]) -> None:
    worker("raise SystemExit(1)")
    run = runs.create_run({}, {})
    run.start()
    before = run.wait(10)
    assert before["status"] == "FAILED"
    assert run.cancel() == before


def test_a_run_can_be_started_again_only_when_it_has_ended(
    worker: Callable[[str], None],
) -> None:
    run = started(worker)
    with pytest.raises(NotReady, match="STARTED already"):
        run.resume()
    first = pid_of(run)
    os.kill(first, signal.SIGKILL)
    run.wait(10)
    run.resume()
    wait_until(lambda: run.status()["status"] == "STARTED")
    assert pid_of(run) != first
    assert read_record(run.folder).starts == 2
    run.cancel()
    update_record(run.folder, lambda _: {"status": Status.FINISHED})
    with pytest.raises(NotReady, match="has finished"):
        run.resume()


def test_deleting_a_run_ends_its_process(worker: Callable[[str], None]) -> None:
    run = started(worker)
    pid = pid_of(run)
    runs.delete_run(run.name)
    assert not run.folder.exists()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_streaming_ends_with_the_reason_of_a_death(worker: Callable[[str], None]) -> None:
    run = started(worker)
    lines = run.stream_logs(interval=0.05)
    assert next(lines) == "sleeping"
    os.kill(pid_of(run), signal.SIGKILL)
    rest = list(lines)
    assert len(rest) == 1
    assert "killed by signal 9" in rest[0]


def test_waiting_has_a_time_limit(worker: Callable[[str], None]) -> None:
    run = started(worker)
    with pytest.raises(NotReady, match=r"0\.2 s"):
        run.wait(0.2)
    run.cancel()
