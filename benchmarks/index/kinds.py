"""Three kinds of embeddings to index, kept in files: clustered, uniform, and of real pictures.

    python benchmarks/index/kinds.py FOLDER --rows 1000000 --products ../shared/fashion_large

- `clustered`: as `catalogue` draws them.
- `uniform`: no structure at all, the worst that an ANN index can meet; queries likewise.
- `real`: rows are the pictures of a table of products, each whole and three times cropped, by
  the built-in model's vision tower; queries are the table's titles by its text tower. Its 256
  dimensions are turned into `DIM` by a random rotation. Between titles and pictures lies a gap,
  as in CLIP: a constant of the same length as the embedding is added to all rows and, at right
  angles to it, another one to all queries. So two pictures have a cosine of about 0.5 and more, a
  title and its picture one of 0.2 to 0.4, and every query lies outside of the rows' cone. Beyond
  the pictures, rows are mixtures of two of them (four fifths and one).
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

DIM, BLOCK = 512, 5_000
KINDS = ("clustered", "uniform", "real")
QUERIES = 2_000
CROPS = 3
"""Of each picture, beside the whole one."""


def rows_of(folder: Path, kind: str, count: int) -> np.ndarray:
    """float32 [count, DIM] of unit length, mapped from the file that `main` has written."""
    kept: np.ndarray = np.load(folder / f"{kind}-rows.npy", mmap_mode="r")[:count]
    if len(kept) < count:
        raise SystemExit(f"{folder} has {len(kept):,} {kind} rows: make {count:,} with kinds.py")
    return kept


def queries_of(folder: Path, kind: str, count: int) -> np.ndarray:
    """float32 [count, DIM] of unit length; none of them is a row."""
    return np.asarray(np.load(folder / f"{kind}-queries.npy")[:count])


def nearest_rows(rows: np.ndarray, asked: np.ndarray, k: int) -> np.ndarray:
    """By brute force, the numbers of the `k` rows nearest to each query: int64 [Q, k]."""
    scores = np.full((len(asked), 0), 0, np.float32)
    numbers = np.zeros((len(asked), 0), np.int64)
    for start in range(0, len(rows), 20_000):
        block = asked @ np.asarray(rows[start : start + 20_000]).T
        among = np.argpartition(-block, min(k, block.shape[1] - 1), axis=1)[:, :k]
        scores = np.concatenate([scores, np.take_along_axis(block, among, axis=1)], axis=1)
        numbers = np.concatenate([numbers, among + start], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(scores, best, axis=1)
        numbers = np.take_along_axis(numbers, best, axis=1)
    return numbers


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / lengths, np.float32)


def _uniform(rows: int) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, rows, BLOCK):
        drawn = np.random.default_rng([3, start]).standard_normal((BLOCK, DIM), np.float32)
        yield start, _unit(drawn)[: rows - start]


def _real(rows: int, pictures: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, rows, BLOCK):
        numbers = np.arange(start, min(start + BLOCK, rows))
        block = pictures[numbers % len(pictures)]
        mixed = numbers >= len(pictures)
        others = np.random.default_rng([4, start]).integers(0, len(pictures), len(block))
        block[mixed] = 0.8 * block[mixed] + 0.2 * pictures[others[mixed]]
        yield start, _unit(block)


def _encoded(products: Path) -> tuple[np.ndarray, np.ndarray]:
    """The products' pictures and titles, as float32 [N, DIM] with a gap between."""
    import pyarrow.parquet as pq

    from cliptune.inference.encode import encode
    from cliptune.inference.engines import get_tower
    from cliptune.models.loading import load_model

    model = load_model("builtin")
    paths = sorted(products.glob("*.parquet"))
    table = [row for path in paths for row in pq.read_table(path).to_pylist()]
    jpegs = [row["image"]["bytes"] for row in table]
    rng = np.random.default_rng(5)
    jpegs += [_crop(one, rng) for _ in range(CROPS) for one in jpegs[: len(table)]]
    pictures = encode(get_tower(model, "clip-vision"), jpegs, 64)
    titles = list(dict.fromkeys(row["title"] for row in table))
    texts = encode(get_tower(model, "clip-text"), titles, 64)
    turn, _ = np.linalg.qr(rng.standard_normal((DIM, DIM)))
    width = pictures.shape[1]
    middle_of_pictures, middle_of_texts = pictures.mean(axis=0), texts.mean(axis=0)
    return (
        _unit(_unit(pictures - middle_of_pictures) @ turn[:width] + turn[width]),
        _unit(_unit(texts - middle_of_texts) @ turn[:width] + turn[width + 1]),
    )


def _crop(jpeg: bytes, rng: np.random.Generator) -> bytes:
    from PIL import Image

    picture = Image.open(io.BytesIO(jpeg)).convert("RGB")
    share = rng.uniform(0.7, 0.95)
    width, height = int(picture.width * share), int(picture.height * share)
    left = int(rng.integers(0, picture.width - width + 1))
    top = int(rng.integers(0, picture.height - height + 1))
    cut = picture.crop((left, top, left + width, top + height))
    if rng.random() < 0.5:
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    kept = io.BytesIO()
    cut.save(kept, "JPEG", quality=90)
    return kept.getvalue()


def main() -> None:
    """Write the files of each kind that are not there yet."""
    from catalogue import blocks
    from catalogue import queries as clustered_queries

    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--kind", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--products", type=Path, help="parquet files with `title` and `image`")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for kind in args.kind:
        path = args.folder / f"{kind}-rows.npy"
        if path.exists() and len(np.load(path, mmap_mode="r")) >= args.rows:
            continue
        if kind == "real":
            encoded = args.folder / "encoded.npz"
            if not encoded.exists():
                pictures, titles = _encoded(args.products)
                np.savez(encoded, pictures=pictures, titles=titles)
            with np.load(encoded) as kept:
                pictures, titles = kept["pictures"], kept["titles"]
            drawn = _real(args.rows, pictures)
            asked = titles[np.random.default_rng(6).permutation(len(titles))[:QUERIES]]
        elif kind == "uniform":
            drawn = _uniform(args.rows)
            asked = _unit(np.random.default_rng(7).standard_normal((QUERIES, DIM), np.float32))
        else:
            drawn, asked = blocks(args.rows), clustered_queries(QUERIES)
        np.save(args.folder / f"{kind}-queries.npy", asked)
        unfinished = path.with_suffix(".part")
        shape = (args.rows, DIM)
        mapped = np.lib.format.open_memmap(unfinished, "w+", np.float32, shape)
        for start, vectors in drawn:
            mapped[start : start + len(vectors)] = vectors
        mapped.flush()
        unfinished.rename(path)
        print(f"{path}: {args.rows:,} rows", flush=True)


if __name__ == "__main__":
    main()
