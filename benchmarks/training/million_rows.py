"""What memory and time a large parquet table takes to be checked.

    python benchmarks/training/million_rows.py ../shared/fashion_large --rows 1000000

The products' pictures are repeated, each row with a title and an id of its own, in row groups of
50,000; `cliptune data check` runs on the table in a process of its own, whose greatest resident
memory is said.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from measured_process import run_measured
from results import add_output_options, show, write

_GROUP = 50_000


def main() -> None:
    """Write the table, check it, and print what that took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of products in parquet")
    parser.add_argument("--rows", type=int, default=1_000_000)
    add_output_options(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "products.parquet"
        write_table(args.folder, path, args.rows)
        size = path.stat().st_size
        command = [sys.executable, "-m", "cliptune", "data", "check", path]
        home = {"CLIPTUNE_HOME": str(Path(scratch) / "home")}
        done = run_measured([*command, "--report", Path(scratch) / "page.html"], Path(), home)
    print("\n".join(line for _, line in done.lines))
    seconds, memory = done.seconds, done.peak_bytes
    figures = {"rows": args.rows, "file": size, "seconds": seconds, "memory": memory}
    row = [f"{args.rows:,}", f"{size / 1e9:.2f}", f"{seconds:.0f}", f"{memory / 1e9:.2f}"]
    show("data check", ["rows", "file, GB", "seconds", "memory, GB"], [row], args.markdown)
    write(args.out, figures)


def write_table(folder: Path, path: Path, rows: int) -> None:
    """`rows` rows of the products, again and again."""
    products = pq.read_table(sorted(folder.glob("*.parquet"))[0])
    columns = ["id", "title", "article_type", "colour", "image"]
    with pq.ParquetWriter(path, products.select(columns).schema) as writer:
        for first in range(0, rows, _GROUP):
            numbers = range(first, min(first + _GROUP, rows))
            table = products.select(columns).take(pa.array([n % len(products) for n in numbers]))
            titles = table["title"].to_pylist()
            table = table.set_column(0, "id", pa.array([f"p{n}" for n in numbers]))
            named = pa.array([f"{t} {n}" for t, n in zip(titles, numbers, strict=True)])
            writer.write_table(table.set_column(1, "title", named), row_group_size=_GROUP)


if __name__ == "__main__":
    main()
