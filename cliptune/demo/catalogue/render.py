"""From a product to a picture: draw it, light it, and set it before a studio background."""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from cliptune.demo.catalogue.pen import Pen
from cliptune.demo.catalogue.products import Product
from cliptune.demo.catalogue.shapes import SHAPES

_SUPERSAMPLING = 2
_BACKGROUNDS = ((255, 255, 255), (250, 250, 250), (244, 244, 242), (238, 240, 243), (246, 241, 234))


def render(product: Product, variant: int, size: int) -> Image.Image:
    """Picture number `variant` of `product`: RGB, `size` x `size` pixels, always the same.

    Variants differ in pose, lighting, background and shade, not in what the title names.
    """
    rng = random.Random(f"{product.seed} {variant}")
    side = size * _SUPERSAMPLING
    pen = Pen(product, side, rng)
    SHAPES[product.kind](pen)
    posed = _pose(pen.canvas, rng, calm=product.studio)
    lit = _light(posed, rng)
    picture = _on_background(lit, rng, calm=product.studio)
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def _pose(canvas: Image.Image, rng: random.Random, *, calm: bool) -> Image.Image:
    """Turn, scale, shift and mirror by one affine map about the middle."""
    side = canvas.width
    turn = math.radians(rng.gauss(0, 3 if calm else 5))
    scale = rng.uniform(0.84, 0.95) if calm else rng.uniform(0.66, 0.97)
    stretch = 1.0 if calm else rng.uniform(0.78, 1.12)
    mirror = -1 if rng.random() < 0.5 else 1
    slack = (1 - scale) / 2
    dx, dy = (rng.uniform(-slack, slack) * side * (0.4 if calm else 0.9) for _ in range(2))
    cos, sin = math.cos(turn) / scale, math.sin(turn) / scale
    a, b, d, e = mirror * cos / stretch, mirror * sin / stretch, -sin, cos
    middle = side / 2
    c = middle - a * (middle + dx) - b * (middle + dy)
    f = middle - d * (middle + dx) - e * (middle + dy)
    # Colours are premultiplied, so that no dark seam appears where the canvas is transparent.
    return (
        canvas.convert("RGBa")
        .transform(
            canvas.size, Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR
        )
        .convert("RGBA")
    )


def _light(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Light from one side, soft folds in the cloth, and darker towards the edges."""
    side = picture.width
    small = side // 4  # light is smooth: a quarter of the resolution is enough
    y, x = np.mgrid[0:small, 0:small].astype(np.float32) / small
    angle = rng.uniform(-2.4, -0.7)
    light = 1.02 + 0.18 * ((x - 0.5) * math.cos(angle) + (y - 0.5) * math.sin(angle))
    for _ in range(3):
        slope, phase = rng.uniform(-0.9, 0.9), rng.uniform(0, 6.3)
        wave = np.sin((x + slope * y) * rng.uniform(9, 22) + phase)
        light += 0.022 * wave * np.abs(wave)
    # A blurred silhouette falls off inside the edges: the cloth bends away there.
    body = picture.getchannel("A").resize((small, small), Image.Resampling.BILINEAR)
    body = body.filter(ImageFilter.GaussianBlur(small * 0.028))
    light *= 0.74 + 0.27 * np.asarray(body, dtype=np.float32) / 255
    # Multiplied as 8 bits, where 200 stands for 1, after brightening what that takes away.
    levels = Image.fromarray(np.clip(light * 200, 0, 255).astype(np.uint8))
    levels = levels.resize((side, side), Image.Resampling.BILINEAR)
    rgb = ImageChops.multiply(picture.convert("RGB"), Image.merge("RGB", [levels] * 3))
    rgb = rgb.point([min(255, round(value * 255 / 200)) for value in range(256)] * 3)
    rgb.putalpha(picture.getchannel("A"))
    return rgb


def _on_background(picture: Image.Image, rng: random.Random, *, calm: bool) -> Image.Image:
    """Set the product before a light background with a soft shadow below it."""
    side = picture.width
    shade = rng.choice(_BACKGROUNDS)
    if not calm and rng.random() < 0.15:
        base = rng.randint(205, 250)
        shade = tuple(min(255, base + rng.randint(-8, 8)) for _ in range(3))  # type: ignore[assignment]
    background = _backdrop(side, shade)
    small = side // 4
    shadow = Image.new("L", (small, small), 0)
    alpha = picture.getchannel("A").resize((small, small), Image.Resampling.BILINEAR)
    shadow.paste(alpha, (round(small * rng.uniform(-0.012, 0.02)), round(small * 0.022)))
    shadow = shadow.filter(ImageFilter.GaussianBlur(small * 0.022))
    strength = rng.uniform(0.1, 0.3)
    shadow = shadow.point([round(value * strength) for value in range(256)])
    background.paste((0, 0, 0), (0, 0), shadow.resize((side, side), Image.Resampling.BILINEAR))
    background.paste(picture, (0, 0), picture)
    return background


def _backdrop(side: int, shade: tuple[int, int, int]) -> Image.Image:
    """The colour `shade`, a trace darker towards the floor."""
    column = Image.new("RGB", (1, 2))
    column.putpixel((0, 0), shade)
    column.putpixel((0, 1), tuple(round(value * 0.97) for value in shade))
    return column.resize((side, side), Image.Resampling.BILINEAR)
