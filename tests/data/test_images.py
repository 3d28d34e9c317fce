"""Decoding against open_clip's own transform, and hostile pictures."""

from __future__ import annotations

import base64
import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cliptune.data.pictures.images import decode_image, image_bytes, read_data_uri
from cliptune.data.pictures.preprocessing import ImagePreprocessing, normalise, to_pixels
from cliptune.documents import ClipDoc
from cliptune.errors import BadImage, BadInput
from cliptune.models.openclip import open_clip

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
MODES = [
    ImagePreprocessing((224, 224), MEAN, STD),
    ImagePreprocessing((64, 64), MEAN, STD, resize_mode="longest", fill_color=255),
    ImagePreprocessing((48, 48), MEAN, STD, "bilinear", "squash"),
    ImagePreprocessing((48, 80), MEAN, STD, "bilinear", "shortest"),
]
NAMES = ["shortest", "longest", "squash", "not-square"]


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def same_as_open_clip(image: Image.Image, p: ImagePreprocessing) -> None:
    reference = open_clip.transform.image_transform(
        p.size[0] if p.size[0] == p.size[1] else p.size,
        is_train=False,
        mean=p.mean,
        std=p.std,
        resize_mode=p.resize_mode,
        interpolation=p.interpolation,
        fill_color=p.fill_color,
    )(image)
    ours = normalise(to_pixels(image, p)[None], p)[0]
    torch.testing.assert_close(torch.from_numpy(ours), reference, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("p", MODES, ids=NAMES)
@pytest.mark.parametrize("size", [(1, 1), (9, 300), (300, 7), (64, 64), (97, 31), (2, 150)])
def test_odd_sizes_are_prepared_as_by_open_clip(
    p: ImagePreprocessing, size: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    same_as_open_clip(Image.fromarray(pixels), p)


@pytest.mark.parametrize("p", MODES, ids=NAMES)
def test_real_pictures_are_prepared_as_by_open_clip(
    shared_dir: Path, p: ImagePreprocessing
) -> None:
    files = sorted((shared_dir / "clothing").rglob("*.jpg"))[::100]
    files += sorted((shared_dir / "fashion" / "images").glob("*.jpg"))[::400]
    assert len(files) > 8
    for file in files:
        same_as_open_clip(decode_image(file.read_bytes()), p)


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGB", "CMYK", "YCbCr", "I;16"])
def test_all_colour_modes_become_rgb(mode: str) -> None:
    grey = np.tile(np.arange(0, 250, 10, dtype=np.uint8), (25, 1))
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        rgb = Image.fromarray(grey).convert("RGB")
        image = rgb.quantize(256) if mode == "P" else rgb.convert(mode)
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    decoded = decode_image(encoded(image, kind))
    assert decoded.mode == "RGB"
    if mode != "1":
        expected = grey[..., None].repeat(3, -1).astype(int)
        assert np.abs(np.asarray(decoded).astype(int) - expected).max() <= 12


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("RGBA", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("RGBA", "GIF"),
        ("RGBA", "WEBP"),
        ("LA", "TIFF"),
    ],
)
def test_transparency_becomes_white(mode: str, kind: str) -> None:
    shape = Image.new("L", (32, 32), 0)
    shape.paste(255, (0, 0, 16, 32))
    clear = Image.new("RGBA", (32, 32), (40, 40, 40, 255))
    clear.putalpha(shape)
    # What is under the transparent half is not white.
    image = clear.quantize(8) if mode == "P" else clear.convert(mode)
    decoded = decode_image(encoded(image, kind, lossless=True))
    assert decoded.getpixel((20, 3)) == (255, 255, 255)
    assert np.abs(np.array(decoded.getpixel((3, 3))) - 40).max() <= 4


def test_half_transparent_is_half_white() -> None:
    decoded = decode_image(encoded(Image.new("RGBA", (4, 4), (200, 0, 100, 128))))
    expected = [128 / 255 * c + 127 / 255 * 255 for c in (200, 0, 100)]
    np.testing.assert_allclose(decoded.getpixel((1, 1)), expected, atol=1)


def test_phones_are_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    assert decode_image(encoded(Image.new("RGB", (20, 10)), "JPEG", exif=exif)).size == (10, 20)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_the_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    red, green, blue = np.asarray(decode_image(data))[8, 8].tolist()
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("peak", [65535, 40000, 200])
def test_16_bits_of_grey_are_scaled(kind: str, peak: int) -> None:
    values = np.linspace(0, peak, 400).round().astype(np.uint16).reshape(20, 20)
    decoded = np.asarray(decode_image(encoded(Image.fromarray(values), kind)))[..., 0]
    np.testing.assert_array_equal(decoded, np.round(values.astype(float) * 255 / 65535))


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_floating_point_grey_is_scaled(white: float) -> None:
    values = np.linspace(0, white, 64, dtype=np.float32).reshape(8, 8)
    decoded = np.asarray(decode_image(encoded(Image.fromarray(values), "TIFF")))[..., 0]
    np.testing.assert_array_equal(decoded, np.round(np.linspace(0, 255, 64)).reshape(8, 8))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (np.nan, "not all finite"),
        (np.inf, "not all finite"),
        (-np.inf, "not all finite"),
        (-0.5, "from -0.5 to 1"),
        (1e9, r"to 1e\+09, not from 0 to at most 65535"),
    ],
)
def test_numbers_that_are_no_brightness(bad: float, words: str) -> None:
    values = np.ones((8, 8), dtype=np.float32)
    values[3, 4] = bad
    with pytest.raises(BadImage, match=words):
        decode_image(encoded(Image.fromarray(values), "TIFF"))


