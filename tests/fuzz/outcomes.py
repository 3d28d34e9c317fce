"""What a fuzzed server answered, and what is wrong about it."""

from __future__ import annotations

import base64
import threading
from collections import Counter
from dataclasses import dataclass, field

import psutil

MAX_PROBLEMS = 20


class EnoughError(Exception):
    """So many problems that looking for more makes no sense."""


@dataclass
class Outcomes:
    """Counts by protocol and status, and the requests that should have been answered otherwise."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def total(self) -> int:
        """Requests so far."""
        return sum(self.counts.values())

    def note(self, status: str, problem: str = "", sent: bytes = b"") -> None:
        """Count an answer; a problem is kept with the request that led to it."""
        with self._lock:
            self.counts[status] += 1
            if problem:
                shown = base64.b64encode(sent[:2000]).decode()
                self.problems.append(f"{status}: {problem[:500]}\n    sent (base64): {shown}")
            if len(self.problems) >= MAX_PROBLEMS:
                raise EnoughError


def memory(flow: psutil.Process) -> dict[str, float]:
    """MiB that each process of a Flow has for itself, by name and process id."""
    found = {}
    for process in [flow, *flow.children(recursive=True)]:
        found[f"{process.name()}-{process.pid}"] = process.memory_full_info().uss / 2**20
    return found
