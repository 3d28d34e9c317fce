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

from cliptune.data.images import (
    ImagePreprocessing,
    decode_image,
    image_bytes,
    normalise,
    read_data_uri,
    to_pixels,
)
from cliptune.documents import ClipDoc
from cliptune.errors import BadImage, BadInput
from cliptune.models.openclip import open_clip

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
MODES = [
    ImagePreprocessing((224, 224), MEAN, STD),
    ImagePreprocessing((64, 64), MEAN, STD, resize_mode="longest", fill_color=255),
    ImagePreprocessing((48, 48), MEAN, STD, "bilinear", "squash"),
]


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def same_as_open_clip(image: Image.Image, p: ImagePreprocessing) -> None:
    reference = open_clip.transform.image_transform(
        p.size[0],
        is_train=False,
        mean=p.mean,
        std=p.std,
        resize_mode=p.resize_mode,
        interpolation=p.interpolation,
        fill_color=p.fill_color,
    )(image)
    ours = normalise(to_pixels(image, p)[None], p)[0]
    torch.testing.assert_close(torch.from_numpy(ours), reference, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("p", MODES, ids=["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(1, 1), (9, 300), (300, 7), (64, 64), (97, 31)])
def test_odd_sizes_are_prepared_as_by_open_clip(
    p: ImagePreprocessing, size: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    same_as_open_clip(Image.fromarray(pixels), p)


@pytest.mark.parametrize("p", MODES, ids=["shortest", "longest", "squash"])
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


def test_transparency_becomes_white_and_phones_are_turned_upright() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    clear.putpixel((0, 0), (200, 10, 10, 255))
    decoded = decode_image(encoded(clear))
    assert decoded.getpixel((3, 3)) == (255, 255, 255)
    assert decoded.getpixel((0, 0)) == (200, 10, 10)
    wide = Image.new("RGB", (20, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    assert decode_image(encoded(wide, "JPEG", exif=exif)).size == (10, 20)


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data).getpixel((0, 0)) == (255, 0, 0)  # type: ignore[comparison-overlap]


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


def test_a_hair_of_a_picture_is_named() -> None:
    with pytest.raises(BadImage, match="1 x 3000 pixels can't be resized"):
        to_pixels(Image.new("RGB", (1, 3000)), MODES[1])


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
