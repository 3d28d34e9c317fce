"""What is worn below the waist: laid flat, seen from the front."""

from __future__ import annotations

from cliptune.demo.catalogue.attributes import RGB
from cliptune.demo.catalogue.pen import Pen, darker

THREAD: RGB = (206, 160, 84)


def _legs(
    pen: Pen, waist: float, hip: float, crotch: float, ankle: tuple[float, float], hem: float
) -> None:
    """Two legs under a waistband; `ankle` is (inner, outer) half widths at the hem."""
    top = 0.07
    inner, outer = ankle
    pen.both(
        f"0.5,{top}! {0.5 + waist},{top}! {0.5 + hip},{top + 0.2} "
        f"{0.5 + (hip + outer) / 2},{(crotch + hem) / 2} {0.5 + outer},{hem}! "
        f"{0.5 + inner},{hem + 0.005}! 0.515,{crotch} 0.5,{crotch}!"
    )
    pen.seam([(0.5, top + 0.05), (0.5, crotch)], darker(pen.rgb, 0.6))
    pen.seams([(0.5 + inner, hem - 0.02), (0.5 + outer, hem - 0.025)])


def _waistband(pen: Pen, waist: float, rgb: RGB | None = None) -> None:
    band = rgb or darker(pen.rgb, 0.88)
    pen.box(0.5 - waist - 0.004, 0.055, 0.504 + waist, 0.105, band, 0.008)


def jeans(pen: Pen) -> None:
    """Jeans: five pockets and contrasting thread."""
    wide = (0.0, 0.03, 0.06)[pen.product.seed % 3]
    _legs(pen, 0.17, 0.215, 0.38, (0.075 - wide / 3, 0.185 + wide), 0.95)
    _waistband(pen, 0.17)
    r, g, b = (min(255, value + 34) for value in pen.rgb)
    for x in (0.375, 0.625):
        pen.piece(
            [(x - 0.03, 0.34), (x + 0.03, 0.34), (x + 0.022, 0.62), (x - 0.022, 0.62)],
            (r, g, b),
            edge=0,
        )
    pen.seams("0.57,0.11 0.6,0.165 0.69,0.185", THREAD, 1.4)
    pen.seams([(0.695, 0.3), (0.685 + wide, 0.94)], THREAD, 1.0)
    pen.seam("0.5,0.11 0.535,0.2 0.5,0.29", THREAD, 1.2)
    for x in (0.36, 0.44, 0.56, 0.64):
        pen.box(x - 0.008, 0.05, x + 0.008, 0.11, pen.rgb, 0.003)
    pen.dot((0.5, 0.08), 0.013, THREAD)
    pen.mark((0.65, 0.14), 0.015)


def trousers(pen: Pen) -> None:
    """Trousers with creases and slanted pockets."""
    wide = (0.0, 0.02, 0.05)[pen.product.seed % 3]
    _legs(pen, 0.165, 0.205, 0.37, (0.06, 0.165 + wide), 0.95)
    _waistband(pen, 0.165)
    pen.seams([(0.585, 0.2), (0.6 + wide / 2, 0.93)], darker(pen.rgb, 0.78), 1.2)
    pen.seams([(0.6, 0.11), (0.68, 0.23)], width=1.5)
    pen.dot((0.5, 0.08), 0.01, darker(pen.rgb, 0.5))


def shorts(pen: Pen) -> None:
    """Shorts with a drawstring."""
    hem = (0.56, 0.64, 0.72)[pen.product.seed % 3]
    _legs(pen, 0.2, 0.26, 0.42, (0.045, 0.31), hem + 0.06)
    _waistband(pen, 0.2)
    pen.seams([(0.63, 0.11), (0.73, 0.26)], width=1.5)
    pen.seams([(0.51, 0.1), (0.53, 0.2)], (238, 238, 234), 1.6)
    pen.mark((0.66, hem - 0.02), 0.024)


def leggings(pen: Pen) -> None:
    """Leggings, ankle-length or cropped."""
    hem = 0.96 if pen.product.seed % 2 else 0.76
    _legs(pen, 0.135, 0.175, 0.33, (0.055, 0.125), hem)
    _waistband(pen, 0.135, darker(pen.rgb, 0.75))
    pen.mark((0.6, 0.17), 0.02)


def skirt(pen: Pen) -> None:
    """A skirt: from straight to flared, mini to maxi."""
    seed = pen.product.seed
    hem = (0.66, 0.8, 0.94)[seed % 3]
    flare = (0.2, 0.29, 0.36)[seed // 3 % 3]
    pen.symmetric(
        f"0.5,0.12 0.645,0.11! {0.6 + flare * 0.45},0.36 {0.5 + flare},{hem}! 0.5,{hem + 0.025}"
    )
    pen.box(0.35, 0.08, 0.65, 0.135, darker(pen.rgb, 0.8), 0.008)
    for x in (-0.8, -0.5, -0.2, 0.1, 0.4, 0.7):
        pen.seam([(0.5 + x * 0.14, 0.14), (0.5 + x * flare, hem + 0.01 - abs(x) * 0.015)])
    pen.mark((0.6, 0.165), 0.014)


SHAPES = (jeans, trousers, shorts, leggings, skirt)
