"""Whether the process of a run is still alive, told apart from a later one with its number."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

HEARTBEAT = "heartbeat"
HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 120.0
"""Without a heartbeat for so long, a process on another machine counts as dead."""


@dataclass(frozen=True)
class ProcessMark:
    """A process, named so that a recycled number is not mistaken for it."""

    pid: int
    started: str | None
    """Its start in clock ticks since the machine started (`/proc/<pid>/stat`), where known."""
    boot: str | None
    """The machine's present start, where known: after a power cut all numbers begin again."""
    host: str

    @classmethod
    def of(cls, pid: int) -> ProcessMark:
        """The mark of the process `pid` of this machine."""
        return cls(pid, _start_and_state(pid)[0], _boot_id(), socket.gethostname())

    @property
    def is_local(self) -> bool:
        """Whether it is a process of this machine (or container)."""
        return self.host == socket.gethostname()

    @property
    def before_reboot(self) -> bool:
        """Whether this machine has been restarted since."""
        return self.is_local and self.boot != _boot_id()

    def is_zombie(self) -> bool:
        """Whether it has ended and its parent has yet to take note."""
        started, state = _start_and_state(self.pid)
        return self.is_local and started == self.started and state == "Z"

    def is_alive(self, folder: Path) -> bool:
        """Whether it runs. On another machine: by the heartbeat in the run's `folder`."""
        if not self.is_local:
            return _heartbeat_age(folder) < STALE_SECONDS
        if self.before_reboot:
            return False
        if self.started is None:  # no /proc here
            return _answers(self.pid)
        started, state = _start_and_state(self.pid)
        return started == self.started and state not in ("Z", "X")


def beat(folder: Path) -> None:
    """Say that the run in `folder` lives, for readers on other machines."""
    (folder / HEARTBEAT).touch()


def _heartbeat_age(folder: Path) -> float:
    try:
        return time.time() - (folder / HEARTBEAT).stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _start_and_state(pid: int) -> tuple[str | None, str | None]:
    """Start time in ticks and the state's letter of `pid`; None where that can't be known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None, None
    # The second field, the command in brackets, may itself hold blanks and brackets.
    fields = stat.rpartition(")")[2].split()
    return fields[19], fields[0]


def _boot_id() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
