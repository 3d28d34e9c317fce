"""Decoding pictures that nobody has checked, and preparing them for a vision tower."""

from __future__ import annotations

import base64
import binascii
import io
import re
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from cliptune.data.resizing import Box, resize_and_crop
from cliptune.documents import ClipDoc
from cliptune.errors import BadImage, BadInput
from cliptune.limits import limit

MAX_PIXELS = limit("CLIPTUNE_MAX_PIXELS", 50_000_000)
"""Pictures of more pixels are refused from their header, before anything is decoded."""
MAX_BYTES = limit("CLIPTUNE_MAX_PICTURE", 100 * 2**20)
DRAFT_FACTOR = 2
"""How many times its input a vision tower's picture is decoded at least, where it is larger."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
_INTERPOLATIONS = ("bicubic", "bilinear")
_RESIZE_MODES = ("shortest", "longest", "squash")
_DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[\w.+-]+)*)(;base64)?,", re.A)


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
        for name, allowed in (("interpolation", _INTERPOLATIONS), ("resize_mode", _RESIZE_MODES)):
            if getattr(self, name) not in allowed:
                raise BadInput(f"{name} is {getattr(self, name)!r}: use one of {allowed}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise BadInput(f"mean {self.mean} and std {self.std} must be three numbers, std > 0")

    @classmethod
    def from_open_clip(cls, config: dict[str, Any]) -> ImagePreprocessing:
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

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values, readable by `from_open_clip` and by open_clip."""
        values = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one picture to RGB: upright (EXIF), transparency on white, first frame.

    Raises:
        BadImage: empty, of an unknown format, damaged, larger than `max_pixels` by its header,
            or its values are no brightness (floating point numbers out of range).
    """
    return _load(_open(data, max_pixels))


def decode_pixels(data: bytes, preprocessing: ImagePreprocessing) -> NDArray[np.uint8]:
    """A vision tower's pixels of one encoded picture, uint8 [H, W, 3]: for training and serving.

    As `to_pixels` of `decode_image`, but a JPEG that is much larger than the tower's input is
    decoded at 1/2, 1/4 or 1/8 of its size, by libjpeg's scaled inverse DCT: the smallest that
    keeps both sides at least `DRAFT_FACTOR` times as long as the input's.

    Raises:
        BadImage: as `decode_image` and `to_pixels`.
    """
    image = _open(data, MAX_PIXELS)
    least = DRAFT_FACTOR * max(preprocessing.size)
    drafted = image.draft(None, (least, least))
    upright = _load(image)
    if drafted is None:
        return to_pixels(upright, preprocessing)
    _, (_, _, width, height) = drafted
    return to_pixels(upright, preprocessing, _upright_box(width, height, image, upright.size))


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """Read the header and check the size that it claims; nothing is decoded yet."""
    if not data:
        raise BadImage("the picture is empty (0 bytes)")
    if len(data) > MAX_BYTES:
        raise BadImage(f"the picture has {len(data)} bytes, the limit is {MAX_BYTES}")
    try:
        with warnings.catch_warnings():
            # Pillow warns at half of its own limit; ours is checked right below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BadImage(f"the picture is too large: {error}") from error
    except Exception as error:
        raise BadImage(
            f"not a picture of a known format ({', '.join(FORMATS)}), or its header is damaged"
        ) from error
    width, height = image.size
    if width * height > max_pixels:
        raise BadImage(
            f"the picture has {width} x {height} pixels by its header, the limit is {max_pixels}"
        )
    return image


def _load(image: Image.Image) -> Image.Image:
    """Decode an opened picture to upright RGB."""
    try:
        image.load()
        return _on_white(_to_8_bits(ImageOps.exif_transpose(image)))
    except BadImage:
        raise
    except Exception as error:
        raise BadImage(f"the {image.format} picture is truncated or damaged ({error})") from error


def _upright_box(
    width: float, height: float, image: Image.Image, upright_size: tuple[int, int]
) -> Box:
    """Where the picture lies in its upright drafted pixels.

    `width` and `height` are its size as stored divided by the drafting's factor: where that is no
    whole number, the last column or row is only partly the picture's. Turning the picture upright
    takes them elsewhere.
    """
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    left = upright_size[0] - width if orientation in (2, 3, 6, 7) else 0
    top = upright_size[1] - height if orientation in (3, 4, 7, 8) else 0
    return left, top, left + width, top + height


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale grey of 16 or 32 bits to 8; Pillow would clip it to 255.

    Whole numbers of 16 bits are parts of 65,535. Those of 32 bits, and floating point numbers,
    don't say what white is: 1 (floating point only), 255 or 65,535, the least that fits.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):  # NaN makes both of them NaN
        raise BadImage("its values are not all finite numbers (NaN or infinity)")
    whites = {"I": (255, 65535), "F": (1, 255, 65535)}.get(image.mode, (65535,))
    if low < 0 or high > whites[-1]:
        raise BadImage(
            f"its values go from {low:g} to {high:g}, not from 0 to at most {whites[-1]}"
        )
    white = next(white for white in whites if high <= white)
    values *= 255 / white
    return Image.fromarray(values.round().astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    """To RGB; what is transparent becomes white, as shops show it."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def to_pixels(
    image: Image.Image, preprocessing: ImagePreprocessing, box: Box | None = None
) -> NDArray[np.uint8]:
    """Resize, crop and pad an RGB `image`, or its part `box`, as open_clip; uint8 [H, W, 3].

    Raises:
        BadImage: it is so narrow that nothing would be left of it.
    """
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


