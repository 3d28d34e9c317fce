"""Decoding pictures that nobody has checked.

A picture may be given as its encoded bytes, a file, a path, a PIL image or an array of pixels: all
of them take one path, so that all of them become the same pixels. Upright (EXIF), transparency on
white, grey of 16 bits scaled to 8, the first frame; colour profiles are not applied, as in CLIP's
own preprocessing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin, features

from cliptune.data.pictures.preprocessing import Box, ImagePreprocessing, to_pixels
from cliptune.data.pictures.slices import is_slice, read_slice
from cliptune.documents import ClipDoc
from cliptune.errors import BadImage
from cliptune.settings import current

DRAFT_FACTOR = 2
"""How many times its input a vision tower's picture is decoded at least, where it is larger."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
"""HEIF, which telephones write as .heic, needs the extra `cliptune[heic]`."""
SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"
)  # fmt: skip
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[\w.+-]+)*)(;base64)?,", re.A)


Picture = Any
"""An encoded picture (bytes, a path, a file open for reading), a PIL image, or pixels: an array,
or what becomes one (a tensor), uint8 [H, W, 3], [H, W, 4], [H, W, 2], [H, W, 1] or [H, W]."""


def decode_image(picture: Picture, *, max_pixels: int | None = None) -> Image.Image:
    """Decode one picture to RGB: upright (EXIF), transparency on white, first frame.

    A PIL image that is given stays as it is.

    Raises:
        BadImage: empty, of an unknown format, damaged, larger than `max_pixels` by its header,
            its values are no brightness (floating point numbers out of range), or no picture.
    """
    return _load(_open(picture, max_pixels or current().max_pixels))


def decode_pixels(picture: Picture, preprocessing: ImagePreprocessing) -> NDArray[np.uint8]:
    """A vision tower's pixels of one picture, uint8 [H, W, 3]: for training and serving.

    As `to_pixels` of `decode_image`, but a JPEG that is much larger than the tower's input is
    decoded at 1/2, 1/4 or 1/8 of its size, by libjpeg's scaled inverse DCT: the smallest that
    keeps both sides at least `DRAFT_FACTOR` times as long as the input's. (So a large JPEG that
    was decoded before it is given, to a PIL image or an array, differs a little from its bytes.)

    Raises:
        BadImage: as `decode_image`.
    """
    image = _open(picture, current().max_pixels)
    drafted = None
    # Others than JPEG may answer with a thumbnail that was stored beside the picture. What the
    # caller has opened is the caller's: drafting would change it.
    if isinstance(image, JpegImagePlugin.JpegImageFile) and image is not picture:
        least = DRAFT_FACTOR * max(preprocessing.size)
        drafted = image.draft(None, (least, least))
    upright = _load(image)
    if drafted is None:
        return to_pixels(upright, preprocessing)
    _, (_, _, width, height) = drafted
    return to_pixels(upright, preprocessing, _upright_box(width, height, image, upright.size))


def decoded_pixels(data: bytes, preprocessing: ImagePreprocessing) -> int:
    """How many pixels `decode_pixels` decodes, by the picture's header.

    Raises:
        BadImage: empty, of an unknown format, or larger than `CLIPTUNE_MAX_PIXELS`.
    """
    image = _open(data, current().max_pixels)
    width, height = image.size
    if not image.info.get("progressive"):  # those are decoded whole, whatever is left out then
        least = DRAFT_FACTOR * max(preprocessing.size)
        image.draft(None, (least, least))
        width, height = image.size
    return width * height


def check_header(data: bytes) -> None:
    """Raise `BadImage` unless `data` is a picture by its header; nothing is decoded."""
    _open(data, current().max_pixels)


def _encoded(picture: Picture) -> bytes | None:
    """The encoded picture as bytes; None if it is given decoded."""
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, Path):
        return _read_file(picture, str(picture))
    if isinstance(picture, JpegImagePlugin.JpegImageFile):
        return _unread(picture)
    if hasattr(picture, "read"):
        data = picture.read(current().max_picture + 1)
        if not isinstance(data, bytes):
            raise BadImage("the file is open as text: open it with mode 'rb'")
        return data
    return None


