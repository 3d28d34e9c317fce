"""Pictures of an evaluation: a contact sheet of sample results, and what all figures share."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, ImageOps

from cliptune.errors import BadInput
from cliptune.files import write_bytes

Result = tuple[str, bytes | Image.Image, float, bool | None]
"""Title, picture, cosine, and whether it is a hit (None where that is not known)."""

INK = "#1f2933"
MUTED = "#66727f"
LINE = "#dde2e7"
PAPER = "#ffffff"
PANEL = "#f5f7f9"
HIT = "#1a8f4c"
MISS = "#e2a8a3"
NEUTRAL = "#b4bdc6"
# Told apart in grey and by the colour-blind: before is pale, after is strong.
SERIES = ("#a9b4c0", "#1f6feb", "#e58a1f", "#7a4fc0", "#12939a", "#b5485d")

_GAP = 12
_QUERY_WIDTH = 150
_BETWEEN = 28
"""Between the pictures of one heading and those of the next."""
_FRAME, _THIN = 4, 2
_LEAST = 60
"""Pixels of a picture's side."""


def results_grid(
    rows: Sequence[tuple[str, Mapping[str, Sequence[Result]]]],
    path: str | Path,
    *,
    title: str | None = None,
    width: int = 1000,
    max_columns: int = 6,
) -> Path:
    """A contact sheet: each query's text at the left, beside it the best pictures of each model.

    Every picture stands whole in a square, with its score, rank and title below. Where it is
    known, a hit has a strong green frame, a tick in its corner and one before its score; a miss a
    thin pale frame and a cross: they differ in more than their colour. Long titles end in `…`.

    Args:
        rows: of each query its text and its results, best first, by what they are of: such as
            `{"before": […], "after": […]}`, which stand side by side.
        path: of the PNG file.
        title: above all.
        width: of the sheet in pixels.
        max_columns: results shown of each query beside each other, of one model.

    Returns:
        `path`.

    Raises:
        BadInput: no rows, a picture that can't be read, or a width that is too small.
    """
    longest = max(
        (len(results_of) for _, sides in rows for results_of in sides.values()), default=0
    )
    columns = min(max_columns, longest)
    if not columns:
        raise BadInput("a grid needs at least one query with a result")
    n_sides = max(len(sides) for _, sides in rows)
    gaps = (n_sides * columns + 2) * _GAP + (n_sides - 1) * (_BETWEEN - _GAP)
    side = (width - _QUERY_WIDTH - gaps) // (n_sides * columns)
    if side < _LEAST:
        raise BadInput(
            f"width {width} leaves {side} pixels for each of {n_sides * columns} pictures"
        )
    small, medium, large = _font(12), _font(15, bold=True), _font(20, bold=True)
    line = 16
    head = 52 if title else _GAP
    heading = 24 if any(name for _, sides in rows for name in sides) else 0
    row_height = heading + side + 3 * line + 10 + _GAP
    sheet = Image.new("RGB", (width, head + len(rows) * (row_height + _GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((_GAP, 26), _cut(title, large, width - 2 * _GAP), INK, large, anchor="lm")
    for number, (query, sides) in enumerate(rows):
        top = head + number * (row_height + _GAP)
        draw.rounded_rectangle((_GAP, top, width - _GAP, top + row_height), 10, fill=PANEL)
        lines = _wrapped(query, medium, _QUERY_WIDTH - 2 * _GAP, 6)
        y = top + _GAP + heading + side / 2 - (len(lines) - 1) * 10
        for words in lines:
            draw.text((2 * _GAP, y), words, INK, medium, anchor="lm")
            y += 20
        left = _GAP + _QUERY_WIDTH
        for name, results in sides.items():
            room = columns * (side + _GAP) - _GAP
            if heading:
                draw.text((left, top + _GAP + 8), _cut(name, small, room), INK, small, anchor="lm")
            for column, result in enumerate(results[:columns]):
                corner = (left + column * (side + _GAP), top + _GAP + heading)
                _draw_result(sheet, corner, side, column + 1, result, small)
            left += room + _BETWEEN
    buffer = io.BytesIO()
    sheet.save(buffer, format="png", optimize=True)
    write_bytes(Path(path), buffer.getvalue())
    return Path(path)


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
    frame = _FRAME if hit else _THIN
    inner = side - 2 * frame
    thumbnail = _square(picture, inner, f"result {rank}, {title!r}")
    mask = Image.new("L", (inner * 4, inner * 4), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, inner * 4, inner * 4), 20, fill=255)
    sheet.paste(thumbnail, (left + frame, top + frame), mask.resize((inner, inner)))
    if hit:
        _draw_tick(sheet, (left + side - 24, top + 6))
    y = top + side + 12
    mark = "" if hit is None else "✓ " if hit else "✗ "
    colour = HIT if hit else MUTED
    draw.text((left + 2, y), f"{mark}{score:.3f}", colour, font, anchor="lm")
    draw.text((left + side - 2, y), f"#{rank}", MUTED, font, anchor="rm")
    for words in _wrapped(title, font, side - 4, 2):
        y += 16
        draw.text((left + 2, y), words, INK, font, anchor="lm")


def _draw_tick(sheet: Image.Image, corner: tuple[int, int], side: int = 18) -> None:
    """A white tick on a green disc."""
    scale = 4  # drawn larger and shrunk: PIL's lines have hard edges
    disc = Image.new("RGBA", (side * scale, side * scale))
    draw = ImageDraw.Draw(disc)
    draw.ellipse((0, 0, side * scale - 1, side * scale - 1), fill=HIT)
    points = [
        (x * side * scale, y * side * scale) for x, y in ((0.27, 0.53), (0.43, 0.69), (0.74, 0.34))
    ]
    draw.line(points, fill="white", width=2 * scale, joint="curve")
    disc = disc.resize((side, side), Image.Resampling.LANCZOS)
    sheet.paste(disc, corner, disc)


def _square(picture: bytes | Image.Image, side: int, role: str) -> Image.Image:
    """The whole picture on a white square."""
    from cliptune.data.pictures.images import decode_image

    try:
        image = decode_image(picture)
    except BadInput as error:
        raise BadInput(f"{role}: {error}") from error
    return ImageOps.pad(image, (side, side), Image.Resampling.LANCZOS, color=PAPER)


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


def png_of(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def svg_of(figure: Figure) -> str:
    """A figure as an SVG element that stands in a page as it is."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Type", "Format"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]
