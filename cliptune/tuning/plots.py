"""The trials of a search as pictures: parallel coordinates, importance, the best by time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from optuna.distributions import CategoricalDistribution

from cliptune.evaluation.plots import INK, LINE, MUTED, NEUTRAL, PAPER, SERIES
from cliptune.tuning.search import TrialResult, short
from cliptune.tuning.space import Axis

_PALE_TO_STRONG = LinearSegmentedColormap.from_list("values", ["#c9dcfb", SERIES[1], "#0b2a6b"])
_CHOSEN, _DEFAULTS = SERIES[2], INK


def trials_plot(
    results: Sequence[TrialResult],
    axes: Sequence[Axis],
    importance: Mapping[str, float],
    metric: str,
    chosen: int,
) -> Figure:
    """A line for each trial over an axis for each option, ending at what it came to.

    The darker, the better; trials that were given up are grey and thin, the chosen one is orange,
    and the first one, at the defaults, dashed.
    """
    names = [axis.name for axis in axes]
    figure = Figure(
        figsize=(max(7.0, 1.7 * (len(names) + 1) + 2.2), 4.6), dpi=144, facecolor=PAPER,
        layout="constrained",
    )  # fmt: skip
    FigureCanvasAgg(figure)
    if importance:
        grid = figure.add_gridspec(1, 2, width_ratios=[len(names) + 1, 1.6], wspace=0.12)
        _bars(figure.add_subplot(grid[1]), importance)
        plot = figure.add_subplot(grid[0])
    else:
        plot = figure.add_subplot()
    values = [one.value for one in results if one.state == "complete" and one.value is not None]
    low, high = _bounds(values)
    shade = Normalize(low, high)
    for one in sorted(results, key=lambda one: (one.state == "complete", one.value or 0.0)):
        if one.values.keys() != set(names):
            continue
        heights = [_height(axis, one.values[axis.name]) for axis in axes]
        value = one.value if one.state == "complete" else None
        if value is not None:
            heights.append((value - low) / (high - low))
        if one.number == chosen:
            style = {"color": _CHOSEN, "lw": 2.6, "zorder": 5}
        elif value is not None:
            style = {"color": _PALE_TO_STRONG(shade(value)), "lw": 1.4, "zorder": 3}
        else:
            style = {"color": NEUTRAL, "lw": 0.7, "alpha": 0.7, "zorder": 2}
        if one.number == 0:
            colour = _CHOSEN if one.number == chosen else _DEFAULTS
            style = {"color": colour, "lw": 1.8, "ls": (0, (4, 2)), "zorder": 4}
        plot.plot(range(len(heights)), heights, **style)  # type: ignore[arg-type]
    for position, axis in enumerate(axes):
        _ticks(plot, position, _marks(axis))
    _ticks(plot, len(axes), [((v - low) / (high - low), f"{v:.3f}") for v in (low, high)])
    labels = [*(_words(name) for name in names), f"{_words(metric)}\n(validation)"]
    plot.set_xticks(range(len(labels)), labels, color=INK, fontsize=9)
    plot.tick_params(length=0, pad=8)
    plot.set_yticks([])
    plot.set_ylim(-0.04, 1.04)
    plot.set_xlim(-0.35, len(labels) - 0.65)
    plot.spines[:].set_visible(False)
    _legend(plot)
    return figure


def progress_plot(results: Sequence[TrialResult], metric: str) -> Figure:
    """What each complete trial came to, by the minutes that had gone, and the best so far."""
    figure = Figure(figsize=(7.0, 3.4), dpi=144, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    plot = figure.add_subplot()
    minutes = np.cumsum([one.seconds for one in results]) / 60
    done = [
        (minute, one.value)
        for minute, one in zip(minutes, results, strict=True)
        if one.state == "complete" and one.value is not None
    ]
    plot.plot(*zip(*done, strict=True), "o", color=SERIES[0], markersize=5, label="a trial")
    best = np.maximum.accumulate([value for _, value in done])
    ends = [*(minute for minute, _ in done), float(minutes[-1])]
    plot.step(ends, [*best, best[-1]], where="post", color=SERIES[1], lw=2, label="the best so far")
    plot.set_xlabel("minutes of trials", color=MUTED)
    plot.set_ylabel(f"{_words(metric)} (validation)", color=MUTED)
    plot.set_xlim(left=0)
    plot.margins(y=0.12)
    plot.spines[["top", "right"]].set_visible(False)
    plot.spines[["left", "bottom"]].set_color(LINE)
    plot.grid(color=LINE, lw=0.8)
    plot.set_axisbelow(True)
    plot.tick_params(colors=MUTED, labelsize=9, length=0)
    plot.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower right")
    return figure


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.1 * abs(low) or 0.1  # where there is one value
    return (low, high) if high > low else (low - margin, high + margin)


def _height(axis: Axis, value: float | int | str) -> float:
    """Where a value stands on its axis, from 0 to 1."""
    one = axis.distribution
    if isinstance(one, CategoricalDistribution):
        return one.choices.index(value) / max(1, len(one.choices) - 1)
    scale = math.log if one.log else float
    low, high = scale(one.low), scale(one.high)
    return (scale(float(value)) - low) / (high - low) if high > low else 0.5


def _marks(axis: Axis) -> list[tuple[float, str]]:
    """The heights that are named, with their names: the ends, and what the default is."""
    one = axis.distribution
    if isinstance(one, CategoricalDistribution):
        return [(_height(axis, choice), str(choice)) for choice in one.choices]  # type: ignore[arg-type]
    ends = [(_height(axis, value), short(value)) for value in (one.low, one.high)]
    default = _height(axis, axis.default)
    if all(abs(default - height) > 0.08 for height, _ in ends):
        ends.append((default, short(axis.default)))
    return ends


def _ticks(plot: Axes, position: int, marks: Sequence[tuple[float, str]]) -> None:
    plot.plot([position, position], [0, 1], color=MUTED, lw=1.0, zorder=6)
    for height, name in marks:
        plot.annotate(
            name, (position, height), xytext=(5, 0), textcoords="offset points", va="center",
            fontsize=8, color=INK, zorder=7,
            bbox={"boxstyle": "round,pad=0.15", "fc": PAPER, "ec": "none", "alpha": 0.9},
        )  # fmt: skip


def _legend(plot: Axes) -> None:
    for label, style in (
        ("chosen", {"color": _CHOSEN, "lw": 2.6}),
        ("defaults", {"color": _DEFAULTS, "lw": 1.8, "ls": (0, (4, 2))}),
        ("complete", {"color": SERIES[1], "lw": 1.4}),
        ("given up", {"color": NEUTRAL, "lw": 0.7}),
    ):
        plot.plot([], [], label=label, **style)  # type: ignore[arg-type]
    plot.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, fontsize=9,
        labelcolor=INK, handlelength=1.6, borderaxespad=0.3,
    )  # fmt: skip


def _bars(plot: Axes, importance: Mapping[str, float]) -> None:
    names = list(importance)[::-1]
    plot.barh(range(len(names)), [importance[name] for name in names], color=SERIES[1], height=0.55)
    plot.set_yticks(range(len(names)), [_words(name) for name in names], fontsize=9, color=INK)
    for row, name in enumerate(names):
        plot.annotate(
            f"{importance[name]:.0%}", (importance[name], row), xytext=(4, 0),
            textcoords="offset points", va="center", fontsize=8, color=MUTED,
        )  # fmt: skip
    plot.set_title("importance", loc="left", fontsize=9, color=MUTED)
    plot.set_xticks([])
    plot.tick_params(length=0)
    plot.margins(x=0.25)
    plot.spines[:].set_visible(False)


def _words(name: str) -> str:
    return name.replace("_at_k", "@k").replace("_factor", "\n× default").replace("_", " ")
