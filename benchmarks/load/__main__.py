"""Load over many minutes on `cliptune serve` with the built-in model: what it holds and keeps.

    scripts/install-peers load
    python -m benchmarks.load hold --rate 40 --minutes 10     # then as long at twice the rate
    python -m benchmarks.load soak --requests 30000

Both print a Markdown table. The catalogue's pictures are indexed, and searched with texts that are
never the same, half of them over HTTP and half over gRPC. Locust asks from the same machine and
takes its share of it, so that a machine of one's own answers more. Memory is each process's
proportional share (Pss): what processes have in common counts once. Refused are 429 and
RESOURCE_EXHAUSTED, failed any other answer or none.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from cliptune.data.source import load_documents
from cliptune.serving import Client, serve

ROOT = Path(__file__).resolve().parents[2]
LOCUST = ROOT / os.environ.get("CLIPTUNE_PEERS_DIR", ".peers") / "load" / "bin" / "python"
HTTP, GRPC = 51801, 51800
PARTS = ("text", "vision", "indexer", "gateway")


@dataclass(frozen=True)
class Phase:
    """A rate that was asked for, and what became of it."""

    asked: float
    """Requests a second."""
    seconds: float
    counts: dict[str, int]
    """By protocol and outcome."""
    milliseconds: list[float]
    """Of the accepted ones."""

    def count(self, outcome: str) -> int:
        """How many ended so."""
        return sum(
            n for name, n in self.counts.items() if name.split(" ", 1)[1].startswith(outcome)
        )

    @property
    def row(self) -> str:
        """A line of the table."""
        total = sum(self.counts.values())
        p50, p99 = np.percentile(self.milliseconds or [np.nan], [50, 99])
        return (
            f"| {self.asked:g} | {total:,} | {self.count('accepted') / self.seconds:.1f} | "
            f"{p50:.0f} ms | {p99:.0f} ms | {self.count('refused') / total:.1%} | "
            f"{self.count('failed'):,} |"
        )


HEAD = """\
| Asked for a second | Requests | Accepted a second | p50 | p99 | Refused | Failed |
| --: | --: | --: | --: | --: | --: | --: |"""


class Memory:
    """The processes of a service by what they do, and what memory each has."""

    def __init__(self, log: Path) -> None:
        """Learn which process is which from the `log`, where each says what it has answered."""
        self.processes: dict[str, psutil.Process] = {}
        for line in log.read_text("utf-8").splitlines():
            if line.startswith("{"):
                told = json.loads(line)
                if told["service"] in PARTS:
                    self.processes[told["service"]] = psutil.Process(told["process"])

    def read(self) -> dict[str, float]:
        """MB by part."""
        return {name: self.processes[name].memory_full_info().pss / 1e6 for name in PARTS}


@contextmanager
def service(home: Path) -> Iterator[Memory]:
    """`cliptune serve` with the catalogue's pictures."""
    os.environ.update(CLIPTUNE_HOME=str(home), CLIPTUNE_LOG_FORMAT="json")
    os.environ["CLIPTUNE_CLIP_SERVICE_PORT"] = "0"
    with serve("builtin", index=home / "index", grpc_port=GRPC, http_port=HTTP) as served:
        with Client(f"grpc://127.0.0.1:{GRPC}") as client:
            client.index(load_documents("catalogue-index", role="index"))
            client.search([f"warm {number}" for number in range(200)], limit=10)
        yield Memory(served.log_file)


def ask(rate: float, seconds: float, requests: int = 0) -> Phase:
    """Have Locust ask."""
    addresses = f"http://127.0.0.1:{HTTP}", f"grpc://127.0.0.1:{GRPC}"
    words = ["-m", "benchmarks.load.users", *addresses, *map(str, (rate, seconds, requests))]
    done = subprocess.run([LOCUST, *words], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    told = json.loads(done.stdout.splitlines()[-1])
    return Phase(rate, told["seconds"], told["counts"], told["milliseconds"])


def memory_table(columns: dict[str, dict[str, float]]) -> str:
    """MB by part, when it was read."""
    lines = [f"| Pss in MB | {' | '.join(columns)} |", "| --- |" + " --: |" * len(columns)]
    for part in PARTS:
        cells = " | ".join(f"{column[part]:.0f}" for column in columns.values())
        lines.append(f"| {part} | {cells} |")
    return "\n".join(lines)


def hold(rate: float, minutes: float) -> None:
    """A rate for some minutes, and then twice that."""
    with tempfile.TemporaryDirectory() as home, service(Path(home)) as memory:
        ask(rate, 15)  # threads, caches, connections: what grows once
        columns = {"before": memory.read()}
        rows = []
        for factor in (1, 2):
            phase = ask(factor * rate, 60 * minutes)
            rows.append(phase.row)
            columns[f"after {phase.asked:g} a second"] = memory.read()
            _tell_failures(phase)
    print("\n".join([HEAD, *rows, "", memory_table(columns)]))


def soak(requests: int, rate: float) -> None:
    """A number of requests, and the memory after each tenth of them."""
    with tempfile.TemporaryDirectory() as home, service(Path(home)) as memory:
        ask(rate, 15)
        columns = {"before": memory.read()}
        phases = []
        for tenth in range(1, 11):
            phases.append(ask(rate, 3600, requests // 10))
            _tell_failures(phases[-1])
            if tenth in (1, 5, 10):
                columns[f"after {tenth * requests // 10:,}"] = memory.read()
    counts: dict[str, int] = {}
    for phase in phases:
        for name, count in phase.counts.items():
            counts[name] = counts.get(name, 0) + count
    times = [one for phase in phases for one in phase.milliseconds]
    whole = Phase(rate, sum(phase.seconds for phase in phases), counts, times)
    print("\n".join([HEAD, whole.row, "", memory_table(columns)]))


def _tell_failures(phase: Phase) -> None:
    for name, count in phase.counts.items():
        if "failed" in name:
            print(f"{count} times {name}", file=sys.stderr)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load")
    commands = parser.add_subparsers(dest="command", required=True)
    holding = commands.add_parser("hold", help="a rate, and then twice that")
    holding.add_argument("--rate", type=float, default=40.0, help="requests a second")
    holding.add_argument("--minutes", type=float, default=10.0, help="at each of the two rates")
    soaking = commands.add_parser("soak", help="many requests, and memory")
    soaking.add_argument("--requests", type=int, default=30_000)
    soaking.add_argument("--rate", type=float, default=40.0, help="requests a second")
    given = parser.parse_args()
    if not LOCUST.is_file():
        raise SystemExit("no Locust here: scripts/install-peers load")
    if given.command == "hold":
        hold(given.rate, given.minutes)
    else:
        soak(given.requests, given.rate)


if __name__ == "__main__":
    main()
