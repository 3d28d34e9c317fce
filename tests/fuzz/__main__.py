"""Fuzz a search Flow of a tiny model: `python -m tests.fuzz --requests 10000`.

Prints how requests were answered and what memory each process has, and ends with status 1 if an
answer was none that the server gives on purpose, or a process died.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from cliptune.serving import serve
from tests.fuzz.outcomes import memory
from tests.fuzz.run import fuzz
from tests.ports import free_ports
from tests.tiny_model import make_tiny_model


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CLIPTUNE_HOME"] = folder
        model = make_tiny_model(Path(folder) / "model")
        grpc_port, http_port = free_ports(2)
        before = set(psutil.Process().children())
        with serve(model, index=Path(folder) / "i", grpc_port=grpc_port, http_port=http_port):
            [flow] = set(psutil.Process().children()) - before
            addresses = f"127.0.0.1:{grpc_port}", f"http://127.0.0.1:{http_port}"
            warm = fuzz(*addresses, given.requests // 10, given.seed)
            begun, marks = time.monotonic(), [memory(flow)]
            found = warm
            for part in range(4):
                found = fuzz(*addresses, given.requests * 9 // 40, given.seed + part + 1, found)
                marks.append(memory(flow))
                print(f"{found.total} requests, {len(found.problems)} problems", flush=True)
            took = time.monotonic() - begun
            log = next((Path(folder) / "logs").glob("*.log")).read_text(errors="replace")
    print(f"\n{found.total} requests, {took:.0f} s")
    for status, count in sorted(found.counts.items()):
        print(f"  {status:28} {count}")
    print("MiB of each process after a tenth of the requests, then after each further quarter")
    for name in marks[0]:
        print(f"  {name:24}", *(f"{mark.get(name, float('nan')):8.1f}" for mark in marks))
    for problem in found.problems:
        print(problem)
    died = [name for name in marks[0] if name not in marks[-1]]
    if died:
        print("died:", ", ".join(died))
    if found.problems:
        raised = re.findall(r"^[A-Za-z.]+(?:Error|Exception)\b.*", log, re.MULTILINE)
        for line, count in Counter(raised).most_common(20):
            print(f"  {count:4} in the log: {line[:200]}")
    return 1 if found.problems or died else 0


if __name__ == "__main__":
    sys.exit(main())
