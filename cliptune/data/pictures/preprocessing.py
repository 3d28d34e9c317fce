"""How a model wants its pictures: open_clip's resize, crop, padding and normalisation.

They take a part of a picture whose edges may lie within a pixel, too.

open_clip's own transform knows whole pictures only. A JPEG decoded at a fraction of its size seldom
is one: of 533 columns at 1/2, the last of the 267 belongs to the picture by half. Resized as if it
were whole, it would come out a pixel wider here and there than it does when it is decoded in full.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cliptune.errors import BadInput

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""
MAX_RESIZED_PIXELS = 16_000_000
"""Of a resized picture before its middle is cropped out: 64 MB. Of a longer one, the middle alone
is resized."""
_REACH = 2
"""How far a bicubic filter looks, in pixels of the picture or of the result, the larger ones."""
_RESIZE_MODES = ("shortest", "longest", "squash")
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class PreprocessingConfig(TypedDict):
    """open_clip's `preprocess_cfg`."""

    size: int | list[int]
    mean: list[float]
    std: list[float]
    interpolation: NotRequired[str | None]
    resize_mode: NotRequired[str | None]
    fill_color: NotRequired[int | None]


@dataclass(frozen=True)
class ImagePreprocessing:
    """How a model wants its pictures: open_clip's `PreprocessCfg`."""

    size: tuple[int, int]
    """(height, width) in pixels."""
    mean: tuple[float, ...]
    """Per channel, in [0, 1]; subtracted."""
    std: tuple[float, ...]
    """Per channel; divided by."""
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    """`shortest`: fill the square and crop the middle; `longest`: fit in and pad; `squash`."""
    fill_color: int = 0
    """The grey value of the padding."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name, allowed in (("interpolation", tuple(_FILTERS)), ("resize_mode", _RESIZE_MODES)):
            if getattr(self, name) not in allowed:
                raise BadInput(f"{name} is {getattr(self, name)!r}: use one of {allowed}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise BadInput(f"mean {self.mean} and std {self.std} must be three numbers, std > 0")

    @classmethod
    def from_open_clip(cls, config: PreprocessingConfig) -> ImagePreprocessing:
        """From the `preprocess_cfg` of an open_clip model."""
        size = config["size"]
        height, width = (size, size) if isinstance(size, int) else size[-2:]
        interpolation = config.get("interpolation") or "bicubic"
        return cls(
            size=(int(height), int(width)),
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            # open_clip reads 'random' as bicubic outside of training.
            interpolation="bicubic" if interpolation == "random" else interpolation,
            resize_mode=config.get("resize_mode") or "shortest",
            fill_color=int(config.get("fill_color") or 0),
        )

    @property
    def summary(self) -> str:
        """All of it in a few words, for logs."""
        mean, std = (" ".join(f"{value:.4g}" for value in part) for part in (self.mean, self.std))
        return (
            f"pictures {self.size[0]} x {self.size[1]}, {self.interpolation}, {self.resize_mode}, "
            f"mean {mean}, std {std}"
        )

    def to_dict(self) -> PreprocessingConfig:
        """As JSON-able values, readable by `from_open_clip` and by open_clip."""
        return PreprocessingConfig(
            size=list(self.size),
            mean=list(self.mean),
            std=list(self.std),
            interpolation=self.interpolation,
            resize_mode=self.resize_mode,
            fill_color=self.fill_color,
        )


def to_pixels(
    image: Image.Image, preprocessing: ImagePreprocessing, box: Box | None = None
) -> NDArray[np.uint8]:
    """Resize, crop and pad an RGB `image`, or its part `box`, as open_clip; uint8 [H, W, 3]."""
    resized = resize_and_crop(
        image,
        preprocessing.size,
        mode=preprocessing.resize_mode,
        interpolation=preprocessing.interpolation,
        fill=preprocessing.fill_color,
        box=box,
    )
    return np.asarray(resized, dtype=np.uint8)


def normalise(pixels: NDArray[np.uint8], preprocessing: ImagePreprocessing) -> NDArray[np.float32]:
    """uint8 [N, H, W, 3] to the vision tower's input, float32 [N, 3, H, W]."""
    mean = np.array(preprocessing.mean, dtype=np.float32) * 255
    std = np.array(preprocessing.std, dtype=np.float32) * 255
    values = (pixels.astype(np.float32) - mean) / std
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


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
