"""Pictures a second: decoding in full, decoding large JPEGs at a fraction of their size, the cache.

    python benchmarks/training/decoding.py [FOLDER] [--size 224] [--workers 2]

Without a folder, pictures of 2000 x 3000 are drawn, always the same ones. Everything is read from
memory or from the system's file cache; each way runs several times, the best is shown. Beside the
speed it shows how far the pixels are from those of full decoding, in levels of 255.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from docarray import DocList
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from cliptune.data.pictures.images import SUFFIXES, decode_image, decode_pixels
from cliptune.data.pictures.pixels import decode_documents
from cliptune.data.pictures.preprocessing import ImagePreprocessing, to_pixels
from cliptune.documents import ClipDoc


def draw(count: int, width: int = 2000, height: int = 3000) -> list[bytes]:
    """`count` JPEGs of coarse colours with the grain of a photograph, the same ones every time."""
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(count):
        coarse = random.integers(0, 256, (150, 100, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        grain = random.normal(0, 12, (height, width, 1))
        pixels = (np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        drawn.append(buffer.getvalue())
    return drawn


def fastest(call: Callable[[], NDArray[np.uint8]], repeats: int) -> tuple[float, NDArray[np.uint8]]:
    """The least seconds that `call` took, and what it gave."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        pixels = call()
        seconds.append(time.perf_counter() - started)
    return min(seconds), pixels


def main() -> None:
    """Measure the three ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, nargs="?", help="of pictures; default: drawn ones")
    parser.add_argument("--count", type=int, default=16, help="how many are drawn")
    parser.add_argument("--limit", type=int, default=500, help="how many of the folder's are read")
    parser.add_argument("--size", type=int, default=224, help="the side of the model's input")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    if args.folder:
        files = sorted(p for p in args.folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        pictures = [file.read_bytes() for file in files[: args.limit]]
    else:
        pictures = draw(args.count)
    if not pictures:
        parser.error(f"no pictures in {args.folder}")
    preprocessing = ImagePreprocessing((args.size, args.size), (0.5,) * 3, (0.5,) * 3)

    def in_full(data: bytes) -> NDArray[np.uint8]:
        return to_pixels(decode_image(data), preprocessing)

    def drafted(data: bytes) -> NDArray[np.uint8]:
        return decode_pixels(data, preprocessing)

    docs = DocList[ClipDoc]([ClipDoc(image=data) for data in pictures])
    with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(args.workers) as pool:

        def cached() -> NDArray[np.uint8]:
            found = decode_documents(docs, preprocessing, cache_dir=Path(cache))
            return np.array(found.pixels)  # reads all of the map

        cached()
        results = {
            "full decoding": fastest(
                lambda: np.array([*pool.map(in_full, pictures)]), args.repeats
            ),
            "scaled decoding": fastest(
                lambda: np.array([*pool.map(drafted, pictures)]), args.repeats
            ),
            "cache, checked by SHA-256": fastest(cached, args.repeats),
        }

    slowest, reference = results["full decoding"]
    table = Table(
        "",
        "pictures/s",
        "speed",
        "mean difference",
        "largest",
        title=f"{len(pictures)} pictures to {args.size} x {args.size}, {args.workers} threads",
    )
    for name, (seconds, pixels) in results.items():
        difference = np.abs(pixels.astype(np.int16) - reference)
        table.add_row(
            name,
            f"{len(pictures) / seconds:,.0f}",
            f"x {slowest / seconds:.1f}",
            f"{difference.mean():.2f}",
            str(difference.max()),
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
