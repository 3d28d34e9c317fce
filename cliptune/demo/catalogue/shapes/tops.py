"""What is worn above the waist, and dresses: laid flat, seen from the front."""

from __future__ import annotations

from cliptune.demo.catalogue.attributes import RGB
from cliptune.demo.catalogue.pen import Pen, darker, placed

STEEL: RGB = (176, 180, 186)


def _fit(pen: Pen) -> tuple[float, float]:
    """(chest half width, waist half width) for the product's gender, varied a little."""
    chest, waist = {"men": (0.225, 0.215), "women": (0.2, 0.165), "kids": (0.215, 0.22)}[
        pen.product.gender
    ]
    vary = pen.rng.uniform(-0.012, 0.012)
    return chest + vary, waist + vary


def _sleeves(pen: Pen, chest: float, length: str) -> None:
    """Both sleeves: `short`, `long` or `cap`."""
    x, drop = 0.5 + chest, pen.rng.uniform(-0.02, 0.02)
    top, pit = (0.5 + chest * 0.86, 0.17), (x - 0.005, 0.38)
    if length == "long":
        outer, inner = (x + 0.15, 0.83 + drop), (x + 0.065, 0.85 + drop)
        above, below = [(x + 0.085, 0.3), (x + 0.125, 0.55)], [(x + 0.035, 0.6)]
        cuff = [(x + 0.058, 0.815 + drop), (x + 0.148, 0.795 + drop)]
    else:
        if length == "short":
            elbow, outer, inner = (x + 0.1, 0.27), (x + 0.16, 0.38 + drop), (x + 0.06, 0.45 + drop)
        else:
            elbow, outer, inner = (x + 0.07, 0.24), (x + 0.1, 0.3 + drop), (x + 0.02, 0.36)
        above, below = [elbow], []
        cuff = [(inner[0] - 0.004, inner[1] - 0.022), (outer[0] - 0.012, outer[1] - 0.022)]
    pen.both([top, top, *above, outer, outer, inner, inner, *below, pit, pit])
    pen.seams(cuff)


def _body(
    pen: Pen,
    chest: float,
    waist: float,
    hem: float,
    neck: float = 0.085,
    depth: float = 0.19,
    flare: float = 0.0,
) -> None:
    """Torso with a round neckline of half width `neck` down to `depth`."""
    pen.symmetric(
        f"0.5,{depth} {0.5 + neck * 0.7},{depth - 0.022} {0.5 + neck},0.125! "
        f"{0.5 + chest * 0.86},0.165! {0.5 + chest * 0.93},0.28 {0.5 + chest},0.38 "
        f"{0.5 + waist},0.6 {0.5 + waist + 0.012 + flare},{hem}! 0.5,{hem + 0.012}"
    )
    rim = hem - 0.022
    pen.seam([(0.5 - waist - flare, rim), (0.5, hem - 0.01), (0.5 + waist + flare, rim)])


def _inside(pen: Pen, neck: float, depth: float) -> None:
    """The back of the neckline, seen inside, and its rib."""
    inner = darker(pen.rgb, 0.55)
    pen.symmetric(
        [(0.5, 0.118), (0.5 + neck, 0.122), (0.5 + neck * 0.7, depth - 0.025), (0.5, depth)], inner
    )


def _round_neck(pen: Pen, neck: float = 0.085, depth: float = 0.19) -> None:
    _inside(pen, neck, depth)
    rib = (
        f"{0.5 - neck},0.122 {0.5 - neck * 0.7},{depth - 0.02} 0.5,{depth} "
        f"{0.5 + neck * 0.7},{depth - 0.02} {0.5 + neck},0.122"
    )
    pen.seam(rib, darker(pen.rgb, 0.8), 3.2)
    pen.seam(placed(rib, 0.0, 0.014))


def _v_neck(pen: Pen, depth: float = 0.27) -> None:
    inner = darker(pen.rgb, 0.55)
    pen.piece([(0.415, 0.12), (0.585, 0.12), (0.5, depth)], inner, smooth=False)
    pen.seams([(0.585, 0.12), (0.5, depth)], darker(pen.rgb, 0.8), 3.0)


def _collar(pen: Pen, placket: float, width: float = 0.11) -> None:
    """A turned-down collar and a buttoned placket down to `placket`."""
    inner = darker(pen.rgb, 0.5)
    pen.piece("0.42,0.11 0.58,0.11 0.5,0.2", inner, smooth=False)
    pen.seam([(0.482, 0.2), (0.482, placket)], smooth=False)
    pen.seam([(0.518, 0.2), (0.518, placket)], smooth=False)
    pen.both(f"0.5,0.195! 0.585,0.105! {0.5 + width},0.17! 0.548,0.235!")
    button = (238, 236, 230) if sum(pen.rgb) < 420 else darker(pen.rgb, 0.5)
    y = 0.25
    while y < placket - 0.02:
        pen.dot((0.5, y), 0.0085, button)
        y += 0.085


