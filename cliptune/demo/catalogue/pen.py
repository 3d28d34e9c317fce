"""Drawing cloth and hardware in unit coordinates: smooth pieces, seams, marks."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from PIL import Image, ImageDraw

from cliptune.demo.catalogue.attributes import RGB
from cliptune.demo.catalogue.patterns import fabric
from cliptune.demo.catalogue.products import Product

Point = tuple[float, float]
Points = Sequence[Point] | str
"""Points, or their text as in SVG's `points`: `x,y x,y ...`; `!` behind one makes it a corner."""


class Pen:
    """A transparent square on which one product is drawn; (0, 0) is top left, (1, 1) bottom right.

    `pattern` and `plain` are the product's cloth with and without its pattern.
    """

    def __init__(self, product: Product, size: int, rng: random.Random) -> None:
        """Prepare a canvas of `size` pixels; `rng` decides what varies between pictures."""
        self.product, self.size, self.rng = product, size, rng
        self.rgb, self.accent, self.ink = product.rgb, product.accent, product.ink
        self.canvas = Image.new("RGBA", (size, size), (0, 0, 0, 0))
        self.draw = ImageDraw.Draw(self.canvas)
        self.pattern = fabric(product.pattern, self.rgb, self.accent, size, rng)
        self.line_width = max(1, round(size / 150))

    def piece(
        self,
        points: Points,
        fill: RGB | Image.Image | None = None,
        *,
        smooth: bool = True,
        edge: float = 0.62,
    ) -> None:
        """Fill an outline with the product's cloth, or with `fill`; its edge is drawn darker."""
        outline = self._pixels(spline(points, closed=True) if smooth else points)
        if isinstance(fill, tuple):
            self.draw.polygon(outline, fill=(*fill, 255))
            base = fill
        else:
            mask = Image.new("L", self.canvas.size, 0)
            ImageDraw.Draw(mask).polygon(outline, fill=255)
            self.canvas.paste(fill or self.pattern, (0, 0), mask)
            base = self.rgb
        if edge:
            self.draw.line([*outline, outline[0]], (*darker(base, edge), 255), self.line_width)

    def both(self, points: Points, fill: RGB | None = None) -> None:
        """`piece` on the right and mirrored on the left."""
        self.piece(points, fill)
        self.piece(flip(points), fill)

    def symmetric(self, half: Points, fill: RGB | None = None) -> None:
        """`piece` of an outline given as its right half, from top to bottom."""
        self.piece([*parse(half), *flip(half)[::-1]], fill)

    def seam(
        self, points: Points, rgb: RGB | None = None, width: float = 1.0, *, smooth: bool = True
    ) -> None:
        """A line; by default in the cloth's colour, darker."""
        path = self._pixels(spline(points, closed=False) if smooth else points)
        colour = rgb or darker(self.rgb, 0.66)
        thickness = max(1, round(self.line_width * width))
        self.draw.line(path, (*colour, 255), thickness, joint="curve")

    def seams(self, points: Points, rgb: RGB | None = None, width: float = 1.0) -> None:
        """`seam` on both sides."""
        self.seam(points, rgb, width)
        self.seam(flip(points), rgb, width)

    def dot(self, at: Point, radius: float, rgb: RGB, edge: float = 0.6) -> None:
        """A filled circle: a button, an eyelet."""
        x, y, r = at[0] * self.size, at[1] * self.size, max(1.0, radius * self.size)
        outline = (*darker(rgb, edge), 255)
        self.draw.ellipse((x - r, y - r, x + r, y + r), fill=(*rgb, 255), outline=outline)

    def box(
        self, left: float, top: float, right: float, bottom: float, rgb: RGB, radius: float = 0.02
    ) -> None:
        """A filled rounded rectangle: a buckle, a label, a sole."""
        s = self.size
        corners = (left * s, top * s, right * s, bottom * s)
        edge = (*darker(rgb, 0.62), 255)
        self.draw.rounded_rectangle(corners, radius * s, (*rgb, 255), edge, self.line_width)

    def mark(self, at: Point, size: float = 0.022) -> None:
        """The brand's mark."""
        kind = self.product.mark
        if kind == "none":
            return
        x, y, r, s = at[0], at[1], size, self.size
        ink = (*self.ink, 255)
        box = ((x - r) * s, (y - r) * s, (x + r) * s, (y + r) * s)
        if kind == "ring":
            self.draw.ellipse(box, outline=ink, width=max(1, round(r * s * 0.45)))
        elif kind == "bar":
            dx, dy = r * s * 0.6, r * s * 0.4
            self.draw.rectangle((box[0] - dx, y * s - dy, box[2] + dx, y * s + dy), fill=ink)
        elif kind == "diamond":
            self.draw.polygon(self._pixels([(x, y - r), (x + r, y), (x, y + r), (x - r, y)]), ink)
        elif kind == "star":
            radii = [r * (1.15 if i % 2 == 0 else 0.45) for i in range(10)]
            corners = [
                (x + math.sin(i * math.pi / 5) * radii[i], y - math.cos(i * math.pi / 5) * radii[i])
                for i in range(10)
            ]
            self.draw.polygon(self._pixels(corners), ink)
        else:
            wave = [(x - 1.6 * r + i * 0.4 * r, y + math.sin(i * 1.5) * r * 0.5) for i in range(9)]
            self.draw.line(self._pixels(wave), ink, max(1, round(r * s * 0.45)), joint="curve")

    def _pixels(self, points: Points) -> list[Point]:
        return [(x * self.size, y * self.size) for x, y in parse(points)]


