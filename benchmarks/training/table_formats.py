"""Whether reading makes the trainer wait: the same products in four kinds of table.

    python benchmarks/training/table_formats.py ../shared/fashion_large --products 2000

Each is read, decoded and trained on in a home of its own, with nothing stored before: pictures in
parquet, in WebDataset's tars, as files beside a CSV, and at http URLs that a server of this machine
answers. "Waiting" is what a step waited for its batch.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from profile_step import ONCE, WAITING, Clock, Stopwatch
from results import add_output_options, show, write

from cliptune.data.source import read_documents
from cliptune.data.validation import PAIR
from cliptune.training import TrainingOptions, loop
from cliptune.training.run_logger import StandardRunLogger

DECODING = next(name for name in ONCE if "decoding" in name)
TABLES = ("parquet", "tar", "files", "URLs")


def main() -> None:
    """Measure every kind, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of products in parquet")
    parser.add_argument("--products", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--model", default="builtin")
    add_output_options(parser)
    args = parser.parse_args()
    products = pq.read_table(sorted(args.folder.glob("*.parquet"))[0]).slice(0, args.products)
    stopwatch = Stopwatch()
    stopwatch.attach()
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch, served(Path(scratch)) as address:
        names = write_tables(products, Path(scratch), address)
        for kind, name in names.items():
            with tempfile.TemporaryDirectory() as home:
                os.environ["CLIPTUNE_HOME"] = home
                figures[kind] = measure(stopwatch, name, args.model, args.batch_size, Path(home))
    header = ["", "reading, s", "decoding, s", "a step, ms", "of it waiting, ms"]
    rows = [[kind, *(f"{value:.2f}" for value in one.values())] for kind, one in figures.items()]
    show(f"{args.products} products, {args.model}", header, rows, args.markdown)
    write(args.out, figures)


def measure(
    stopwatch: Stopwatch, name: str, model: str, batch_size: int, home: Path
) -> dict[str, float]:
    """Seconds of reading and decoding, and milliseconds of a step, of one table."""
    stopwatch.seconds.clear()
    begun = time.perf_counter()
    docs = read_documents(name, csv_options={"download": True}, needs=PAIR).docs
    reading = time.perf_counter() - begun
    clock = Clock()
    options = TrainingOptions.parse({"model": model, "epochs": 1, "batch_size": batch_size})
    loop.train(options, docs, None, [clock], home / "run", StandardRunLogger())
    return {
        "reading": reading,
        "decoding": stopwatch.seconds[DECODING],
        "step": 1000 * clock.seconds / clock.steps,
        "waiting": 1000 * stopwatch.seconds[WAITING] / clock.steps,
    }


def write_tables(products: pa.Table, folder: Path, address: str) -> dict[str, str]:
    """The products in every kind of table, by what it is called."""
    pq.write_table(products, folder / "t.parquet")
    (folder / "pictures").mkdir()
    lines = []
    with tarfile.open(folder / "t.tar", "w") as archive:
        for number, row in enumerate(products.to_pylist()):
            data = row["image"]["bytes"]
            (folder / "pictures" / f"{number}.jpg").write_bytes(data)
            lines.append({"title": row["title"], "image": f"pictures/{number}.jpg"})
            for suffix, content in (("jpg", data), ("txt", row["title"].encode())):
                member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    urls = [{**line, "image": f"{address}/{line['image']}"} for line in lines]
    (folder / "urls.jsonl").write_text("\n".join(map(json.dumps, urls)))
    names = ("t.parquet", "t.tar", "t.jsonl", "urls.jsonl")
    return {kind: str(folder / name) for kind, name in zip(TABLES, names, strict=True)}


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of the folder's files."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    quiet = subprocess.DEVNULL
    server = subprocess.Popen([*command, "-d", str(folder)], stdout=quiet, stderr=quiet)
    try:
        time.sleep(2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()


if __name__ == "__main__":
    main()
