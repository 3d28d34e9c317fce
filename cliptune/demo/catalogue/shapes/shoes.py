"""Footwear: from the side, toe to the left; flip flops from above."""

from __future__ import annotations

import functools

from cliptune.demo.catalogue.attributes import RGB
from cliptune.demo.catalogue.pen import Pen, darker, placed

RUBBER: RGB = (236, 236, 232)
HEEL: RGB = (46, 38, 34)


def sneakers(pen: Pen) -> None:
    """A sports shoe: thick sole, laces, side stripes, toe cap."""
    high = pen.product.seed % 4 == 0
    top = 0.22 if high else 0.36
    sole = pen.ink if pen.product.seed % 5 == 0 else RUBBER
    pen.piece(
        f"0.08,0.66 0.1,0.56 0.24,0.51 0.4,0.44 0.53,{top + 0.02}! 0.62,{top + 0.05} "
        f"0.7,{top + 0.05} 0.79,{top - 0.02}! 0.83,{top + 0.02} 0.84,0.5 0.9,0.68 0.5,0.7"
    )
    pen.piece("0.08,0.66 0.1,0.57 0.2,0.53 0.25,0.6 0.25,0.68", darker(pen.rgb, 0.85))
    pen.piece("0.77,0.46 0.84,0.46 0.89,0.67 0.74,0.67", darker(pen.rgb, 0.8))
    pen.piece(
        "0.06,0.65! 0.3,0.685 0.6,0.675 0.93,0.65! 0.93,0.73 0.86,0.755 0.2,0.755 0.07,0.73", sole
    )
    pen.seam("0.08,0.715 0.5,0.725 0.92,0.71", darker(sole, 0.8), 1.6)
    for i in range(3):
        x = 0.5 + i * 0.065
        pen.seam([(x, 0.66), (x + 0.05, 0.47)], pen.ink, 4.5)
    for i in range(5 if high else 4):
        t = i / 4
        x, y = 0.32 + t * 0.2, 0.49 - t * 0.12 * (1.6 if high else 0.8)
        pen.seam([(x - 0.02, y - 0.012), (x + 0.045, y + 0.03)], RUBBER, 3.4)
    pen.seam([(0.54, top + 0.03), (0.62, top + 0.065), (0.7, top + 0.065), (0.78, top)], width=3.5)
    pen.mark((0.78, 0.56), 0.02)


def casual(pen: Pen) -> None:
    """A loafer or a laced low shoe on a flat sole."""
    pen.piece(
        "0.07,0.64 0.11,0.54 0.26,0.49 0.44,0.46 0.5,0.4! 0.66,0.47 0.82,0.39! 0.87,0.48 "
        "0.9,0.66 0.5,0.68"
    )
    pen.piece("0.5,0.4! 0.66,0.47 0.82,0.39! 0.68,0.42 0.56,0.37", darker(pen.rgb, 0.5))
    if pen.product.seed % 2:
        for i in range(3):
            x = 0.38 + i * 0.045
            pen.seam([(x, 0.475 - i * 0.02), (x + 0.05, 0.52 - i * 0.02)], RUBBER, 3)
        sole: RGB = RUBBER
    else:
        pen.piece("0.33,0.48 0.46,0.45 0.56,0.55 0.52,0.6 0.42,0.54", darker(pen.rgb, 0.82))
        pen.seam("0.16,0.56 0.28,0.54 0.42,0.58", width=2)
        sole = HEEL
    pen.piece("0.06,0.635! 0.4,0.672 0.91,0.64! 0.915,0.7! 0.08,0.7!", sole)
    if sole == HEEL:
        pen.box(0.72, 0.68, 0.915, 0.735, HEEL, 0.006)


