"""The drawn catalogue: the same every time, and nothing of its evaluation in any training."""

from __future__ import annotations

import io
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliptune.demo.catalogue import (
    CATALOGUE_NAMES,
    is_held_out,
    load_catalogue,
    plain_products,
    render,
)
from cliptune.demo.catalogue.attributes import COLOURS, KINDS, PATTERNS
from cliptune.demo.catalogue.dataset import draw, part_products
from cliptune.demo.catalogue.products import VARIANTS
from cliptune.demo.catalogue.shapes import SHAPES
from cliptune.errors import NotFound


def test_evaluation_products_are_in_no_training_data() -> None:
    evaluation = {p.look for part in ("eval", "search") for p in part_products(part)}
    assert all(is_held_out(p) for part in ("eval", "search") for p in part_products(part))
    fine_tuning = {p.look for p in part_products("train")}
    # The seeds of scripts/train_builtin.py, training and validation.
    pre_training = {p.look for seed in (1, 2) for p in islice(plain_products(seed), 20_000)}
    assert len(pre_training) > 1000
    assert not evaluation & fine_tuning
    assert not evaluation & pre_training


def test_titles_tell_products_apart() -> None:
    titles = [p.title for part in ("train", "eval", "search") for p in part_products(part)]
    assert len(titles) == 900 + 60 + 250
    assert len(set(titles)) == len(titles)


def test_trade_words_are_not_in_the_plain_vocabulary() -> None:
    spoken = [
        *COLOURS,
        *(w for k in KINDS for w in k.plain),
        *(w for p in PATTERNS.values() for w in p[0]),
    ]
    plain = {word for words in spoken for word in words.lower().split()}
    trade = {p.trade_colour.lower() for p in part_products("search")}
    trade |= {PATTERNS[p.pattern][1].lower() for p in part_products("search")} - {""}
    assert len(trade) > 25
    assert not trade & plain


def test_every_kind_has_a_shape_and_its_own_look() -> None:
    assert set(SHAPES) == {kind.name for kind in KINDS}
    products = {p.kind: p for p in islice(plain_products(3), 600)}
    assert set(products) == set(SHAPES)
    pictures = [np.asarray(render(p, 0, 32)) for p in products.values()]
    for picture in pictures:
        assert picture.shape == (32, 32, 3)
        assert (
            picture.astype(int).max(axis=2) - picture.min(axis=2)
        ).std() > 0 or picture.std() > 5
    assert len({p.tobytes() for p in pictures}) == len(pictures)


def test_drawings_are_the_same_every_time_and_variants_differ() -> None:
    for product in part_products("search")[:5]:
        drawn = [draw(product, variant) for variant in range(VARIANTS)]
        assert drawn == [draw(product, variant) for variant in range(VARIANTS)]
        assert len(set(drawn)) == VARIANTS


def test_the_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, index = load_catalogue("catalogue-queries"), load_catalogue("catalogue-index")
    assert (len(queries), len(index)) == (250, 750)
    assert [doc.label for doc in index] == [q.label for q in queries for _ in range(VARIANTS)]
    assert len({doc.id for doc in [*queries, *index]}) == 1000
    for doc in index[::200]:
        image = Image.open(io.BytesIO(doc.image or b""))
        assert image.size == (192, 192)
        assert doc.tags.keys() >= {"brand", "category", "colour", "price"}
    with pytest.raises(NotFound, match="catalogue-train"):
        load_catalogue("catalogue-trian")
    assert set(CATALOGUE_NAMES) >= {"catalogue-train", "catalogue-index"}


@pytest.mark.e2e
def test_a_damaged_cache_is_drawn_again(cliptune_home: Path, tmp_path: Path) -> None:
    before = load_catalogue("catalogue-eval")
    [folder] = (cliptune_home / "cache").glob("catalogue-v*/eval")
    keep = tmp_path / "keep"
    shutil.copytree(folder, keep)
    data = bytearray((folder / "pictures.bin").read_bytes())
    data[1000] ^= 1
    (folder / "pictures.bin").write_bytes(bytes(data))
    again = load_catalogue("catalogue-eval")
    assert [doc.image for doc in again] == [doc.image for doc in before]
