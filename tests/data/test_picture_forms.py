"""One picture, however it is given, is the same pixels; every telephone's picture is one."""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from docarray import DocList
from PIL import Image

from cliptune.client.inputs import to_doc, to_encode
from cliptune.data.pictures import images
from cliptune.data.pictures.images import (
    decode_image,
    decode_pixels,
    image_bytes,
    image_of_pixels,
)
from cliptune.data.pictures.pixels import decode_documents
from cliptune.data.pictures.preprocessing import MAX_RESIZED_PIXELS, ImagePreprocessing
from cliptune.documents import ClipDoc
from cliptune.errors import BadImage
from cliptune.inference.towers import VisionTower

P = ImagePreprocessing((32, 32), (0.5,) * 3, (0.5,) * 3)
SIDE = (61, 47)
ORIENTATION = 0x0112


def drawn(mode: str) -> Image.Image:
    """A picture with four unlike corners, half transparent in its middle."""
    x, y = np.meshgrid(np.linspace(0, 255, SIDE[0]), np.linspace(0, 255, SIDE[1]))
    rgb = np.stack([x, y, 255 - x], axis=2).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray((x * 257).astype(np.uint16))
    if mode == "I":
        return Image.fromarray((x * 257).astype(np.int32))
    if mode == "F":
        return Image.fromarray((x / 255).astype(np.float32))
    clear = Image.fromarray(rgb).convert("RGBA")
    clear.putalpha(Image.fromarray((255 - np.abs(x - 128)).astype(np.uint8)))
    if mode in ("RGBA", "LA"):
        return clear.convert(mode)
    if mode == "P transparent":
        return clear.quantize(16)
    if mode == "RGB transparent":
        plain = Image.fromarray(rgb)
        plain.info["transparency"] = plain.getpixel((3, 3))
        return plain
    return Image.fromarray(rgb).convert(mode)


# Where no format keeps all of a mode, a lossless one that keeps this picture of it.
KINDS = {
    "RGB": "PNG", "RGBA": "PNG", "L": "PNG", "LA": "PNG", "P": "PNG", "1": "PNG", "I;16": "PNG",
    "P transparent": "PNG", "RGB transparent": "PNG", "CMYK": "TIFF", "I": "TIFF", "F": "TIFF",
    "YCbCr": "TIFF",
}  # fmt: skip


def forms_of(data: bytes, folder: Path) -> dict[str, Any]:
    """The picture of `data` in every form in which one may be given."""
    file = folder / "a picture.bin"
    file.write_bytes(data)
    opened = Image.open(io.BytesIO(data))
    loaded = Image.open(io.BytesIO(data))
    loaded.load()
    inline = "data:image/png;base64," + base64.b64encode(data).decode()
    uri = file.as_uri()
    return {
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "path": file,
        "file": io.BytesIO(data),
        "PIL, opened": opened,
        "PIL, loaded": loaded,
        "PIL, copied": loaded.copy(),
        "file URI": image_bytes(ClipDoc(uri=uri), allow_files=True),
        "data URI": image_bytes(ClipDoc(uri=inline), allow_files=False),
        "sent, opened": sent(Image.open(io.BytesIO(data))),
        "sent, loaded": sent(loaded),
        "pixels": np.asarray(decode_image(data)),
        "tensor": torch.from_numpy(np.array(decode_image(data))),
    }


def sent(picture: Any) -> Any:
    """The bytes that a client sends of it."""
    return to_encode(to_doc(picture, 0)).image


def same_in_all_forms(data: bytes, folder: Path) -> None:
    expected = decode_pixels(data, P)
    assert expected.std() > 10
    whole = np.asarray(decode_image(data))
    for form, given in forms_of(data, folder).items():
        np.testing.assert_array_equal(decode_pixels(given, P), expected, err_msg=form)
    for form, given in forms_of(data, folder).items():
        np.testing.assert_array_equal(np.asarray(decode_image(given)), whole, err_msg=form)
    [trained] = decode_documents(DocList[ClipDoc]([ClipDoc(image=data)]), P).pixels
    np.testing.assert_array_equal(trained, expected)