def _unread(image: Image.Image) -> bytes | None:
    """The bytes of an opened picture that is not decoded yet: so they are drafted as any others."""
    if not getattr(image, "tile", None) or image.fp is None or image.tell() or _is_drafted(image):  # type: ignore[attr-defined]
        return None
    try:
        place = image.fp.tell()  # type: ignore[attr-defined]
        image.fp.seek(0)  # type: ignore[attr-defined]
        data = image.fp.read(current().max_picture + 1)  # type: ignore[attr-defined]
        image.fp.seek(place)  # type: ignore[attr-defined]
    except (OSError, ValueError):
        return None  # closed, or no file that can be read twice: decoding it says what is wrong
    return bytes(data)


def _is_drafted(image: Image.Image) -> bool:
    return bool(getattr(image, "decoderconfig", ()))


def _open(picture: Picture, max_pixels: int) -> Image.Image:
    """A picture with the size that it claims checked; if it is encoded, nothing is decoded yet."""
    encoded = _encoded(picture)
    if encoded is not None:
        image = _open_encoded(encoded)
    elif isinstance(picture, Image.Image):
        image = picture
    elif isinstance(picture, np.ndarray) or hasattr(picture, "__array__"):
        return image_of_pixels(np.asarray(picture), max_pixels=max_pixels)
    else:
        raise BadImage(
            f"it is a {type(picture).__name__}, not a picture: give bytes, a path, a file, a PIL "
            "image or an array of pixels"
        )
    width, height = image.size
    if width * height > max_pixels:
        raise BadImage(
            f"the picture has {width} x {height} pixels by its header, the limit is {max_pixels}"
        )
    return image


def _open_encoded(data: bytes) -> Image.Image:
    """Read the header of an encoded picture."""
    if not data:
        raise BadImage("the picture is empty (0 bytes)")
    if len(data) > current().max_picture:
        limit = current().max_picture
        raise BadImage(f"the picture has {_at_least(len(data))} bytes, the limit is {limit}")
    needs = _missing_decoder(data)
    if needs:
        raise BadImage(needs)
    try:
        with warnings.catch_warnings():
            # Pillow warns at half of its own limit; ours is checked right after.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data), formats=known_formats())
    except Image.DecompressionBombError as error:
        raise BadImage(f"the picture is too large: {error}") from error
    except Exception as error:
        raise BadImage(
            f"not a picture of a known format ({', '.join(FORMATS)}), or its header is damaged"
        ) from error


def _at_least(size: int) -> str:
    return f"more than {size - 1}" if size == current().max_picture + 1 else str(size)


@cache
def known_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this installation decodes; Pillow knows them from now on."""
    if not _register_heif():
        return tuple(name for name in FORMATS if name != "HEIF")
    return FORMATS


def _register_heif() -> bool:
    """Make HEIF known to Pillow, in every process that decodes; False without the extra."""
    try:
        import pillow_heif
    except ImportError:
        return False
    # A server decodes several pictures at once anyway; thumbnails are other pictures.
    pillow_heif.register_heif_opener(thumbnails=False, decode_threads=1)
    return True


def _missing_decoder(data: bytes) -> str:
    """What to install for a picture of a known format that can't be decoded here; else empty."""
    if data[4:8] != b"ftyp":
        return ""
    brand = data[8:12]
    brands = {brand, *(data[i : i + 4] for i in range(16, min(len(data), 64), 4))}
    if b"avif" in brands or b"avis" in brands:
        if features.check("avif"):
            return ""
        return "an AVIF picture, and this Pillow was built without AVIF: install a newer Pillow"
    if brand in _HEIF_BRANDS and "HEIF" not in known_formats():
        return "a HEIC picture (HEIF): to read it, pip install 'cliptune[heic]'"
    return ""


