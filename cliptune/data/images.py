"""Decoding pictures that nobody has checked, and preparing them for a vision tower."""

from __future__ import annotations

import base64
import binascii
import functools
import io
import re
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cliptune.documents import ClipDoc
from cliptune.errors import BadImage, BadInput

MAX_PIXELS = 50_000_000
"""Pictures of more pixels are refused from their header, before anything is decoded."""
MAX_BYTES = 100 * 2**20
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

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values, readable by `from_open_clip` and by open_clip."""
        values = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one picture to RGB: upright (EXIF), transparency on white, first frame.

    Raises:
        BadImage: empty, of an unknown format, damaged, or larger than `max_pixels` by its header.
    """
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
    try:
        image.load()
        return _on_white(ImageOps.exif_transpose(image))
    except Exception as error:
        raise BadImage(f"the {image.format} picture is truncated or damaged ({error})") from error


def _on_white(image: Image.Image) -> Image.Image:
    """To RGB; what is transparent becomes white, as shops show it."""
    if image.mode.startswith("I"):
        # 16 and 32 bits of grey: Pillow would clip them to 255 rather than scale.
        values = np.asarray(image).astype(np.float64)
        peak = 65535.0 if values.max() > 255 else 255.0
        image = Image.fromarray((values / peak * 255).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def to_pixels(image: Image.Image, preprocessing: ImagePreprocessing) -> NDArray[np.uint8]:
    """Resize, crop and pad `image` as open_clip does; returns uint8 [H, W, 3].

    Raises:
        BadImage: it is so narrow that nothing would be left of it.
    """
    try:
        return np.asarray(_open_clip_resize(preprocessing)(image), dtype=np.uint8)
    except ValueError as error:
        width, height = image.size
        raise BadImage(f"{width} x {height} pixels can't be resized: {error}") from error


@functools.lru_cache(maxsize=8)
def _open_clip_resize(preprocessing: ImagePreprocessing) -> Callable[[Image.Image], Image.Image]:
    """open_clip's own transform for inference, up to where it becomes a tensor."""
    from torchvision.transforms import Compose

    from cliptune.models.openclip import open_clip

    height, width = preprocessing.size
    whole = open_clip.transform.image_transform(
        height if height == width else (height, width),
        is_train=False,
        mean=preprocessing.mean,
        std=preprocessing.std,
        resize_mode=preprocessing.resize_mode,
        interpolation=preprocessing.interpolation,
        fill_color=preprocessing.fill_color,
    )
    return Compose(whole.transforms[:-2])


def normalise(pixels: NDArray[np.uint8], preprocessing: ImagePreprocessing) -> NDArray[np.float32]:
    """uint8 [N, H, W, 3] to the vision tower's input, float32 [N, 3, H, W]."""
    mean = np.array(preprocessing.mean, dtype=np.float32) * 255
    std = np.array(preprocessing.std, dtype=np.float32) * 255
    values = (pixels.astype(np.float32) - mean) / std
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


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