def boots(pen: Pen) -> None:
    """A boot with a shaft, ankle-high or up to the knee."""
    tall = pen.product.seed % 3 == 0
    top = 0.08 if tall else 0.24
    pen.piece(
        f"0.1,0.8 0.13,0.71 0.28,0.66 0.42,0.6 0.47,0.48 0.47,{top}! 0.79,{top - 0.01}! "
        "0.78,0.5 0.8,0.66 0.84,0.82 0.5,0.83"
    )
    pen.seam([(0.47, top + 0.04), (0.79, top + 0.03)], width=2)
    if pen.product.seed % 2:
        pen.piece(
            [(0.57, top + 0.05), (0.69, top + 0.05), (0.66, 0.6), (0.6, 0.6)], darker(pen.rgb, 0.55)
        )
    else:
        for i in range(5):
            y = 0.42 + i * 0.045
            pen.seam([(0.455 - i * 0.016, y), (0.54 - i * 0.016, y + 0.02)], pen.ink, 3)
    pen.seam("0.42,0.8 0.46,0.66 0.52,0.61", width=1.6)
    pen.piece("0.08,0.79! 0.5,0.825 0.85,0.79! 0.86,0.85! 0.1,0.855!", HEEL)
    pen.box(0.66, 0.83, 0.86, 0.915, HEEL, 0.006)


def heels(pen: Pen) -> None:
    """A court shoe on a high thin heel."""
    pen.piece(
        "0.05,0.76 0.09,0.7 0.22,0.66 0.36,0.64 0.52,0.56 0.7,0.4 0.8,0.28! 0.87,0.3 "
        "0.91,0.42 0.9,0.48 0.78,0.5 0.56,0.66 0.36,0.775 0.1,0.785"
    )
    pen.piece(
        "0.36,0.645 0.52,0.56 0.7,0.4 0.8,0.28! 0.79,0.36 0.64,0.55 0.5,0.63", darker(pen.rgb, 0.5)
    )
    pen.piece(
        "0.8,0.48 0.91,0.45! 0.885,0.62 0.88,0.8! 0.855,0.8! 0.855,0.62", darker(pen.rgb, 0.75)
    )
    pen.seam("0.06,0.785 0.36,0.78 0.57,0.665 0.79,0.5", HEEL, 3)
    if pen.product.seed % 2:
        pen.dot((0.2, 0.675), 0.028, pen.ink)


def sandals(pen: Pen) -> None:
    """A sandal: a sole with straps and a buckle."""
    sole: RGB = (176, 136, 92)
    wedge = pen.product.seed % 2
    pen.piece(
        (
            f"0.07,0.7! 0.35,0.7 0.6,{0.66 - 0.06 * wedge} 0.92,{0.62 - 0.1 * wedge}! 0.93,0.76! "
            "0.08,0.76!"
        ),
        sole,
    )
    lift = 0.08 * wedge
    pen.piece("0.13,0.7 0.16,0.6 0.25,0.56 0.31,0.58 0.27,0.7")
    pen.piece("0.3,0.7 0.37,0.56 0.47,0.53 0.5,0.56 0.44,0.69")
    pen.piece([(0.74, 0.65 - lift), (0.79, 0.44 - lift), (0.85, 0.42 - lift), (0.9, 0.63 - lift)])
    pen.piece(
        f"0.5,{0.47 - lift / 2} 0.66,{0.43 - lift} 0.82,{0.45 - lift} 0.83,{0.5 - lift} "
        f"0.66,{0.485 - lift} 0.51,{0.53 - lift / 2}"
    )
    pen.piece("0.44,0.6 0.5,0.47 0.55,0.49 0.5,0.68")
    pen.box(0.61, 0.425 - lift, 0.665, 0.495 - lift, (206, 176, 96), 0.008)


def flipflops(pen: Pen) -> None:
    """A pair of flip flops from above."""
    strap = pen.ink if pen.product.mark != "none" else darker(pen.rgb, 0.6)
    for middle, mirrored in ((0.29, False), (0.71, True)):
        foot = functools.partial(placed, x=middle, mirrored=mirrored)
        sole = (
            "-0.01,0.06 0.12,0.1 0.165,0.28 0.11,0.52 0.12,0.78 0.06,0.93 -0.06,0.93 "
            "-0.115,0.78 -0.12,0.5 -0.15,0.26 -0.1,0.1"
        )
        pen.piece(foot(sole))
        pen.seam(foot("-0.045,0.24 -0.11,0.34 -0.125,0.5"), strap, 6)
        pen.seam(foot("-0.045,0.24 0.06,0.33 0.12,0.5"), strap, 6)
        pen.dot(foot("-0.045,0.24")[0], 0.016, strap)


SHAPES = (sneakers, casual, boots, heels, sandals, flipflops)
