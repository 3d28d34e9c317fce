"""open_clip's resize, crop and padding, of a part of a picture whose edges may lie within a pixel.

open_clip's own transform knows whole pictures only. A JPEG decoded at a fraction of its size seldom
is one: of 533 columns at 1/2, the last of the 267 belongs to the picture by half. Resized as if it
were whole, it would come out a pixel wider here and there than it does when it is decoded in full.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""
MAX_RESIZED_PIXELS = 16_000_000
"""Of a resized picture before its middle is cropped out: 64 MB. Of a longer one, the middle alone
is resized."""
_REACH = 2
"""How far a bicubic filter looks, in pixels of the picture or of the result, the larger ones."""
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def resize_and_crop(
    image: Image.Image,
    size: tuple[int, int],
    *,
    mode: str,
    interpolation: str,
    fill: int,
    box: Box | None = None,
) -> Image.Image:
    """Bring an RGB picture to `size` (height, width) by open_clip's rules for inference.

    `mode` is open_clip's resize mode: `shortest`, `longest` or `squash`; `fill` the grey value of
    the padding of `longest`. With `box`, the picture is only that part of `image`.

    A picture of any form is one: of a hair, the middle that is left after cropping is resized
    alone, and where `longest` would leave nothing of the short side, it is one pixel.
    """
    height, width = size
    left, top, right, bottom = box or (0, 0, *image.size)
    new_width, new_height = _resized(right - left, bottom - top, size, mode)
    # open_clip takes no account of the interpolation where the target is no square.
    is_fixed = mode == "shortest" and width != height
    resample = _FILTERS["bicubic" if is_fixed else interpolation]
    x, y = _offset(new_width, width), _offset(new_height, height)
    if new_width * new_height > MAX_RESIZED_PIXELS:
        across = _Middle.of(left, right, new_width, width, x)
        down = _Middle.of(top, bottom, new_height, height, y)
        image = image.crop((across.first, down.first, across.last, down.last))
        left, top, right, bottom = across.begin, down.begin, across.end, down.end
        new_width, new_height, x, y = across.length, down.length, across.offset, down.offset
    resized = image.resize((new_width, new_height), resample, box=(left, top, right, bottom))
    if resized.size == (width, height):
        return resized
    target = Image.new("RGB", (width, height), (fill, fill, fill))
    target.paste(resized, (x, y))
    return target


@dataclass(frozen=True)
class _Middle:
    """One side of the part of a long picture that is enough to resize what its crop shows."""

    first: int
    """The first whole pixel that is cut out of the picture."""
    last: int
    """The one after the last."""
    begin: float
    """Where the part that is resized begins, in pixels of what is cut out."""
    end: float
    length: int
    """That part's length when it is resized."""
    offset: int
    """Where it begins in the target, as `_offset`."""

    @classmethod
    def of(cls, begin: float, end: float, new_length: int, target: int, offset: int) -> _Middle:
        """For a side from `begin` to `end` that becomes `new_length` and is put at `offset`.

        On either side of the target as much is kept as the filter looks at, so that its pixels
        are those that they would be if the whole side were resized.
        """
        scale = new_length / (end - begin)
        margin = math.ceil(_REACH * max(1.0, scale)) + 1
        start = max(0, -offset - margin)
        stop = min(new_length, target - offset + margin)
        first = math.floor(begin + start / scale)
        last = math.ceil(min(end, begin + stop / scale))
        return cls(
            first,
            last,
            begin + start / scale - first,
            min(last - first, begin + stop / scale - first),
            stop - start,
            offset + start,
        )


def _resized(width: float, height: float, size: tuple[int, int], mode: str) -> tuple[int, int]:
    """(width, height) of the whole picture when it is resized, before it is cropped or padded."""
    if mode == "squash":
        return size[1], size[0]
    if mode == "shortest" and size[0] == size[1]:
        # torchvision's `Resize` rounds the long side down, open_clip's `ResizeKeepRatio` does not.
        short = min(width, height)
        return int(size[1] * width / short), int(size[0] * height / short)
    pick = max if mode == "longest" else min
    ratio = pick(height / size[0], width / size[1])
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def _offset(length: int, target: int) -> int:
    """Where a side of `length` begins in `target`: after the padding, or before it if cropped."""
    return (target - length) // 2 if length < target else -round((length - target) / 2)
