"""Watches, glasses, hats, scarves, ties, socks and gloves."""

from __future__ import annotations

import functools
import math

from cliptune.demo.catalogue.attributes import RGB
from cliptune.demo.catalogue.pen import Pen, darker, parse, placed

STEEL: RGB = (196, 200, 206)
BRASS: RGB = (206, 174, 98)


def watch(pen: Pen) -> None:
    """A wrist watch: the strap in the product's colour, a dial with hands."""
    seed = pen.product.seed
    metal = BRASS if seed % 3 == 0 else STEEL
    dial: RGB = (248, 247, 242) if seed % 2 else (34, 36, 42)
    hand: RGB = (40, 40, 44) if seed % 2 else (236, 236, 236)
    width = 0.115
    pen.symmetric(f"0.5,0.02 {0.5 + width * 0.75},0.02! {0.5 + width},0.36 0.5,0.36")
    pen.symmetric(f"0.5,0.64 {0.5 + width},0.64 {0.5 + width * 0.7},0.97! 0.5,0.985")
    if pen.product.colour in ("silver", "gold"):
        for i in range(7):
            for y in (0.05 + i * 0.042, 0.68 + i * 0.042):
                pen.seam([(0.5 - width * 0.9, y), (0.5 + width * 0.9, y)], darker(pen.rgb, 0.7))
    else:
        for i in range(4):
            pen.dot((0.5, 0.8 + i * 0.04), 0.008, darker(pen.rgb, 0.4))
        pen.seams([(0.5 + width * 0.68, 0.05), (0.5 + width * 0.85, 0.33)], darker(pen.rgb, 0.75))
    pen.box(0.71, 0.47, 0.765, 0.53, metal, 0.012)
    if seed // 2 % 3 == 0:
        pen.box(0.29, 0.29, 0.71, 0.71, metal, 0.05)
        pen.box(0.325, 0.325, 0.675, 0.675, dial, 0.03)
    else:
        pen.dot((0.5, 0.5), 0.225, metal)
        pen.dot((0.5, 0.5), 0.185, dial)
    for hour in range(12):
        angle = hour * math.pi / 6
        x, y = math.sin(angle), -math.cos(angle)
        pen.seam([(0.5 + 0.14 * x, 0.5 + 0.14 * y), (0.5 + 0.168 * x, 0.5 + 0.168 * y)], hand, 1.8)
    pen.seam([(0.5, 0.5), (0.42, 0.43)], hand, 3)
    pen.seam([(0.5, 0.5), (0.585, 0.4)], hand, 2)
    pen.dot((0.5, 0.5), 0.014, pen.ink)


def sunglasses(pen: Pen) -> None:
    """Sunglasses from the front."""
    seed = pen.product.seed
    lens: RGB = ((44, 46, 54), (96, 72, 52), (54, 74, 88))[seed % 3]
    round_lens = seed // 3 % 2
    pen.seams("0.93,0.4 0.975,0.43 0.97,0.52", darker(pen.rgb, 0.8), 5)
    if round_lens:
        outer = "0.56,0.4 0.72,0.345 0.92,0.37 0.935,0.48 0.85,0.64 0.68,0.655 0.57,0.56"
    else:
        outer = "0.54,0.38! 0.94,0.35! 0.92,0.55 0.83,0.63 0.67,0.62 0.57,0.54"
    cx, cy = 0.745, 0.49
    inner = [(cx + (x - cx) * 0.82, cy + (y - cy) * 0.78) for x, y in parse(outer)]
    pen.both(outer)
    pen.both(inner, lens)
    pen.seam("0.44,0.43 0.5,0.4 0.56,0.43", darker(pen.rgb, 0.9), 6)
    r, g, b = (value + 60 for value in lens)
    for x in (0.25, 0.7):
        pen.seam([(x - 0.04, 0.54), (x + 0.05, 0.43)], (r, g, b), 2.5)


def cap(pen: Pen) -> None:
    """A baseball cap, peak to the left."""
    pen.piece("0.28,0.6! 0.3,0.42 0.42,0.26 0.6,0.21 0.78,0.27 0.9,0.44 0.92,0.62! 0.6,0.64")
    pen.seam("0.6,0.21 0.52,0.4 0.51,0.62", width=1.4)
    pen.seam("0.6,0.21 0.74,0.38 0.78,0.62", width=1.4)
    pen.dot((0.6, 0.212), 0.018, darker(pen.rgb, 0.8))
    brim = pen.ink if pen.product.seed % 3 == 0 else darker(pen.rgb, 0.88)
    pen.piece(
        "0.54,0.61 0.3,0.565 0.14,0.6 0.04,0.7 0.06,0.735 0.25,0.69 0.5,0.67 0.62,0.645", brim
    )
    pen.mark((0.41, 0.47), 0.055)