@pytest.mark.parametrize("orientation", [None, 2, 5, 6, 8])
@pytest.mark.parametrize("mode", KINDS)
def test_all_forms_of_a_picture_are_the_same_pixels(
    mode: str, orientation: int | None, tmp_path: Path
) -> None:
    buffer = io.BytesIO()
    options: dict[str, Any] = {}
    picture = drawn(mode)
    if orientation:
        options["exif"] = Image.Exif()
        options["exif"][ORIENTATION] = orientation
    picture.save(buffer, KINDS[mode], **options)
    upright = decode_image(buffer.getvalue()).size
    assert upright == (SIDE[::-1] if orientation in (5, 6, 8) else SIDE)
    same_in_all_forms(buffer.getvalue(), tmp_path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16"])
def test_a_tower_takes_all_forms(mode: str) -> None:
    """What the tower is given of a PIL image, of its file and of its pixels."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    buffer = io.BytesIO()
    drawn(mode).save(buffer, "PNG", exif=exif)
    data = buffer.getvalue()
    seen = []

    def forward(pixels: np.ndarray) -> np.ndarray:
        seen.extend(pixels)
        return np.ones((len(pixels), 2), dtype=np.float32)

    tower = VisionTower(forward, P, "digest", 2)
    tower.encode([data, Image.open(io.BytesIO(data)), io.BytesIO(data)])
    for other in seen[1:]:
        np.testing.assert_array_equal(other, seen[0])


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "HEIF", "GIF", "BMP"])
def test_all_forms_of_lossy_pictures(kind: str, tmp_path: Path) -> None:
    images.known_formats()  # HEIF can be written once it is known
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    # A HEIF picture is turned by a property of its own, and not by its EXIF data.
    options = {} if kind in ("GIF", "BMP", "HEIF") else {"exif": exif}
    drawn("RGB").save(buffer, kind, **options)
    assert decode_image(buffer.getvalue()).size == (SIDE[::-1] if options else SIDE)
    same_in_all_forms(buffer.getvalue(), tmp_path)


def test_a_large_jpeg_that_is_opened_is_drafted_as_its_bytes_are(tmp_path: Path) -> None:
    x = np.linspace(0, 255, 640)
    pixels = np.stack(np.broadcast_arrays(x[:, None], x[None, :500], 255 - x[:, None]), axis=2)
    path = tmp_path / "large.jpg"
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=80)
    expected = decode_pixels(path.read_bytes(), P)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(decode_pixels(opened, P), expected)
        opened.load()  # it still can be
        assert opened.size == (500, 640), "the caller's picture is left as it was"
        assert sent(path) == path.read_bytes()
        # Decoded already, it can't be drafted: the difference is drafting's.
        assert np.abs(decode_pixels(opened, P).astype(int) - expected).max() <= 2


def test_a_picture_that_the_caller_drafted_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    drawn("RGB").resize((600, 400)).save(path)
    with Image.open(path) as opened:
        opened.draft("RGB", (150, 100))
        assert decode_image(opened).size == opened.size == (150, 100)


def test_premultiplied_and_bilevel_pixels() -> None:
    clear = Image.new("RGBA", (8, 8), (200, 0, 100, 128))
    expected = np.asarray(decode_image(clear))
    assert np.abs(np.asarray(decode_image(clear.convert("RGBa"))).astype(int) - expected).max() <= 1
    assert np.abs(np.asarray(decode_image(np.asarray(clear))).astype(int) - expected).max() == 0
    grey = np.array([[True, False], [False, True]])
    assert np.asarray(decode_image(grey))[..., 0].tolist() == [[255, 0], [0, 255]]
    white_or_grey = np.array([[[0, 255], [0, 0]]], dtype=np.uint8)  # black, and transparent
    assert np.asarray(decode_image(white_or_grey))[..., 0].tolist() == [[0, 255]]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (12, "it is a int, not a picture"),
        ("a.jpg", "it is a str, not a picture"),
        (None, "NoneType"),
        (io.StringIO("a"), "mode 'rb'"),
        (np.zeros((3, 8, 8), dtype=np.uint8), r"shape \[3, 8, 8\]"),
        (np.zeros((8, 8, 3), dtype=np.float32), "float32"),
        (np.full((8, 8), 300), "0 to 255"),
        (Path("/no/such.jpg"), "No such file"),
        (Image.fromarray(np.full((4, 4), np.nan, dtype=np.float32)), "finite"),
    ],
)
def test_what_is_no_picture_is_named(given: Any, words: str) -> None:
    for read in (decode_image, lambda one: decode_pixels(one, P)):
        with pytest.raises(BadImage, match=words):
            read(given)
    tower = VisionTower(lambda x: x, P, "digest", 2)
    with pytest.raises(BadImage, match=f"picture 1: .*{words}"):
        tower.encode([Image.new("RGB", (2, 2)), given])


def test_a_pil_image_is_limited_too() -> None:
    with pytest.raises(BadImage, match="20 x 10 pixels by its header, the limit is 100"):
        decode_image(Image.new("RGB", (20, 10)), max_pixels=100)


def heic(size: tuple[int, int] = (64, 48)) -> bytes:
    images.known_formats()
    buffer = io.BytesIO()
    drawn("RGB").resize(size).save(buffer, "HEIF", quality=90)
    return buffer.getvalue()


def test_heic() -> None:
    data = heic()
    assert data[4:12] == b"ftypheic"
    decoded = np.asarray(decode_image(data)).astype(int)
    original = np.asarray(drawn("RGB").resize((64, 48)))
    assert np.abs(decoded - original).mean() < 8
    with pytest.raises(BadImage, match="64 x 48 pixels by its header, the limit is 3000"):
        decode_image(data, max_pixels=3000)
    with pytest.raises(BadImage, match="truncated or damaged|its header is damaged"):
        decode_image(data[: len(data) // 2])


def test_heic_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(images, "known_formats", images.known_formats.__wrapped__)
    with pytest.raises(BadImage, match=r"pip install 'cliptune\[heic\]'"):
        decode_image(data)
    assert "HEIF" not in images.known_formats()
    decode_image(sent(np.zeros((4, 4, 3), dtype=np.uint8)))


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1), (2, 30_000), (1, 60_000)])
def test_a_picture_of_any_form_is_one(size: tuple[int, int], mode: str) -> None:
    p = ImagePreprocessing((224, 224), P.mean, P.std, resize_mode=mode)
    pixels = decode_pixels(sent(Image.new("RGB", size, (200, 40, 90))), p)
    assert pixels.shape == (224, 224, 3)
    shown = pixels[111, 111] if mode == "longest" else pixels.reshape(-1, 3)
    assert np.abs(shown.astype(int) - (200, 40, 90)).max() <= 1


@pytest.mark.parametrize("is_high", [True, False])
def test_the_middle_of_a_hair_is_what_it_would_be_if_all_of_it_were_resized(is_high: bool) -> None:
    """Against Pillow's resizing of the whole; short enough for that, too long for ours."""
    length, side = 4000, 64
    wave = (np.sin(np.arange(length) / 40) * 120 + 128).astype(np.uint8)
    pixels = np.broadcast_to(wave[:, None, None], (length, 1, 3))
    whole = Image.fromarray(np.ascontiguousarray(pixels))
    assert side * side * length > MAX_RESIZED_PIXELS
    full = np.asarray(whole.resize((side, side * length), Image.Resampling.BICUBIC))
    middle = (side * length - side) // 2
    expected = full[middle : middle + side]
    given = whole if is_high else whole.transpose(Image.Transpose.TRANSPOSE)
    found = decode_pixels(given, ImagePreprocessing((side, side), P.mean, P.std))
    found = found if is_high else found.transpose(1, 0, 2)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_pixels_are_limited_before_they_are_copied() -> None:
    with pytest.raises(BadImage, match="10 x 10 pixels, expected 1 to 50"):
        image_of_pixels(np.zeros((10, 10), dtype=np.uint8), max_pixels=50)