def png_of_pixels(pixels: NDArray) -> bytes:
    """A picture from its pixels, [H, W, 3] (RGB), [H, W, 4], [H, W, 1] or [H, W], as a PNG.

    Pixels are uint8; other whole numbers are taken if they are from 0 to 255.

    Raises:
        BadImage: another shape or type, values out of range, or more than `MAX_PIXELS` pixels.
    """
    shape = list(pixels.shape)
    if pixels.ndim == 3 and shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and shape[2] not in (3, 4)):
        raise BadImage(f"pixels of shape {shape}, expected [H, W, 3]")
    height, width = shape[:2]
    if not 1 <= height * width <= MAX_PIXELS:
        raise BadImage(f"{width} x {height} pixels, expected 1 to {MAX_PIXELS}")
    if pixels.dtype.kind not in "iu":
        raise BadImage(f"pixels of type {pixels.dtype}, expected uint8")
    if pixels.dtype != np.uint8:
        if pixels.min() < 0 or pixels.max() > 255:
            raise BadImage(f"pixels from {pixels.min()} to {pixels.max()}, expected 0 to 255")
        pixels = pixels.astype(np.uint8)
    buffer = io.BytesIO()
    # Level 1: most of the size for a tenth of the time.
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def image_bytes(doc: ClipDoc, *, allow_files: bool) -> bytes:
    """The encoded picture of `doc`: its `image`, or what its `uri` holds.

    A `data:` URI is decoded; a local path or `file://` URI is read only with `allow_files`
    (never on behalf of a client). Nothing is ever fetched.

    Raises:
        BadImage: no picture, a URI of another kind, or a file that can't be read.
    """
    if doc.image is not None:
        return doc.image
    if not doc.uri:
        raise BadImage("no picture: neither image nor uri is set")
    if doc.uri.startswith("data:"):
        return read_data_uri(doc.uri)
    shown = doc.uri[:200]
    scheme = urlsplit(doc.uri).scheme.lower()
    if len(scheme) > 1 and scheme != "file":
        raise BadImage(f"uri {shown!r}: pictures are never fetched; send the bytes, or a data: URI")
    if not allow_files:
        raise BadImage(
            f"uri {shown!r}: files of the server are not read; send the bytes, or a data: URI"
        )
    path = Path(unquote(urlsplit(doc.uri).path) if scheme == "file" else doc.uri)
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise BadImage(f"{shown!r} has {path.stat().st_size} bytes, the limit is {MAX_BYTES}")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadImage(f"picture file {shown!r}: {reason}") from error


def read_data_uri(uri: str) -> bytes:
    """The bytes in a `data:` URI (RFC 2397).

    Raises:
        BadImage: it is malformed or too long.
    """
    if len(uri) > MAX_BYTES * 4 // 3 + 1000:
        raise BadImage(f"data: URI of {len(uri)} characters, the limit is {MAX_BYTES} bytes")
    head = _DATA_URI.match(uri)
    if not head:
        raise BadImage(f"malformed data: URI {uri[:60]!r}…")
    body = uri[head.end() :]
    if not head.group(3):
        return unquote_to_bytes(body)
    try:
        return base64.b64decode(unquote(body), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadImage(f"data: URI {uri[:40]!r}… is not valid base64: {error}") from error
