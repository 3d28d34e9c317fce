"""Load drawn documents into an index, with a progress bar, and build its graph.

    python benchmarks/index/ingest.py FOLDER --rows 1000000

Writes what it took to `FOLDER/ingest.json`. An ingest that was cut short goes on where it ended.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from pathlib import Path

import psutil
from catalogue import BLOCK, blocks, documents
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cliptune.index import open_index


class PeakMemory(threading.Thread):
    """Watches this process's resident memory."""

    def __init__(self) -> None:
        """Begin to watch."""
        super().__init__(daemon=True)
        self.peak = 0
        self.start()

    def run(self) -> None:
        """Look five times a second."""
        process = psutil.Process()
        while True:
            self.peak = max(self.peak, process.memory_info().rss)
            time.sleep(0.2)


def folder_bytes(folder: Path) -> int:
    """What the files below `folder` take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Load, build, and write down what it took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--storage", default=None, help="as LanceOptions.storage has it")
    args = parser.parse_args()

    memory = PeakMemory()
    options = {"storage": args.storage} if args.storage else {}
    with open_index(args.folder, **options) as index:
        there = index.count()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]:,.0f}/s"),
            TimeRemainingColumn(),
        )
        started, writing = time.perf_counter(), 0.0
        with Progress(*columns) as progress:
            task = progress.add_task("Indexing", total=args.rows, speed=0.0)
            for start, vectors in blocks(args.rows):
                if start + BLOCK > there:
                    docs = documents(start, vectors)
                    began = time.perf_counter()
                    index.add(docs)
                    writing += time.perf_counter() - began
                    speed = (start + len(vectors) - there) / (time.perf_counter() - started)
                    progress.update(task, speed=speed)
                progress.update(task, completed=start + len(vectors))
        loaded = time.perf_counter()
        added, added_peak = args.rows - there, memory.peak
        print(f"{added:,} documents in {loaded - started:.0f} s; building the graph", flush=True)
        status = index.optimize()
        built = time.perf_counter()
    figures = {
        "rows": status.rows,
        "added": added,
        "seconds_adding": round(loaded - started, 1),
        "seconds_in_add": round(writing, 1),
        "seconds_building": round(built - loaded, 1),
        "peak_mb_adding": added_peak >> 20,
        "peak_mb_building": memory.peak >> 20,
        "disk_mb": folder_bytes(args.folder) >> 20,
        "state": status.state,
    }
    (args.folder / "ingest.json").write_text(json.dumps(figures, indent=2))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