def parse(points: Points) -> Sequence[Point]:
    """`points` as numbers; a corner stands twice."""
    if not isinstance(points, str):
        return points
    parsed: list[Point] = []
    for word in points.split():
        x, y = word.removesuffix("!").split(",")
        parsed += [(float(x), float(y))] * (2 if word.endswith("!") else 1)
    return parsed


def flip(points: Points) -> list[Point]:
    """Mirrored at the middle."""
    return [(1 - x, y) for x, y in parse(points)]


def placed(points: Points, x: float, y: float = 0.0, *, mirrored: bool = False) -> list[Point]:
    """Moved by (`x`, `y`); mirrored first, at x = 0, if asked."""
    return [(x - dx if mirrored else x + dx, y + dy) for dx, dy in parse(points)]


def darker(rgb: RGB, factor: float) -> RGB:
    """`rgb` times `factor`, and lighter instead where it is nearly black."""
    if sum(rgb) < 150:
        factor = 2 - factor
        r, g, b = (min(255, int((value + 14) * factor)) for value in rgb)
    else:
        r, g, b = (max(0, min(255, int(value * factor))) for value in rgb)
    return r, g, b


def spline(points: Points, steps: int = 6, *, closed: bool) -> list[Point]:
    """A Catmull-Rom spline through `points`; a point given twice in a row is a corner."""
    points = parse(points)
    n = len(points)
    result: list[Point] = []
    for i in range(n if closed else n - 1):
        if closed:
            a, b, c, d = (points[(i + k) % n] for k in (-1, 0, 1, 2))
        else:
            a, b, c, d = (points[min(max(i + k, 0), n - 1)] for k in (-1, 0, 1, 2))
        if b == c:
            continue
        # At a corner the neighbour beyond it must not bend the curve.
        a = b if a == b else a
        for step in range(steps):
            t = step / steps
            result.append(
                (_catmull_rom(a[0], b[0], c[0], d[0], t), _catmull_rom(a[1], b[1], c[1], d[1], t))
            )
    if not closed:
        result.append(points[-1])
    return result


def _catmull_rom(a: float, b: float, c: float, d: float, t: float) -> float:
    return 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )
