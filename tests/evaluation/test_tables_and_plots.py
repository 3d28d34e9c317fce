"""Tables and pictures of an evaluation."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from cliptune.errors import BadInput
from cliptune.evaluation.metrics import METRICS
from cliptune.evaluation.plots import (
    HIT,
    MISS,
    _cut,
    _font,
    _wrapped,
    results_grid,
)
from cliptune.evaluation.tables import before_after_table, common_prefix, ordered

PREFIX = "clip-text-to-clip-vision_"
BEFORE = {f"{PREFIX}recall_at_k": 0.4, f"{PREFIX}precision_at_k": 0.2, f"{PREFIX}hit_at_k": 0.9}
AFTER = {f"{PREFIX}recall_at_k": 0.5, f"{PREFIX}precision_at_k": 0.15, f"{PREFIX}hit_at_k": 0.9}
MIXED = {f"{PREFIX}recall_at_k": 0.6, f"{PREFIX}precision_at_k": 0.18}


def rows(table: object) -> dict[str, list[tuple[str, str]]]:
    """Each row's cells as (text, style), by the metric's name."""
    cells = [list(column.cells) for column in table.columns]
    return {
        name: [(str(cell), str(cell.style)) for cell in rest]
        for name, *rest in zip(*cells, strict=True)
    }


def test_table_shows_gain_and_the_best_of_each_row() -> None:
    table = before_after_table(BEFORE, AFTER, {"WiSE-FT 0.5": MIXED})
    assert [c.header for c in table.columns] == ["metric", "before", "after", "gain", "WiSE-FT 0.5"]
    assert table.caption == "clip-text-to-clip-vision"
    shown = rows(table)
    assert list(shown) == ["precision_at_k", "hit_at_k", "recall_at_k"]
    best = "bold green"
    assert shown["recall_at_k"] == [
        ("0.4000", ""),
        ("0.5000", ""),
        ("+0.1000 (+25.0%)", "green"),
        ("0.6000", best),
    ]
    assert shown["precision_at_k"][0] == ("0.2000", best)
    assert shown["precision_at_k"][2] == ("-0.0500 (-25.0%)", "red")
    assert shown["hit_at_k"] == [
        ("0.9000", ""),
        ("0.9000", ""),
        ("+0.0000 (+0.0%)", ""),
        ("–", ""),
    ]
    console = Console(width=100, file=io.StringIO())
    console.print(table)


def test_table_of_losses_and_of_a_metric_that_was_0() -> None:
    table = before_after_table(
        {"val_loss": 3.0, "clip_hit_at_k": 0.0}, {"val_loss": 2.0, "clip_hit_at_k": 0.5}
    )
    shown = rows(table)
    assert list(shown) == ["hit_at_k", "val_loss"]
    assert shown["hit_at_k"][2] == ("+0.5000", "green")
    assert shown["val_loss"] == [
        ("3.0000", ""),
        ("2.0000", "bold green"),
        ("-1.0000 (-33.3%)", "green"),
    ]


def test_prefix_and_order() -> None:
    assert common_prefix(METRICS) == ""
    assert common_prefix([PREFIX + m for m in METRICS]) == PREFIX
    assert common_prefix(["a_recall_at_k", "b_recall_at_k"]) == ""
    assert common_prefix(["a_r_precision", "a_average_precision_textbook", "val_loss"]) == "a_"
    assert ordered(reversed(METRICS)) == list(METRICS)
    assert ordered(["loss", "b_hit_at_k", "a_hit_at_k", "b_precision_at_k"]) == [
        "b_precision_at_k",
        "b_hit_at_k",
        "a_hit_at_k",
        "loss",
    ]


def near(pixels: np.ndarray, colour: str) -> int:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(pixels.astype(int) - wanted).max(axis=-1) < 6).sum())


def test_grid_of_real_pictures(shared_dir: Path, tmp_path: Path) -> None:
    with (shared_dir / "fashion" / "products.csv").open(encoding="utf-8") as file:
        products = [
            (row["productDisplayName"], shared_dir / "fashion" / "images" / f"{row['id']}.jpg")
            for row in csv.DictReader(file)
        ]
    found = [(title, path.read_bytes()) for title, path in products if path.is_file()][:12]
    grid = [
        ("a query", {"": [(title, data, 0.5, True) for title, data in found[:6]]}),
        ("another", {"": [(title, data, 0.25, None) for title, data in found[6:10]]}),
    ]
    path = results_grid(grid, tmp_path / "hits.png", title="Hits")
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width == 1000
        pixels = np.asarray(sheet)
    # Six green frames of four pixels' width; no red one.
    side = (1000 - 150 - 8 * 12) // 6
    assert near(pixels, HIT) > 6 * 4 * side * 3
    assert near(pixels, MISS) < 50
    # Another query needs another row: one row of the same height less.
    one = results_grid(grid[:1], tmp_path / "one.png", title="Hits")
    with Image.open(one) as sheet:
        assert sheet.height < pixels.shape[0]


def test_grid_draws_the_picture_itself_in_its_frame(tmp_path: Path) -> None:
    picture = Image.new("RGB", (30, 60), "#3311ee")
    rows = [("q", {"": [("title", picture, 0.1, False)]})]
    path = results_grid(rows, tmp_path / "g.png", width=400)
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    side = 400 - 150 - 3 * 12
    # Twice as tall as wide, and whole: half of the square inside the frame.
    assert near(pixels, "#3311ee") == pytest.approx((side - 4) ** 2 / 2, rel=0.03)
    assert near(pixels, MISS) > 4 * side * 1.5


def test_before_stands_beside_after(tmp_path: Path) -> None:
    colours = ["#3311ee", "#11aa22", "#eeaa11", "#ee1188", "#11cccc", "#777711"]
    found = [("t", Image.new("RGB", (40, 40), colour), 0.5, True) for colour in colours]
    rows = [("query", {"before": found[:3], "after": found[3:]})]
    path = results_grid(rows, tmp_path / "g.png", max_columns=3)
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    middles = []
    for colour in colours:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        y, x = np.nonzero(np.abs(pixels - wanted).max(axis=-1) < 6)
        middles.append((x.mean(), y.mean()))
    across, down = zip(*middles, strict=True)
    assert list(across) == sorted(across)
    assert max(down) - min(down) < 5, "in one line"
    gaps = np.diff(across)
    assert gaps[2] > gaps[[0, 1, 3, 4]].max() + 5, "and the two models apart"


def test_hits_and_misses_differ_without_colours(tmp_path: Path) -> None:
    """In grey a hit has a frame that is clearly darker and thicker, and a tick in its corner."""
    picture = Image.new("RGB", (60, 60), "white")
    grey = {}
    for hit in (True, False):
        rows = [("q", {"": [("title", picture, 0.1, hit)]})]
        with Image.open(results_grid(rows, tmp_path / "g.png", width=400)) as sheet:
            grey[hit] = np.asarray(sheet.convert("L")).astype(int)
    left, top, side = 12 + 150, 24, 400 - 150 - 3 * 12
    middle = top + side // 2
    frame = {hit: pixels[middle, left : left + 4] for hit, pixels in grey.items()}
    assert frame[True].max() < 130
    assert frame[False].min() > 150
    assert list(frame[False][2:]) == [255, 255]
    corner = {
        hit: p[top + 6 : top + 24, left + side - 24 : left + side - 6] for hit, p in grey.items()
    }
    assert corner[True].min() < 130
    assert corner[False].min() == 255


def test_grid_refuses_what_it_can_not_draw(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="at least one query with a result"):
        results_grid([("q", {"": []})], tmp_path / "g.png")
    picture = Image.new("RGB", (3, 3))
    three = {"": [("t", picture, 0.1, None)] * 3}
    with pytest.raises(BadInput, match="width 250"):
        results_grid([("q", three)], tmp_path / "g.png", width=250)
    with pytest.raises(BadInput, match="result 1, 'broken'"):
        results_grid([("q", {"": [("broken", b"no picture", 0.1, None)]})], tmp_path / "g.png")
    assert not list(tmp_path.iterdir())


def test_text_is_wrapped_and_cut_to_its_width() -> None:
    font = _font(12)
    lines = _wrapped("one two three four five six seven eight nine ten", font, 80, 3)
    assert len(lines) == 3
    assert lines[-1].endswith("…")
    assert all(font.getlength(line) <= 80 for line in lines)
    assert "".join(lines[:2]).replace(" ", "").startswith("onetwothree")
    assert _wrapped("short", font, 80, 3) == ["short"]
    assert _wrapped("", font, 80, 3) == []
    cut = _cut("supercalifragilistic", font, 60)
    assert cut.endswith("…")
    assert font.getlength(cut) <= 60 < font.getlength(cut[:-1] + "xx…")