def test_whole_numbers_that_are_no_brightness() -> None:
    values = np.full((8, 8), -3, dtype=np.int32)
    with pytest.raises(BadImage, match="from -3 to -3"):
        decode_image(encoded(Image.fromarray(values), "TIFF"))


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(50_000, 50_000), (20_000, 36_000), (10_000, 5_001)])
def test_a_bomb_is_refused_from_its_header(size: tuple[int, int]) -> None:
    data = png_claiming(*size)
    tracemalloc.start()
    with pytest.raises(BadImage, match="too large|pixels by its header"):
        decode_image(data)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"just some text", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        (b"%PDF-1.7 ...", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "not a picture"),
        (encoded(Image.effect_noise((200, 200), 80), "JPEG")[:-5000], "truncated or damaged"),
        (encoded(Image.new("RGB", (64, 64), "red"), "JPEG")[:20], "not a picture"),
        (png_claiming(100, 100), "truncated or damaged"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, words: str) -> None:
    with pytest.raises(BadImage, match=words):
        decode_image(data)


def test_where_a_picture_may_come_from(tmp_path: Path) -> None:
    data = encoded(Image.new("RGB", (2, 2)))
    file = tmp_path / "a picture.png"
    file.write_bytes(data)
    inline = "data:image/png;base64," + base64.b64encode(data).decode()
    for uri in (str(file), f"file://{str(file).replace(' ', '%20')}", inline):
        assert image_bytes(ClipDoc(uri=uri), allow_files=True) == data
    assert image_bytes(ClipDoc(image=data), allow_files=False) == data
    assert image_bytes(ClipDoc(uri=inline), allow_files=False) == data
    for uri in (str(file), f"file://{file}", "../../etc/passwd"):
        with pytest.raises(BadImage, match="files of the server are not read"):
            image_bytes(ClipDoc(uri=uri), allow_files=False)
    for uri in ("http://localhost/a.png", "https://a.b/c.png", "ftp://x/y", "s3://b/k"):
        with pytest.raises(BadImage, match="never fetched"):
            image_bytes(ClipDoc(uri=uri), allow_files=True)
    with pytest.raises(BadImage, match="No such file"):
        image_bytes(ClipDoc(uri=str(tmp_path / "none.png")), allow_files=True)
    with pytest.raises(BadImage, match="directory"):
        image_bytes(ClipDoc(uri=str(tmp_path)), allow_files=True)
    with pytest.raises(BadImage, match="neither image nor uri"):
        image_bytes(ClipDoc(text="only a text"), allow_files=True)


def test_data_uris() -> None:
    assert read_data_uri("data:,a%20b") == b"a b"
    assert read_data_uri("data:text/plain;charset=utf-8;base64,YQ==") == b"a"
    for uri in ("data:image/png;base64,????", "data:image/png;base64", "data:;;,x"):
        with pytest.raises(BadImage, match="data: URI"):
            read_data_uri(uri)


def test_preprocessing_is_checked_and_survives_json() -> None:
    for p in MODES:
        assert ImagePreprocessing.from_open_clip(p.to_dict()) == p
    with pytest.raises(BadInput, match="'crop'.*shortest"):
        ImagePreprocessing((8, 8), MEAN, STD, resize_mode="crop")
