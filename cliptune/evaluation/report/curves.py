"""A run's epochs and what cosines mean, as curves: SVG that stands in a page as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cliptune.evaluation.calibration import Reliability
from cliptune.evaluation.plots import INK, LINE, MUTED, SERIES, svg_of
from cliptune.evaluation.retrieval import Evaluation
from cliptune.evaluation.shortening import bytes_of
from cliptune.evaluation.tables import metric_of
from cliptune.models.artifact import Epoch
from cliptune.quantization import OutputDtype

METRICS = ("reciprocal_rank", "recall_at_k", "precision_at_k")

Line = list[tuple[float, float]]
"""(epoch, value) by ascending epoch."""


@dataclass(frozen=True)
class Chart:
    """A drawn chart."""

    title: str
    svg: str


def epoch_charts(before: Mapping[str, float], history: Sequence[Epoch]) -> list[Chart]:
    """The losses, and the metrics from before training on, by epoch.

    Args:
        before: a run's metrics before training, by their full name.
        history: what `Run.history()` gives.

    Returns:
        A chart for the losses and one for the metrics, where there are any.
    """
    losses: dict[str, Line] = {
        name: [(entry["epoch"], entry[name]) for entry in history if entry.get(name) is not None]
        for name in ("loss", "val_loss")
    }
    metrics: dict[str, Line] = {}
    measured = [(0, before), *((entry["epoch"], entry.get("metrics", {})) for entry in history)]
    for epoch, values in measured:
        for name, value in values.items():
            if metric_of(name) in METRICS:
                metrics.setdefault(name, []).append((epoch, value))
    charts = []
    for title, lines in (("Loss", losses), ("What searches find", metrics)):
        drawn = {name: line for name, line in lines.items() if line}
        if drawn:
            charts.append(Chart(title, _draw(drawn)))
    return charts


def _draw(lines: Mapping[str, Line]) -> str:
    figure, axes = _axes((5.4, 3.2))
    highest = max(line[-1][1] for line in lines.values())
    for number, (name, line) in enumerate(lines.items(), 1):
        colour = SERIES[number % len(SERIES)]
        xs, ys = zip(*line, strict=True)
        label = name.removeprefix("clip-text-to-clip-vision_").replace("_at_k", "@k")
        axes.plot(xs, ys, color=colour, marker="o", markersize=4, lw=2, label=label, zorder=2)
        axes.annotate(
            f"{ys[-1]:.3f}", (xs[-1], ys[-1]), xytext=(7, 0), textcoords="offset points",
            va="bottom" if ys[-1] == highest else "top", fontsize=9, color=colour,
        )  # fmt: skip
    axes.set_xlabel("epoch", color=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.margins(x=0.1)
    _legend(axes)
    return svg_of(figure)


def reliability_chart(measured: Reliability) -> Chart:
    """The share of right results by their probability, held out, with 95 % intervals."""
    figure, axes = _axes((4.4, 4.0))
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls="--", label="as it should be", zorder=1)
    xs = [one.predicted for one in measured.bins]
    ys = [one.observed for one in measured.bins]
    below = [one.observed - one.low for one in measured.bins]
    above = [one.high - one.observed for one in measured.bins]
    axes.errorbar(
        xs, ys, yerr=[below, above], color=SERIES[1], marker="o", markersize=5, lw=2,
        elinewidth=1.2, capsize=3, label="right, of those shown", zorder=2,
    )  # fmt: skip
    axes.set_xlabel("relevance that was said", color=MUTED)
    axes.set_ylabel("share that was right", color=MUTED)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.legend(loc="upper left", frameon=False, fontsize=9, labelcolor=INK)
    return Chart("Relevance", svg_of(figure))


def shortened_chart(measured: Mapping[tuple[int, OutputDtype], Evaluation]) -> Chart:
    """recall@k by the bytes that a document's embedding takes, a line for each type."""
    lines: dict[OutputDtype, list[tuple[float, float]]] = {}
    for (dimensions, output_dtype), evaluation in measured.items():
        point = bytes_of(dimensions, output_dtype), evaluation.metrics["recall_at_k_textbook"]
        lines.setdefault(output_dtype, []).append(point)
    figure, axes = _axes((5.4, 3.2))
    for number, (output_dtype, line) in enumerate(lines.items(), 1):
        xs, ys = zip(*line, strict=True)
        marker, colour = "os^"[number - 1], SERIES[number]
        axes.plot(xs, ys, color=colour, marker=marker, markersize=5, lw=2, label=output_dtype)
    sizes = sorted({size for line in lines.values() for size, _ in line})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.minorticks_off()
    axes.margins(y=0.1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("bytes a document", color=MUTED)
    axes.set_ylabel("recall@k", color=MUTED)
    _legend(axes)
    return Chart("Smaller embeddings", svg_of(figure))


def _legend(axes: Axes) -> None:
    """Names above the axes, side by side."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=9,
        labelcolor=INK, handlelength=1.2, borderaxespad=0.2,
    )  # fmt: skip


def _axes(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """Empty axes in the page's style."""
    figure = Figure(figsize=size, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.grid(axis="y", color=LINE, lw=0.8, zorder=0)
    axes.tick_params(colors=MUTED, labelsize=9, left=False)
    return figure, axes
