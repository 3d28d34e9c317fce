"""Bags and small leather goods, seen from the front."""

from __future__ import annotations

from cliptune.demo.catalogue.attributes import RGB
from cliptune.demo.catalogue.pen import Pen, darker

BRASS: RGB = (206, 174, 98)
STEEL: RGB = (182, 186, 192)


def handbag(pen: Pen) -> None:
    """A handbag: open tote, or with a flap and a clasp."""
    seed = pen.product.seed
    top = 0.4
    strap = darker(pen.rgb, 0.7)
    for height, width in ((0.08, 0.17), (0.12, 0.15)):
        pen.seam(
            (
                f"{0.5 - width},{top + 0.05} {0.5 - width * 0.9},{height + 0.1} 0.5,{height} "
                f"{0.5 + width * 0.9},{height + 0.1} {0.5 + width},{top + 0.05}"
            ),
            strap,
            5,
        )
    slope = (0.0, 0.05, -0.04)[seed % 3]
    pen.symmetric(
        f"0.5,{top} {0.78 - slope},{top}! {0.82 + slope},0.88 {0.8 + slope},0.92 0.5,0.93"
    )
    if seed // 3 % 2:
        pen.symmetric(
            (
                f"0.5,{top - 0.01} {0.785 - slope},{top - 0.01}! {0.77 - slope},0.56 0.64,0.66 "
                "0.5,0.67"
            ),
            darker(pen.rgb, 0.88),
        )
        pen.box(0.46, 0.62, 0.54, 0.7, BRASS, 0.012)
    else:
        pen.seam([(0.24 + slope, top + 0.05), (0.76 - slope, top + 0.05)], width=1.6, smooth=False)
        pen.both([(0.645, top + 0.03), (0.695, top + 0.03), (0.69, 0.53), (0.65, 0.53)], strap)
        pen.dot((0.67, 0.5), 0.014, BRASS)
        pen.dot((0.33, 0.5), 0.014, BRASS)
    pen.seam([(0.21 - slope, 0.86), (0.5, 0.87), (0.79 + slope, 0.86)])
    pen.mark((0.5, 0.78), 0.034)


def backpack(pen: Pen) -> None:
    """A backpack with a front pocket, a grab handle and shoulder straps."""
    strap = darker(pen.rgb, 0.6)
    pen.seam("0.44,0.12 0.46,0.055 0.54,0.055 0.56,0.12", strap, 5)
    pen.seams("0.72,0.24 0.83,0.4 0.83,0.68 0.74,0.84", strap, 7)
    pen.symmetric("0.5,0.09 0.66,0.12 0.745,0.26 0.77,0.6 0.765,0.9 0.72,0.945 0.5,0.955")
    pen.seam("0.29,0.42 0.31,0.24 0.5,0.17 0.69,0.24 0.71,0.42", STEEL, 2.4)
    pen.symmetric(
        "0.5,0.53 0.68,0.54 0.7,0.6 0.705,0.87 0.66,0.905 0.5,0.91", darker(pen.rgb, 0.86)
    )
    pen.seam("0.33,0.6 0.5,0.59 0.67,0.6", STEEL, 2.4)
    pen.both("0.735,0.6 0.79,0.62 0.79,0.88 0.745,0.9", darker(pen.rgb, 0.75))
    pen.mark((0.5, 0.74), 0.042)


def wallet(pen: Pen) -> None:
    """A wallet: a closed billfold, or open with its cards."""
    if pen.product.seed % 2:
        pen.box(0.12, 0.26, 0.88, 0.76, pen.rgb, 0.03)
        pen.seam([(0.14, 0.3), (0.86, 0.3)], darker(pen.rgb, 0.6), 1.2, smooth=False)
        pen.seam([(0.14, 0.72), (0.86, 0.72)], darker(pen.rgb, 0.6), 1.2, smooth=False)
        pen.box(0.7, 0.43, 0.92, 0.57, darker(pen.rgb, 0.82), 0.03)
        pen.dot((0.77, 0.5), 0.022, STEEL)
        pen.mark((0.3, 0.6), 0.038)
        return
    pen.box(0.06, 0.24, 0.94, 0.78, pen.rgb, 0.025)
    for card, rgb in enumerate(((226, 226, 222), (120, 160, 200), (214, 170, 90))):
        y = 0.32 + card * 0.075
        pen.box(0.55, y, 0.9, y + 0.2, rgb, 0.012)
        pen.box(0.54, y + 0.035, 0.91, 0.74, darker(pen.rgb, 0.9), 0.008)
    pen.seam([(0.5, 0.24), (0.5, 0.78)], darker(pen.rgb, 0.5), 3, smooth=False)
    pen.box(0.11, 0.38, 0.45, 0.72, darker(pen.rgb, 0.92), 0.01)
    pen.mark((0.28, 0.56), 0.04)


def belt(pen: Pen) -> None:
    """A rolled-up belt with its buckle."""
    metal = BRASS if pen.product.seed % 2 else STEEL
    edge = darker(pen.rgb, 0.62)
    for shade, width in ((edge, 16.0), (pen.rgb, 13.5)):
        pen.seam(
            (
                "0.56,0.38 0.72,0.42 0.74,0.56 0.56,0.66 0.32,0.62 0.2,0.46 0.34,0.28 0.62,0.24 "
                "0.84,0.36"
            ),
            shade,
            width,
        )
    for shade, width in ((edge, 16.0), (pen.rgb, 13.5)):
        pen.seam("0.3,0.8 0.6,0.78 0.86,0.6 0.87,0.44 0.8,0.34", shade, width)
    for i in range(4):
        pen.dot((0.4 + i * 0.075, 0.795 - i * 0.006), 0.009, darker(pen.rgb, 0.35))
    pen.box(0.1, 0.69, 0.32, 0.9, metal, 0.02)
    pen.box(0.145, 0.735, 0.275, 0.855, darker(pen.rgb, 0.8), 0.01)
    pen.seam([(0.12, 0.795), (0.29, 0.795)], metal, 3.5)


SHAPES = (handbag, backpack, wallet, belt)