def _load(image: Image.Image) -> Image.Image:
    """Decode an opened picture to upright RGB."""
    size = image.size
    try:
        image.load()
        if image.width * image.height > max(current().max_pixels, size[0] * size[1]):
            raise BadImage(
                f"the picture has {image.width} x {image.height} pixels, and by its header "
                f"{size[0]} x {size[1]}"
            )
        return _on_white(_to_8_bits(ImageOps.exif_transpose(image)))
    except BadImage:
        raise
    except Exception as error:
        kind = f"{image.format} " if image.format else ""
        raise BadImage(f"the {kind}picture is truncated or damaged ({error})") from error


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
    if image.mode in ("La", "RGBa"):  # premultiplied, which Pillow converts to this only
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def image_of_pixels(pixels: NDArray[np.generic], *, max_pixels: int | None = None) -> Image.Image:
    """The picture of an array: [H, W, 3] (RGB) or [H, W, 1] or [H, W] (grey), or one with alpha.

    Pixels are uint8, or bool (black and white); other whole numbers are taken if they are from 0
    to 255.

    Raises:
        BadImage: another shape or type, values out of range, or more than `max_pixels` pixels.
    """
    shape = list(pixels.shape)
    if pixels.ndim == 3 and shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and shape[2] not in (2, 3, 4)):
        raise BadImage(f"pixels of shape {shape}, expected [H, W, 3]")
    height, width = shape[:2]
    max_pixels = max_pixels or current().max_pixels
    if not 1 <= height * width <= max_pixels:
        raise BadImage(f"{width} x {height} pixels, expected 1 to {max_pixels}")
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype.kind not in "iu":
        raise BadImage(f"pixels of type {pixels.dtype}, expected uint8")
    if pixels.dtype != np.uint8:
        if pixels.min() < 0 or pixels.max() > 255:
            raise BadImage(f"pixels from {pixels.min()} to {pixels.max()}, expected 0 to 255")
        pixels = pixels.astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels))


def png_of_pixels(pixels: NDArray[np.generic]) -> bytes:
    """A picture from its pixels, as `image_of_pixels` takes them, as a PNG.

    Raises:
        BadImage: as `image_of_pixels`.
    """
    return _png(image_of_pixels(pixels))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    # Level 1: most of the size for a tenth of the time.
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def image_bytes(doc: ClipDoc, *, allow_files: bool) -> bytes:
    """The encoded picture of `doc`: its `image`, or what its `uri` holds.

    A `data:` URI is decoded; a local path, a `file://` URI or the address of a picture inside of
    a file (`cliptune.data.pictures.slices`) is read only with `allow_files`
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
    if is_slice(doc.uri) and allow_files:
        return read_slice(doc.uri)
    scheme = urlsplit(doc.uri).scheme.lower()
    if len(scheme) > 1 and scheme not in ("file", "slice"):
        raise BadImage(f"uri {shown!r}: pictures are never fetched; send the bytes, or a data: URI")
    if not allow_files:
        raise BadImage(
            f"uri {shown!r}: files of the server are not read; send the bytes, or a data: URI"
        )
    path = unquote(urlsplit(doc.uri).path) if scheme == "file" else doc.uri
    return _read_file(Path(path), shown)


def picture_digest(doc: ClipDoc, *, allow_files: bool = True) -> str:
    """The SHA-256 (hex) of the encoded picture of `doc`.

    Raises:
        BadImage: as `image_bytes`.
    """
    return hashlib.sha256(image_bytes(doc, allow_files=allow_files)).hexdigest()


def _read_file(path: Path, shown: str) -> bytes:
    try:
        if path.is_file() and path.stat().st_size > (limit := current().max_picture):
            raise BadImage(f"{shown!r} has {path.stat().st_size} bytes, the limit is {limit}")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadImage(f"picture file {shown!r}: {reason}") from error


def read_data_uri(uri: str) -> bytes:
    """The bytes in a `data:` URI (RFC 2397).

    Raises:
        BadImage: it is malformed or too long.
    """
    if len(uri) > (limit := current().max_picture) * 4 // 3 + 1000:
        raise BadImage(f"data: URI of {len(uri)} characters, the limit is {limit} bytes")
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