def tshirt(pen: Pen) -> None:
    """A t-shirt."""
    chest, waist = _fit(pen)
    _sleeves(pen, chest, "short")
    _body(pen, chest, waist, 0.87)
    if pen.rng.random() < 0.25:
        _v_neck(pen)
    else:
        _round_neck(pen)
    pen.mark((0.595, 0.29))


def longsleeve(pen: Pen) -> None:
    """A long-sleeved top with a short buttoned opening."""
    chest, waist = _fit(pen)
    _sleeves(pen, chest, "long")
    _body(pen, chest, waist, 0.87)
    _round_neck(pen)
    for y in (0.225, 0.265, 0.305):
        pen.dot((0.5, y), 0.008, darker(pen.rgb, 0.6))
    pen.mark((0.6, 0.3))


def shirt(pen: Pen) -> None:
    """A shirt with collar, buttons and a pocket."""
    chest, waist = _fit(pen)
    _sleeves(pen, chest, "short" if pen.product.seed % 3 == 0 else "long")
    _body(pen, chest, waist, 0.9, depth=0.15)
    _collar(pen, 0.89)
    pen.seam("0.56,0.34 0.66,0.34 0.66,0.45 0.61,0.47 0.56,0.45 0.56,0.34", smooth=False)
    pen.mark((0.61, 0.31), 0.017)


def polo(pen: Pen) -> None:
    """A polo shirt: a collar, a short placket, ribbed sleeves."""
    chest, waist = _fit(pen)
    _sleeves(pen, chest, "short")
    _body(pen, chest, waist, 0.87, depth=0.15)
    _collar(pen, 0.4, 0.105)
    pen.seam([(0.482, 0.4), (0.518, 0.4)], smooth=False)
    pen.mark((0.6, 0.31))


def tank(pen: Pen) -> None:
    """A sleeveless top with straps."""
    chest, waist = _fit(pen)
    hem = 0.88
    pen.symmetric(
        f"0.5,0.27 0.57,0.25 0.6,0.1! 0.655,0.1! 0.66,0.25 {0.5 + chest},0.37! "
        f"{0.5 + waist},0.6 {0.51 + waist},{hem}! 0.5,{hem + 0.01}"
    )
    pen.seam("0.4,0.1 0.43,0.25 0.5,0.27 0.57,0.25 0.6,0.1", darker(pen.rgb, 0.78), 2.5)
    pen.mark((0.5, 0.33), 0.018)


def blouse(pen: Pen) -> None:
    """A women's top with cap sleeves and a flared hem."""
    chest, waist = _fit(pen)
    _sleeves(pen, chest, "cap")
    _body(pen, chest, waist - 0.02, 0.84, neck=0.12, depth=0.215, flare=0.09)
    _round_neck(pen, 0.12, 0.215)
    for x in (-0.12, -0.06, 0.0, 0.06, 0.12):
        pen.seam([(0.5 + x * 0.7, 0.63), (0.5 + x * 1.5, 0.82)])
    pen.seam([(0.5 - waist, 0.615), (0.5, 0.63), (0.5 + waist, 0.615)], width=1.5)


def hoodie(pen: Pen) -> None:
    """A hooded sweatshirt with a pouch pocket."""
    chest, waist = _fit(pen)
    chest, waist = chest + 0.02, waist + 0.02
    pen.symmetric("0.5,0.03 0.59,0.05 0.635,0.14 0.6,0.2 0.5,0.26")
    _sleeves(pen, chest, "long")
    _body(pen, chest, waist, 0.85, neck=0.1, depth=0.25)
    pen.symmetric("0.5,0.075 0.555,0.09 0.575,0.16 0.53,0.22 0.5,0.24", darker(pen.rgb, 0.5))
    pen.seams("0.535,0.225 0.545,0.3 0.54,0.36", (236, 236, 232), 1.6)
    pen.seam("0.38,0.8 0.38,0.7 0.43,0.6 0.57,0.6 0.62,0.7 0.62,0.8", width=1.6, smooth=False)
    pen.seam([(0.5 - waist, 0.81), (0.5 + waist, 0.81)], width=1.6)
    pen.mark((0.5, 0.44), 0.034)


