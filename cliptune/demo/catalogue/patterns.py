"""Fabrics: a pattern in two colours as an RGB picture of a given size."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cliptune.demo.catalogue.attributes import RGB

Grid = NDArray[np.float32 | np.float64]
"""Coordinates in [0, 1] of each pixel."""


def fabric(pattern: str, rgb: RGB, accent: RGB, size: int, rng: random.Random) -> Image.Image:
    """A `size` x `size` piece of cloth in `rgb` with `pattern` in `accent`."""
    if pattern in _DRAWN:
        picture = Image.new("RGB", (size, size), rgb)
        _DRAWN[pattern](ImageDraw.Draw(picture), size, rgb, accent, rng)
        return picture
    if pattern not in _WOVEN:
        return Image.new("RGB", (size, size), rgb)
    u, v = _grid(size)
    weight = _WOVEN[pattern](u, v, rng.uniform(0.85, 1.2))
    mask = Image.fromarray((weight * 255).astype(np.uint8))
    cloth = Image.new("RGB", (size, size), rgb)
    cloth.paste(accent, (0, 0), mask)
    return cloth


@functools.lru_cache(maxsize=4)
def _grid(size: int) -> tuple[Grid, Grid]:
    """The coordinates (x, y) in [0, 1] of each pixel."""
    steps = np.arange(size, dtype=np.float32) / size
    u, v = np.meshgrid(steps, steps)
    return u, v


def _tartan(u: Grid, v: Grid, scale: float) -> Grid:
    def bands(x: Grid) -> Grid:
        phase = (x * 5 * scale) % 1
        grid: Grid = 0.45 * (phase < 0.4) + 0.5 * ((phase > 0.62) & (phase < 0.68))
        return grid

    both: Grid = np.clip(bands(u) + bands(v), 0, 0.95)
    return both


def _dots(u: Grid, v: Grid, scale: float) -> Grid:
    x, y = u * 11 * scale, v * 11 * scale
    x = x + 0.5 * (np.floor(y) % 2)
    grid: Grid = ((x % 1 - 0.5) ** 2 + (y % 1 - 0.5) ** 2 < 0.075).astype(np.float32)
    return grid


def _houndstooth(u: Grid, v: Grid, scale: float) -> Grid:
    x, y = (u * 10 * scale) % 1 * 4, (v * 10 * scale) % 1 * 4
    warp, weft = (x < 2), (y < 2)
    twill = ((x + y) % 2) < 1
    grid: Grid = np.where(warp == weft, warp, twill).astype(np.float32)
    return grid


_WOVEN: dict[str, Callable[[Grid, Grid, float], Grid | NDArray[np.bool_]]] = {
    "stripes": lambda u, v, scale: (v * 11 * scale) % 1 < 0.42,
    "pinstripes": lambda u, v, scale: (u * 17 * scale) % 1 < 0.22,
    "check": lambda u, v, scale: (
        (((u * 9 * scale) % 1 < 0.5).astype(np.float32) + ((v * 9 * scale) % 1 < 0.5)) / 2
    ),
    "tartan": _tartan,
    "dots": _dots,
    "houndstooth": _houndstooth,
    "chevron": lambda u, v, scale: (
        (v * 9 * scale + np.abs((u * 7 * scale) % 1 - 0.5) * 2 * 0.9) % 1 < 0.45
    ),
    "block": lambda u, v, scale: v < 0.47,
}
"""How much of the accent each pixel has, in [0, 1]."""


def _floral(
    draw: ImageDraw.ImageDraw, size: int, rgb: RGB, accent: RGB, rng: random.Random
) -> None:
    leaf = (70, 120, 70)
    for row in range(9):
        for column in range(9):
            x = (column + 0.5 * (row % 2) + rng.uniform(-0.2, 0.2)) / 8.5 * size
            y = (row + rng.uniform(-0.2, 0.2)) / 8.5 * size
            r = size * rng.uniform(0.017, 0.028)
            draw.ellipse((x + r, y + r, x + 2.6 * r, y + 2 * r), fill=leaf)
            for petal in range(5):
                angle = petal * 1.2566 + column
                px, py = x + 1.1 * r * np.cos(angle), y + 1.1 * r * np.sin(angle)
                draw.ellipse((px - r * 0.8, py - r * 0.8, px + r * 0.8, py + r * 0.8), fill=accent)
            draw.ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), fill=(250, 220, 90))


def _camouflage(
    draw: ImageDraw.ImageDraw, size: int, rgb: RGB, accent: RGB, rng: random.Random
) -> None:
    r, g, b = rgb
    shades = [(r * 6 // 10, g * 6 // 10, b * 6 // 10), (min(255, r + 45), min(255, g + 45), b)]
    for number in range(70):
        x, y = rng.random() * size, rng.random() * size
        shade = shades[number % 2]
        for _ in range(4):
            w, h = size * rng.uniform(0.03, 0.1), size * rng.uniform(0.02, 0.06)
            dx, dy = rng.uniform(-0.05, 0.05) * size, rng.uniform(-0.04, 0.04) * size
            draw.ellipse((x + dx - w, y + dy - h, x + dx + w, y + dy + h), fill=shade)


def _print(draw: ImageDraw.ImageDraw, size: int, rgb: RGB, accent: RGB, rng: random.Random) -> None:
    """A motif where a chest is."""
    cx, cy, r = size * 0.5, size * rng.uniform(0.42, 0.48), size * rng.uniform(0.08, 0.11)
    box = (cx - r, cy - r, cx + r, cy + r)
    motif = rng.randrange(4)
    if motif == 0:
        draw.ellipse(box, fill=accent)
        draw.rectangle((cx - r, cy - r * 0.15, cx + r, cy + r * 0.15), fill=rgb)
    elif motif == 1:
        draw.polygon([(cx, cy - r * 1.2), (cx + r * 1.1, cy + r), (cx - r * 1.1, cy + r)], accent)
    elif motif == 2:
        for line, width in enumerate((1.0, 0.7, 0.9)):
            y = cy - r + line * r * 0.8
            draw.rectangle((cx - r * width, y, cx + r * width, y + r * 0.45), fill=accent)
    else:
        draw.rounded_rectangle(box, radius=r * 0.3, outline=accent, width=max(1, int(r * 0.25)))
        inner = r * 0.45
        draw.ellipse((cx - inner, cy - inner, cx + inner, cy + inner), fill=accent)


_DRAWN: dict[str, Callable[[ImageDraw.ImageDraw, int, RGB, RGB, random.Random], None]] = {
    "floral": _floral,
    "camouflage": _camouflage,
    "print": _print,
}
