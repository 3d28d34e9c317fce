"""WiSE-FT's curve as a picture: what every mixture gains in-domain, and what it costs elsewhere.

A PNG file as those of `cliptune.evaluation.plots`. With a robust data set it is figure 1 of
Wortsman et al. (2022): one point an alpha, the robust metric to the right, the in-domain metric
up, so that the upper right corner is best. Without one it is the in-domain metric by alpha.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from cliptune.evaluation.plots import INK, LINE, MISS, MUTED, PAPER, SERIES, png_of
from cliptune.evaluation.wise_ft import Point, Rule
from cliptune.files import write_bytes

_CURVE, _PICKED = SERIES[1], SERIES[2]
# Where a label may stand by its point, best first: [24, 2], the direction and how far away.
_DIRECTIONS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), *product((1, -1), repeat=2)] * 3)
_DISTANCES = _DIRECTIONS * np.repeat([[7], [12], [18]], 8, axis=0)
"""In points of 1/72 inch."""


def frontier_plot(
    points: Sequence[Point],
    picked: float,
    path: str | Path,
    rule: Rule,
    *,
    title: str | None = None,
) -> Path:
    """Draw the rule's metric of a sweep, with alphas beside the points and the picked one marked.

    What is not robust enough for the rule is shaded. Where points lie so
    close that their labels would overlap, the ends and the picked one keep theirs.

    Args:
        points: as `sweep` gives them, by ascending alpha.
        picked: one of their alphas.
        path: of the PNG file, written whole or not at all.
        rule: the metric, and how much of it may be lost.
        title: above the plot.

    Returns:
        `path`.
    """
    figure, axes = _figure()
    metric = rule.metric
    has_robust = points[0].robust is not None
    xs = [point.robust[metric] if point.robust else point.alpha for point in points]
    ys = [point.in_domain[metric] for point in points]
    axes.plot(xs, ys, color=_CURVE, lw=1.6, marker="o", markersize=5, zorder=2)
    place = next(i for i, point in enumerate(points) if point.alpha == picked)
    axes.plot(xs[place], ys[place], "o", color=_PICKED, markersize=10, zorder=3)
    axes.margins(0.12)
    words = metric.replace("_at_k", "@k").replace("_", " ")
    axes.set_xlabel(f"robust {words}" if has_robust else "alpha", color=MUTED)
    axes.set_ylabel(f"in-domain {words}", color=MUTED)
    if title:
        axes.set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold", pad=12)
    if has_robust:
        _shade(axes, rule.floor(points), rule.max_loss)
    _label(figure, axes, points, list(zip(xs, ys, strict=True)), place)
    write_bytes(Path(path), png_of(figure))
    return Path(path)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.0, 4.8), dpi=144, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.grid(color=LINE, lw=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=9, length=0)
    return figure, axes


def _shade(axes: Axes, floor: float, max_loss: float) -> None:
    """Mark what lies left of `floor`, without making room for more of it."""
    left, right = axes.get_xlim()
    if left < floor:
        axes.axvspan(left, floor, color=MISS, alpha=0.06, lw=0, zorder=0)
        axes.axvline(floor, color=MISS, lw=1, ls="--", zorder=1)
        axes.annotate(
            f"loses more than {100 * max_loss:g} %",
            (floor, 0.0),
            xycoords=("data", "axes fraction"),
            xytext=(-4, 5),
            textcoords="offset points",
            ha="right",
            va="bottom",
            rotation=90,
            fontsize=8,
            color=MISS,
        )
    axes.set_xlim(left, right)


def _label(
    figure: Figure,
    axes: Axes,
    points: Sequence[Point],
    spots: list[tuple[float, float]],
    picked: int,
) -> None:
    """Write each alpha beside its point, the important ones first, where there is room."""
    figure.draw_without_rendering()  # fixes the layout, so that overlaps can be measured
    pixels = axes.transData.transform(spots)
    along = np.linspace(pixels[:-1], pixels[1:], 40).reshape(-1, 2)  # the curve is in the way too
    there = np.array([text.get_window_extent().extents for text in axes.texts]).reshape(-1, 4)
    taken = np.vstack([_box(pixels, 6.0), _box(along, 1.0), there])
    important = (picked, 0, len(points) - 1)
    for i in (*dict.fromkeys(important), *(i for i in range(len(points)) if i not in important)):
        end = {0.0: " pre-trained", 1.0: " fine-tuned"}.get(points[i].alpha, "")
        text = axes.annotate(
            f"{points[i].alpha:g}{end}",
            spots[i],
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=11 if i == picked else 9,
            fontweight="bold" if i == picked else "normal",
            color=INK,
            zorder=4,
            path_effects=[withStroke(linewidth=2.5, foreground=PAPER)],
        )
        half = np.array(text.get_window_extent().size) / 2
        shifts = _DIRECTIONS * half + _DISTANCES * figure.dpi / 72
        boxes = _box(pixels[i] + shifts, half)
        free = [not _overlaps(taken, box).any() and _inside(axes, box) for box in boxes]
        if any(free):
            text.xyann = tuple(shifts[free.index(True)] * 72 / figure.dpi)
            taken = np.vstack([taken, boxes[free.index(True)]])
        else:
            text.remove()


def _box(centres: NDArray[np.float64], half: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """[N, 2] to [N, 4]: left, bottom, right, top, in pixels."""
    return np.hstack([centres - half, centres + half])


def _overlaps(boxes: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.bool_]:
    apart = (boxes[:, :2] >= box[2:]) | (boxes[:, 2:] <= box[:2])
    return np.logical_not(apart.any(axis=1))


def _inside(axes: Axes, box: NDArray[np.float64]) -> bool:
    return axes.bbox.contains(*box[:2]) and axes.bbox.contains(*box[2:])
