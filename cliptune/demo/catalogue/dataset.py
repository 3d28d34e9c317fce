"""The catalogue as documents, drawn once and kept in the cache folder."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from docarray import DocList

from cliptune.demo.catalogue.attributes import KIND_BY_NAME
from cliptune.demo.catalogue.products import VARIANTS, Product, range_products
from cliptune.demo.catalogue.render import render
from cliptune.documents import ClipDoc
from cliptune.errors import NotFound, near_matches
from cliptune.files import new_folder
from cliptune.settings import current

PICTURE_SIZE = 192
_PACKAGE = "cliptune.demo.catalogue"
FOLDER = "catalogue-v3"
"""In the cache; raise its number when what is kept changes, so that the old isn't taken."""
_PARTS = {
    # part: (seed, number of products, of held-out looks)
    "train": (11, 900, False),
    "eval": (12, 60, True),
    "search": (13, 250, True),
}
CATALOGUE_NAMES = ("catalogue-train", "catalogue-eval", "catalogue-queries", "catalogue-index")


def load_catalogue(name: str) -> DocList[ClipDoc]:
    """One of the catalogue's data sets.

    `catalogue-train` (900 products) and `catalogue-eval` (60) are pairs of a title and one of
    the product's three pictures; `catalogue-queries` are the titles of 250 more products and
    `catalogue-index` their 750 pictures, labelled by title. All but the first are of looks that
    neither `catalogue-train` nor the built-in model's own training has.

    Raises:
        NotFound: no such data set.
    """
    if name not in CATALOGUE_NAMES:
        raise NotFound(f"no catalogue {name!r}: {near_matches(name, CATALOGUE_NAMES)}")
    part = name.removeprefix("catalogue-")
    part = "search" if part in ("queries", "index") else part
    products = part_products(part)
    if name == "catalogue-queries":
        return DocList[ClipDoc](
            ClipDoc(id=f"query-{i}", text=product.title, label=product.title)
            for i, product in enumerate(products)
        )
    pictures = _pictures(part, len(products) * VARIANTS)
    drawn = itertools.product(enumerate(products), range(VARIANTS))
    return DocList[ClipDoc](
        ClipDoc(
            id=f"{part}-{i}-{variant}",
            text=product.title,
            label=product.title,
            image=picture,
            tags=_tags(product, variant),
        )
        for ((i, product), variant), picture in zip(drawn, pictures, strict=True)
    )


def part_products(part: str) -> list[Product]:
    """The products of `train`, `eval` or `search`; no title is in two of them."""
    seed, count, held_out = _PARTS[part]
    taken = {product.title for product in part_products("eval")} if part == "search" else set()
    fresh = (p for p in range_products(seed, held_out=held_out) if p.title not in taken)
    return list(islice(fresh, count))


def _tags(product: Product, variant: int) -> dict[str, str | float]:
    return {
        "brand": product.brand,
        "category": KIND_BY_NAME[product.kind].category,
        "kind": product.kind,
        "colour": product.trade_colour,
        "pattern": product.pattern,
        "gender": product.gender,
        "price": product.price,
        "variant": variant,
    }


def _pictures(part: str, count: int) -> list[bytes]:
    """The pictures of `part` in order, from the cache folder if they are there."""
    folder = current().cache_dir / FOLDER / part
    cached = _read(folder)
    if cached is None:
        cached = _draw_all(part, count)
        with new_folder(folder, replace=True) as beside:
            _write(beside, cached)
    return cached


def _draw_all(part: str, count: int) -> list[bytes]:
    """The pictures of `part`, drawn by one process a core.

    They are processes of their own (`python -m cliptune.demo.catalogue`), because a fork
    would inherit the caller's threads, and multiprocessing's spawn runs the caller's script again.
    """
    n = os.cpu_count() or 1
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with tempfile.TemporaryDirectory() as scratch:
        shares = [Path(scratch) / str(share) for share in range(n)]
        processes = []
        for share, folder in enumerate(shares):
            folder.mkdir()
            command = [sys.executable, "-m", _PACKAGE, part, str(share), str(n), str(folder)]
            processes.append(subprocess.Popen(command, env=environment))  # noqa: S603 - our own
        failed = [process.returncode for process in processes if process.wait()]
        if failed:
            raise RuntimeError(f"drawing the catalogue ended with status {failed[0]}")
        drawn = [_read(folder) or [] for folder in shares]
    return [drawn[i % n][i // n] for i in range(count)]


def draw_share(part: str, share: int, n: int, folder: Path) -> None:
    """Draw every `n`-th picture of `part` from `share` on, into `folder`."""
    jobs = [(product, variant) for product in part_products(part) for variant in range(VARIANTS)]
    _write(folder, [draw(product, variant) for product, variant in jobs[share::n]])


def draw(product: Product, variant: int) -> bytes:
    """One picture of a product as JPEG."""
    buffer = io.BytesIO()
    render(product, variant, PICTURE_SIZE).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _write(folder: Path, pictures: list[bytes]) -> None:
    with ZipFile(folder / "pictures.bin", "w") as archive:
        for number, picture in enumerate(pictures):
            archive.writestr(str(number), picture)


def _read(folder: Path) -> list[bytes] | None:
    """The pictures in `folder`, or None if they are not there or not whole."""
    try:
        with ZipFile(folder / "pictures.bin") as archive:
            return [archive.read(name) for name in archive.namelist()]  # each has a checksum
    except (OSError, BadZipFile):
        return None
