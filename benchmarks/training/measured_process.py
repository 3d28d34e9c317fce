"""Run a program and watch what it takes: its wall time, its output's times, its peak memory."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

INTERVAL_S = 0.2
"""How often the memory is read: reading it holds the program's own memory map for a moment."""


@dataclass(frozen=True)
class Measured:
    """What a program took."""

    seconds: float
    """From its start to its end."""
    peak_bytes: int
    """The peak of `resident_bytes` over the program and all its children."""
    lines: list[tuple[float, str]]
    """(`time.time()` of its arrival, line) of its output and its errors."""


def run_measured(
    command: Sequence[str | Path], folder: Path, environment: Mapping[str, str]
) -> Measured:
    """Run `command` in `folder`, with `environment` beside this process's own, until it ends.

    Raises:
        RuntimeError: it failed; the message holds the end of its output.
    """
    lines: list[tuple[float, str]] = []
    started = time.monotonic()
    with subprocess.Popen(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        output = process.stdout

        def read() -> None:
            lines.extend((time.time(), line.rstrip("\n")) for line in output)

        reader = threading.Thread(target=read)
        reader.start()
        peak = 0
        while process.poll() is None:
            peak = max(peak, resident_bytes(process.pid))
            time.sleep(INTERVAL_S)
        seconds = time.monotonic() - started
        reader.join()
    if process.returncode:
        end = "\n".join(line for _, line in lines[-20:])
        raise RuntimeError(f"{command[0]} ended with status {process.returncode}:\n{end}")
    return Measured(seconds, peak, lines)


def resident_bytes(pid: int) -> int:
    """The memory of the process `pid` and its children, each page counted once.

    All that the largest of the processes has resident (Rss), and of the others what no other
    process maps (private pages): what workers share with the process that forked them is not
    counted twice. Unlike a sum of Pss, it does not depend on what else runs on the machine.
    """
    sizes = []
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    for process in family:
        try:
            sizes.append(_rss_and_private(process.pid))
        except (OSError, ValueError):  # it has just ended
            continue
    if not sizes:
        return 0
    largest = max(sizes)
    return largest[0] + sum(private for _, private in sizes) - largest[1]


def _rss_and_private(pid: int) -> tuple[int, int]:
    """(Rss, private pages) of a process, in bytes.

    Raises:
        OSError: there is no such process.
        ValueError: it has no memory any more.
    """
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    values = {name: int(value.split()[0]) for name, _, value in (x.partition(":") for x in rollup)}
    if "Rss" not in values:
        raise ValueError(f"process {pid} is ending")
    private = values["Private_Clean"] + values["Private_Dirty"]
    return 1024 * values["Rss"], 1024 * private