def beanie(pen: Pen) -> None:
    """A knitted hat with a turned-up brim, some with a bobble."""
    if pen.product.seed % 2:
        pen.dot((0.5, 0.17), 0.085, pen.accent)
    pen.symmetric("0.5,0.2 0.66,0.24 0.79,0.42 0.82,0.68! 0.5,0.7")
    for i in range(-6, 7):
        x = i / 6.4
        pen.seam(
            [(0.5 + x * 0.06, 0.23), (0.5 + x * 0.27, 0.42), (0.5 + x * 0.31, 0.62)],
            darker(pen.rgb, 0.84),
        )
    pen.symmetric("0.5,0.64 0.83,0.62! 0.845,0.8! 0.5,0.83", darker(pen.rgb, 0.9))
    for i in range(-11, 12):
        x = 0.5 + i * 0.0295
        pen.seam([(x, 0.645), (x, 0.81)], darker(pen.rgb, 0.74))
    pen.mark((0.5, 0.73), 0.04)


def scarf(pen: Pen) -> None:
    """A folded scarf with fringes."""
    pen.piece("0.52,0.3 0.66,0.34 0.7,0.6 0.73,0.86! 0.54,0.88! 0.5,0.6")
    pen.piece("0.36,0.3 0.52,0.3 0.49,0.6 0.47,0.8! 0.27,0.78! 0.32,0.55")
    for i in range(9):
        pen.seam([(0.55 + i * 0.0215, 0.88), (0.55 + i * 0.023, 0.955)], darker(pen.rgb, 0.8), 1.6)
        pen.seam([(0.28 + i * 0.0225, 0.79), (0.275 + i * 0.022, 0.865)], darker(pen.rgb, 0.8), 1.6)
    pen.piece("0.22,0.24 0.32,0.1 0.5,0.06 0.68,0.1 0.78,0.24 0.72,0.38 0.5,0.45 0.28,0.38")
    pen.piece("0.36,0.2 0.5,0.15 0.64,0.2 0.6,0.27 0.5,0.29 0.4,0.27", darker(pen.rgb, 0.42))
    pen.seam("0.25,0.3 0.4,0.38 0.6,0.36 0.75,0.28", width=1.6)
    pen.seam("0.3,0.15 0.42,0.32 0.5,0.43", width=1.6)


def tie(pen: Pen) -> None:
    """A necktie with its knot."""
    pen.symmetric("0.5,0.12 0.545,0.14! 0.6,0.8! 0.5,0.97!")
    pen.symmetric("0.5,0.02 0.57,0.02! 0.54,0.15! 0.5,0.16")
    pen.seam("0.46,0.15 0.5,0.165 0.54,0.15", darker(pen.rgb, 0.5), 2)
    pen.seam([(0.5, 0.17), (0.51, 0.3)], darker(pen.rgb, 0.75))


def socks(pen: Pen) -> None:
    """A pair of socks."""
    high = (0.08, 0.24, 0.4)[pen.product.seed % 3]
    sock = (
        f"0.34,{high}! 0.56,{high}! 0.56,0.55 0.55,0.7 0.47,0.84 0.3,0.93 0.14,0.92 "
        "0.11,0.82 0.2,0.74 0.33,0.66 0.35,0.5"
    )
    cuff = f"0.34,{high} 0.56,{high} 0.56,{high + 0.06} 0.34,{high + 0.06}"
    toe = "0.14,0.92 0.11,0.83 0.19,0.76 0.25,0.84 0.23,0.93"
    heel = "0.55,0.64 0.56,0.72 0.49,0.82 0.45,0.74"
    trim = pen.ink if pen.product.mark != "none" else darker(pen.rgb, 0.8)
    for x, y in ((0.2, 0.03), (0.0, 0.0)):
        pen.piece(placed(sock, x, y))
        pen.piece(placed(cuff, x, y), trim, smooth=False)
        pen.piece(placed(toe, x, y), darker(pen.rgb, 0.75))
        pen.piece(placed(heel, x, y), darker(pen.rgb, 0.75))


def gloves(pen: Pen) -> None:
    """A pair of gloves, fingers up."""
    for middle, mirrored in ((0.27, True), (0.73, False)):
        hand = functools.partial(placed, x=middle, mirrored=mirrored)
        for x, tip in ((-0.115, 0.2), (-0.045, 0.12), (0.03, 0.13), (0.1, 0.21)):
            left, right, top = x - 0.036, x + 0.036, tip + 0.04
            finger = f"{x - 0.034},0.5 {left},{top} {x},{tip} {right},{top} {right},0.5"
            pen.piece(hand(finger))
        pen.piece(hand("-0.1,0.62 -0.19,0.5 -0.225,0.38 -0.19,0.35 -0.13,0.44 -0.08,0.5"))
        pen.piece(hand("-0.15,0.44 0.0,0.42 0.138,0.44 0.13,0.6 0.11,0.76! -0.12,0.76!"))
        cuff = hand("-0.125,0.745 0.115,0.745 0.12,0.93 -0.13,0.93")
        pen.piece(cuff, darker(pen.rgb, 0.8), smooth=False)
        for i in range(7):
            x = -0.11 + i * 0.036
            pen.seam(hand([(x, 0.76), (x, 0.92)]), darker(pen.rgb, 0.66))
        pen.mark(hand("0.0,0.6")[0], 0.028)


SHAPES = (watch, sunglasses, cap, beanie, scarf, tie, socks, gloves)
