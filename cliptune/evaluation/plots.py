"""Pictures of an evaluation: sample results, bars of before and after, and the loss.

All are PNG files of about 1000 pixels or somewhat more, to suit a README, written whole or not
at all. No global state of pyplot is touched, so they may be
drawn in threads and services.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont, ImageOps

from cliptune.errors import BadInput
from cliptune.evaluation.metrics import UNBOUNDED_METRICS
from cliptune.evaluation.tables import common_prefix, lower_is_better, metric_of, ordered
from cliptune.files import write_bytes

Result = tuple[str, bytes | Image.Image, float, bool | None]
"""Title, picture, cosine, and whether it is a hit (None where that is not known)."""

INK = "#1f2933"
MUTED = "#66727f"
LINE = "#dde2e7"
PAPER = "#ffffff"
PANEL = "#f5f7f9"
HIT = "#1a8f4c"
MISS = "#d0453b"
NEUTRAL = "#b4bdc6"
# Told apart in grey and by the colour-blind: before is pale, after is strong.
SERIES = ("#a9b4c0", "#1f6feb", "#e58a1f", "#7a4fc0", "#12939a", "#b5485d")

_GAP = 12
_QUERY_WIDTH = 170
_FRAME = 4


def results_grid(
    rows: Sequence[tuple[str, Sequence[Result]]],
    path: str | Path,
    *,
    title: str | None = None,
    width: int = 1000,
    max_columns: int = 6,
) -> Path:
    """A contact sheet: each query's text at the left, its best pictures beside it.

    Every picture stands whole in a square, with its rank, score and title below; the frame and
    a mark (✓ or ✗) say whether it is a hit, where that is known. Long titles end in `…`.

    Args:
        rows: of each query its text and its results, best first.
        path: of the PNG file.
        title: above all.
        width: of the sheet in pixels.
        max_columns: results shown of each query.

    Returns:
        `path`.

    Raises:
        BadInput: no rows, a picture that can't be read, or a width that is too small.
    """
    columns = min(max_columns, max((len(results) for _, results in rows), default=0))
    if not columns:
        raise BadInput("a grid needs at least one query with a result")
    side = (width - _QUERY_WIDTH - (columns + 2) * _GAP) // columns
    if side < 60:
        raise BadInput(f"width {width} leaves {side} pixels for each of {columns} pictures")
    small, medium, large = _font(12), _font(15, bold=True), _font(20, bold=True)
    line = 16
    head = 52 if title else _GAP
    row_height = side + 3 * line + 10 + _GAP
    sheet = Image.new("RGB", (width, head + len(rows) * (row_height + _GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((_GAP, 26), _cut(title, large, width - 2 * _GAP), INK, large, anchor="lm")
    for number, (query, results) in enumerate(rows):
        top = head + number * (row_height + _GAP)
        draw.rounded_rectangle((_GAP, top, width - _GAP, top + row_height), 10, fill=PANEL)
        lines = _wrapped(query, medium, _QUERY_WIDTH - 2 * _GAP, 6)
        y = top + _GAP + side / 2 - (len(lines) - 1) * 10
        for words in lines:
            draw.text((2 * _GAP, y), words, INK, medium, anchor="lm")
            y += 20
        for column, result in enumerate(results[:columns]):
            left = _GAP + _QUERY_WIDTH + column * (side + _GAP)
            _draw_result(sheet, (left, top + _GAP), side, column + 1, result, small)
    return _save(sheet, path)


def before_after_bars(
    before: Mapping[str, float],
    after: Mapping[str, float],
    extra: Mapping[str, Mapping[str, float]] | None = None,
    path: str | Path = "metrics.png",
    *,
    metrics: Sequence[str] | None = None,
    title: str | None = None,
) -> Path:
    """Bars of the metrics that lie in [0, 1], before beside after, with their values.

    Args:
        before: as `tables.before_after_table` takes them.
        after: likewise.
        extra: more series by their name.
        path: of the PNG file.
        metrics: which ones, without prefix; by default all but the textbook's.
        title: above the chart.

    Raises:
        BadInput: nothing left to show.
    """
    series = {"before": before, "after": after, **(extra or {})}
    known = ordered(name for values in series.values() for name in values)
    names = [name for name in known if _is_shown(name, metrics)]
    if not names:
        raise BadInput(f"none of {known} is a metric to show as a bar")
    prefix = common_prefix(names)
    figure, axes = _figure(max(6.0, 0.62 * len(names) * max(2, len(series)) * 0.55 + 2.2))
    bar = 0.8 / len(series)
    for number, (label, values) in enumerate(series.items()):
        places = [i - 0.4 + (number + 0.5) * bar for i in range(len(names))]
        heights = [values.get(name, 0.0) for name in names]
        axes.bar(places, heights, bar * 0.92, color=_colour(number), label=label, zorder=2)
        for x, name in zip(places, names, strict=True):
            if name in values:
                axes.annotate(
                    _short(values[name], 3 if len(series) < 4 else 2),
                    (x, values[name]),
                    xytext=(0, 2),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                    color=INK if number else MUTED,
                    path_effects=[withStroke(linewidth=2.5, foreground=PAPER)],
                )
    axes.set_xticks(range(len(names)), [_label(n.removeprefix(prefix)) for n in names], fontsize=9)
    axes.set_xlim(-0.55, len(names) - 0.45)
    axes.set_ylim(0, 1.05)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.tick_params(axis="x", length=0)
    _legend_and_title(axes, len(series), title)
    return _save(figure, path)


def loss_curve(
    history: Sequence[Mapping[str, Any]], path: str | Path, *, title: str | None = None
) -> Path:
    """Every loss in `history` by epoch.

    Args:
        history: one mapping an epoch, as a run's metrics hold them under `epochs`: its `epoch`
            (or else its place, from 1), `loss` and, where there is one, `val_loss`.
        path: of the PNG file.
        title: above the chart.

    Raises:
        BadInput: no epoch has a loss.
    """
    keys = dict.fromkeys(
        key
        for entry in history
        for key, value in entry.items()
        if lower_is_better(key) and isinstance(value, int | float)
    )
    if not keys:
        raise BadInput(f"no loss in the {len(history)} epochs of the history")
    last = {key: entry[key] for entry in history for key in keys if entry.get(key) is not None}
    figure, axes = _figure(7.0)
    for number, key in enumerate(keys):
        points = [
            (entry.get("epoch", place), entry[key])
            for place, entry in enumerate(history, 1)
            if entry.get(key) is not None
        ]
        colour = SERIES[1] if key == "loss" else _colour(number + 1)
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, color=colour, marker="o", markersize=4, lw=2, label=key, zorder=2)
        axes.annotate(
            f"{ys[-1]:.3f}",
            (xs[-1], ys[-1]),
            xytext=(7, 0),
            textcoords="offset points",
            va="bottom" if ys[-1] >= max(last.values()) else "top",  # apart where they are near
            fontsize=9,
            color=colour,
        )
    axes.set_xlabel("epoch", color=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.08)
    _legend_and_title(axes, len(keys), title)
    return _save(figure, path)


def _draw_result(
    sheet: Image.Image,
    corner: tuple[int, int],
    side: int,
    rank: int,
    result: Result,
    font: ImageFont.FreeTypeFont,
) -> None:
    title, picture, score, hit = result
    left, top = corner
    draw = ImageDraw.Draw(sheet)
    colour = NEUTRAL if hit is None else HIT if hit else MISS
    draw.rounded_rectangle((left, top, left + side, top + side), 8, fill=colour)
    inner = side - 2 * _FRAME
    thumbnail = _square(picture, inner, f"result {rank}, {title!r}")
    mask = Image.new("L", (inner * 4, inner * 4), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, inner * 4, inner * 4), 20, fill=255)
    sheet.paste(thumbnail, (left + _FRAME, top + _FRAME), mask.resize((inner, inner)))
    y = top + side + 12
    mark = "" if hit is None else "✓ " if hit else "✗ "
    draw.text((left + 2, y), f"{mark}{score:.3f}", colour if mark else MUTED, font, anchor="lm")
    draw.text((left + side - 2, y), f"#{rank}", MUTED, font, anchor="rm")
    for words in _wrapped(title, font, side - 4, 2):
        y += 16
        draw.text((left + 2, y), words, INK, font, anchor="lm")


def _square(picture: bytes | Image.Image, side: int, role: str) -> Image.Image:
    """The whole picture on a white square."""
    image: Image.Image
    if isinstance(picture, bytes):
        from cliptune.data.images import decode_image

        try:
            image = decode_image(picture)
        except BadInput as error:
            raise BadInput(f"{role}: {error}") from error
    else:
        image = picture.convert("RGB")
    return ImageOps.pad(image, (side, side), Image.Resampling.LANCZOS, color=PAPER)


def _is_shown(name: str, metrics: Sequence[str] | None) -> bool:
    metric = metric_of(name)
    if metrics is not None:
        return metric in metrics
    return not (
        metric in UNBOUNDED_METRICS or metric.endswith("_textbook") or lower_is_better(name)
    )


def _colour(number: int) -> str:
    return SERIES[number % len(SERIES)]


def _label(name: str) -> str:
    """`average_precision` in two lines, `recall_at_k` as `recall@k`."""
    metric = name.removesuffix("_textbook")
    words = metric.replace("_at_k", "@k").replace("f1_score", "F1")
    words = words.replace("r_precision", "R-precision") if metric == "r_precision" else words
    book = "\n(textbook)" if metric != name else ""
    return words.replace("_", "\n", 1) + book


def _short(value: float, digits: int) -> str:
    """`.853` for 0.853, `1.000` for 1."""
    return f"{value:.{digits}f}".removeprefix("0")


def _figure(width: float) -> tuple[Figure, Axes]:
    """`width` in inches of 144 pixels."""
    figure = Figure(figsize=(width, 3.6), dpi=144, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.grid(axis="y", color=LINE, lw=0.8, zorder=0)
    axes.tick_params(colors=MUTED, labelsize=9, left=False)
    axes.tick_params(axis="x", labelcolor=INK)
    return figure, axes


def _legend_and_title(axes: Axes, n_series: int, title: str | None) -> None:
    if title:
        axes.set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold", pad=12)
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=n_series,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=1.0,
        borderaxespad=0.2,
    )


def _save(drawn: Image.Image | Figure, path: str | Path) -> Path:
    buffer = io.BytesIO()
    if isinstance(drawn, Figure):
        drawn.savefig(buffer, format="png")
    else:
        drawn.save(buffer, format="png", optimize=True)
    write_bytes(Path(path), buffer.getvalue())
    return Path(path)


@cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as matplotlib brings it along: a server may have no fonts at all."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _cut(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """`text`, ending in `…` where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    fitting = 0
    while fitting < len(text) and font.getlength(text[: fitting + 1].rstrip() + "…") <= width:
        fitting += 1
    return text[:fitting].rstrip() + "…"


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float, max_lines: int) -> list[str]:
    """`text` in at most `max_lines` lines of `width` pixels; what does not fit becomes `…`."""
    words = text.split()
    lines: list[str] = []
    while words and len(lines) < max_lines:
        if len(lines) == max_lines - 1:
            lines.append(_cut(" ".join(words), font, width))
            break
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        lines.append(_cut(" ".join(words[:count]), font, width))
        words = words[count:]
    return lines