def sweater(pen: Pen) -> None:
    """A knitted pullover with ribbed hem and cuffs."""
    chest, waist = _fit(pen)
    chest, waist = chest + 0.015, waist + 0.015
    _sleeves(pen, chest, "long")
    _body(pen, chest, waist, 0.84)
    _round_neck(pen, 0.09, 0.195)
    pen.seam([(0.5 - waist, 0.785), (0.5 + waist, 0.785)], width=1.3)
    for i in range(-12, 13):
        x = 0.5 + i * waist / 12.5
        pen.seam([(x, 0.79), (x, 0.835)])
    for i in range(-5, 6):
        pen.seam([(0.5 + i * 0.032, 0.24), (0.5 + i * 0.034, 0.77)], darker(pen.rgb, 0.86))
    pen.mark((0.6, 0.31))


def jacket(pen: Pen) -> None:
    """A zipped jacket with a stand-up collar and pockets."""
    chest, waist = _fit(pen)
    chest, waist = chest + 0.02, waist + 0.015
    _sleeves(pen, chest, "long")
    _body(pen, chest, waist, 0.83, neck=0.1, depth=0.14)
    pen.symmetric("0.5,0.08 0.59,0.075! 0.612,0.15 0.5,0.19")
    pen.box(0.5 - waist - 0.01, 0.785, 0.51 + waist, 0.845, darker(pen.rgb, 0.8), 0.01)
    pen.seam([(0.5, 0.09), (0.5, 0.83)], STEEL, 3.2, smooth=False)
    pen.dot((0.5, 0.2), 0.013, STEEL)
    pen.seams([(0.6, 0.6), (0.655, 0.7)], darker(pen.rgb, 0.5), 2.4)
    pen.seams([(0.53, 0.33), (0.5 + chest * 0.92, 0.3)])
    pen.mark((0.605, 0.385))


def coat(pen: Pen) -> None:
    """A long coat with lapels, two rows of buttons and pockets."""
    chest, waist = _fit(pen)
    x = 0.5 + chest * 0.78
    pen.both(
        f"{x},0.11! {x + 0.1},0.22 {x + 0.135},0.45 {x + 0.14},0.68! {x + 0.06},0.69! "
        f"{x + 0.02},0.4"
    )
    pen.symmetric(
        f"0.5,0.1 0.57,0.07! {x},0.11! {0.49 + chest},0.3 {0.5 + waist * 0.92},0.46 "
        f"{0.53 + waist},0.95! 0.5,0.96"
    )
    pen.seam([(0.5, 0.36), (0.5, 0.955)], darker(pen.rgb, 0.5), 1.4, smooth=False)
    pen.piece("0.44,0.075 0.56,0.075 0.5,0.34", darker(pen.rgb, 0.45), smooth=False)
    pen.both("0.56,0.065! 0.615,0.15! 0.59,0.185 0.62,0.2! 0.505,0.37!")
    button = darker(pen.rgb, 0.4)
    for y in (0.4, 0.49, 0.58):
        pen.dot((0.455, y), 0.013, button)
        pen.dot((0.545, y), 0.013, button)
    pen.seams([(0.575, 0.64), (0.665, 0.62)], darker(pen.rgb, 0.5), 2.6)


def dress(pen: Pen) -> None:
    """A dress: fitted above, flared below."""
    rng, seed = pen.rng, pen.product.seed
    hem = (0.74, 0.86, 0.95)[seed % 3]
    flare = (0.14, 0.2, 0.26)[seed // 3 % 3] + rng.uniform(-0.01, 0.01)
    sleeved = seed // 9 % 2 == 0
    if sleeved:
        pen.both("0.63,0.1! 0.72,0.17 0.745,0.27! 0.66,0.29!")
    strap = 0.63 if sleeved else 0.605
    pen.symmetric(
        f"0.5,0.2 0.555,0.175 0.575,0.08! {strap},0.085! 0.632,0.22 0.652,0.3 0.605,0.46! "
        f"{0.56 + flare * 0.7},0.66 {0.53 + flare},{hem}! 0.5,{hem + 0.02}"
    )
    pen.seam("0.425,0.08 0.445,0.175 0.5,0.2 0.555,0.175 0.575,0.08", width=2)
    belt = pen.accent if seed % 2 else darker(pen.rgb, 0.7)
    pen.piece("0.394,0.445 0.606,0.445 0.61,0.48 0.39,0.48", belt, smooth=False)
    for x in (-0.75, -0.4, 0.0, 0.4, 0.75):
        pen.seam([(0.5 + x * 0.1, 0.49), (0.5 + x * (flare + 0.02), hem - 0.015)])


SHAPES = (tshirt, longsleeve, shirt, polo, tank, blouse, hoodie, sweater, jacket, coat, dress)
