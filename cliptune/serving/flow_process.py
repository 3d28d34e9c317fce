"""A Flow in a process of its own: `python -m cliptune.serving.flow_process FLOW.yml STATE.json`.

Jina forks its executors, and a process in which torch or LanceDB has run can't be forked safely:
so `serve` starts this module in a fresh one. It ends when its standard input does (its parent has
gone), or on SIGTERM or SIGINT. Ports and host come from the environment.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel

from cliptune.files import write_text
from cliptune.observability import startup
from cliptune.observability.startup import Failure
from cliptune.settings import METRICS_FOLDER, Settings, bracketed, variable_of

if TYPE_CHECKING:
    from cliptune.protocol.jina_compat import Flow

GATEWAY = "gateway"
"""Jina's name for it."""
ENCODER = "text"
"""The name that a search Flow's text encoder has."""


class FlowState(BaseModel):
    """How far a Flow's process is: it writes this to a file that whoever started it reads."""

    phase: Literal["starting", "ready", "failed"] = "starting"
    failures: tuple[Failure, ...] = ()
    """Why it failed, as far as that is known; the first cause first."""

    @classmethod
    def read(cls, file: Path) -> Self:
        """What the file says; one that isn't there yet: that the Flow starts."""
        try:
            return cls.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return cls()

    def write(self, file: Path) -> None:
        """Say it in the file."""
        write_text(file, self.model_dump_json())


def main(flow_yml: Path, state_file: Path) -> None:
    """Run the Flow until told to end; the state file says how far it is, or why it can't start."""
    reports = state_file.parent / "failures"
    reports.mkdir()
    try:
        startup.report_to(reports)
        _run(flow_yml, state_file, Settings.read())
    except Exception as error:
        if not startup.failures(reports):  # else Jina's error says no more than that one failed
            startup.report("flow", error)
        _write_failures(state_file)
        sys.exit(1)


def _run(flow_yml: Path, state_file: Path, settings: Settings) -> None:
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    threading.Thread(target=_wait_for_parent, args=(ended,), daemon=True).start()
    # How long Jina waits for each part to end (seconds); it is read when Jina is imported.
    os.environ.setdefault("JINA_DEFAULT_TIMEOUT_CTRL", str(settings.drain + 20))
    # Before prometheus_client is imported: all processes of the Flow keep their metrics here.
    shared = state_file.parent / "metrics"
    shared.mkdir()
    os.environ[METRICS_FOLDER] = str(shared)
    from cliptune.observability import logs
    from cliptune.protocol import jina_compat

    logs.setup("flow", settings)
    jina_compat.report_failed_starts(startup.reporting)
    flow = load(flow_yml, settings)
    if ENCODER in dict(iter(flow)):
        # Both encoders need it, and it takes seconds: Jina's forks then find it here and share its
        # memory. No thread is started by it, which a fork would lose.
        import cliptune.models.openclip  # noqa: F401
    gc.freeze()  # a collection in a fork would write to all of it, and so make copies
    threading.Thread(target=_watch_children, args=(ended, state_file), daemon=True).start()
    with flow:
        FlowState(phase="ready").write(state_file)
        ended.wait()
        # Before the executors: the gateway answers what it has taken.
        flow[GATEWAY].close()


def load(flow_yml: Path, settings: Settings) -> Flow:
    """The Flow, with host and ports of the settings in place of its file's."""
    import yaml

    from cliptune.protocol import jina_compat

    description = yaml.safe_load(flow_yml.read_text())
    gateway = description["gateway"]
    grpc_port, http_port = gateway["port"]
    gateway["port"] = [settings.grpc_port or grpc_port, settings.http_port or http_port]
    if "uses_with" in gateway and settings.clip_service_port is not None:
        gateway["uses_with"]["clip_service_port"] = settings.clip_service_port
    host = gateway["host"] = settings.host or gateway["host"]
    os.environ[variable_of("host")] = host  # for the parts, which are forked from here
    if ":" in host:
        gateway["host"] = "127.0.0.1"  # Jina knows IPv4 alone: our servers bind the address
    if host not in ("0.0.0.0", "::"):  # noqa: S104 (nothing is bound here)
        jina_compat.find_part_at(GATEWAY, bracketed(host))
    return jina_compat.Flow.load_config(description)


def _wait_for_parent(ended: threading.Event) -> None:
    # Not through `sys.stdin`: its lock would be held across the fork, and a child closes it.
    while os.read(0, 1):
        pass
    ended.set()


def _watch_children(ended: threading.Event, state_file: Path) -> None:
    # Jina waits for all executors to start, even when one has died, and does without one that
    # dies later: requests would fail one by one. Whoever runs the service should start it again.
    seen: dict[int, BaseProcess] = {}
    reports = state_file.parent / "failures"
    while not ended.wait(0.2):
        # `active_children` leaves out those that have ended.
        now = {process.pid: process for process in active_children() if process.pid}
        gone = [process for pid, process in seen.items() if pid not in now]
        if gone or any(reports.iterdir()):
            time.sleep(0.5)  # let others that fail say why, too
            _write_failures(state_file, [_end_of(process) for process in gone])
            for process in active_children():
                process.kill()
            os._exit(1)
        seen |= now


def _end_of(process: BaseProcess) -> Failure:
    """What there is to say of a part that ended without a word."""
    message = how_it_ended(process.exitcode or 0)
    return Failure(part=process.name.split("/")[0], type="Unavailable", message=message)


def how_it_ended(code: int) -> str:
    """Of a process that could not say what is wrong with it, by its exit code."""
    if code == -signal.SIGKILL:
        return "it was killed (signal 9, SIGKILL): out of memory?"
    return f"it was killed by signal {-code}" if code < 0 else f"it ended with status {code}"


def _write_failures(state_file: Path, unexplained: Sequence[Failure] = ()) -> None:
    """Say that all is over: by what was reported, or else by what else is known."""
    reported = startup.failures(state_file.parent / "failures")
    FlowState(phase="failed", failures=tuple(reported or unexplained)).write(state_file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
