"""open_clip's resize, crop and padding, of a part of a picture whose edges may lie within a pixel.

open_clip's own transform knows whole pictures only. A JPEG decoded at a fraction of its size seldom
is one: of 533 columns at 1/2, the last of the 267 belongs to the picture by half. Resized as if it
were whole, it would come out a pixel wider here and there than it does when it is decoded in full.
"""

from __future__ import annotations

from PIL import Image

from cliptune.errors import BadImage

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""
MAX_RESIZED_PIXELS = 16_000_000
"""Of a resized picture before its middle is cropped out: 64 MB."""
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

    Raises:
        BadImage: it is so narrow that nothing would be left of it (`longest`), or that it would
            have more than `MAX_RESIZED_PIXELS` before its middle is cropped out (`shortest`).
    """
    height, width = size
    left, top, right, bottom = box or (0, 0, *image.size)
    new_width, new_height = _resized(right - left, bottom - top, size, mode)
    if not 0 < new_width * new_height <= MAX_RESIZED_PIXELS:
        raise BadImage(
            f"a picture of {right - left:.0f} x {bottom - top:.0f} pixels is too narrow: resized "
            f"for {width} x {height} it would have {new_width} x {new_height} "
            f"(allowed: 1 to {MAX_RESIZED_PIXELS} pixels)"
        )
    # open_clip takes no account of the interpolation where the target is no square.
    is_fixed = mode == "shortest" and width != height
    resized = image.resize(
        (new_width, new_height),
        _FILTERS["bicubic" if is_fixed else interpolation],
        box=(left, top, right, bottom),
    )
    if resized.size == (width, height):
        return resized
    target = Image.new("RGB", (width, height), (fill, fill, fill))
    target.paste(resized, (_offset(new_width, width), _offset(new_height, height)))
    return target


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
    return round(width / ratio), round(height / ratio)


def _offset(length: int, target: int) -> int:
    """Where a side of `length` begins in `target`: after the padding, or before it if cropped."""
    return (target - length) // 2 if length < target else -round((length - target) / 2)
