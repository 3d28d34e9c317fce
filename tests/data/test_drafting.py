"""Large JPEGs decoded at a fraction of their size: the same picture, in training and in serving."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from docarray import DocList
from PIL import Image

from cliptune.data.pictures import images
from cliptune.data.pictures.images import decode_image, decode_pixels
from cliptune.data.pictures.pixels import decode_documents
from cliptune.data.pictures.preprocessing import ImagePreprocessing, normalise, to_pixels
from cliptune.documents import ClipDoc
from cliptune.errors import BadImage
from cliptune.inference import get_tower
from cliptune.inference.towers import VisionTower
from cliptune.models.loading import load_model

HALF = (0.5,) * 3
SMALL = ImagePreprocessing((32, 32), HALF, HALF)
MODES = [
    SMALL,
    ImagePreprocessing((32, 32), HALF, HALF, resize_mode="longest", fill_color=255),
    ImagePreprocessing((24, 40), HALF, HALF, resize_mode="squash"),
    ImagePreprocessing((24, 40), HALF, HALF, "bilinear", "shortest"),
]


def photograph(width: int, height: int, kind: str = "JPEG", orientation: int = 1) -> bytes:
    """A smooth picture whose corners all differ, at full quality."""
    coarse = np.random.default_rng(3).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=95, exif=exif)
    return buffer.getvalue()


def difference(data: bytes, p: ImagePreprocessing) -> int:
    """The largest one, in levels, between drafted and full decoding."""
    full = to_pixels(decode_image(data), p).astype(int)
    return int(np.abs(decode_pixels(data, p) - full).max())


@pytest.mark.parametrize("p", MODES, ids=["shortest", "longest", "squash", "not-square"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_drafted_picture_lies_where_the_whole_one_does(
    p: ImagePreprocessing, orientation: int
) -> None:
    """Sizes that 8 does not divide, whose last pixels are partly outside, however it is turned."""
    for width, height in ((713, 1033), (1031, 657), (649, 1285)):
        assert difference(photograph(width, height, orientation=orientation), p) <= 2


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        ((64, 640), (64, 640)),
        ((127, 300), (127, 300)),  # half would be less than twice the input's 32
        ((128, 300), (64, 150)),
        ((257, 300), (65, 75)),
        ((4000, 3000), (500, 375)),
    ],
)
def test_twice_the_input_is_decoded_at_least(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], decoded: tuple[int, int]
) -> None:
    seen = []

    def spy(image: Image.Image, *others: object) -> None:
        seen.append(image.size)

    monkeypatch.setattr(images, "to_pixels", spy)
    decode_pixels(photograph(*size), SMALL)
    decode_pixels(photograph(*size, kind="WEBP"), SMALL)
    assert seen == [decoded, size]


def test_pictures_of_two_lenses_and_without_colour_are_drafted_too() -> None:
    picture = Image.open(io.BytesIO(photograph(700, 500)))
    for image, kind, options in (
        (picture, "MPO", {"save_all": True, "append_images": [Image.new("RGB", (700, 500))]}),
        (picture.convert("L"), "JPEG", {"quality": 95}),
        (picture.convert("CMYK"), "JPEG", {"quality": 95, "progressive": True}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        assert difference(buffer.getvalue(), SMALL) <= 2


def test_a_truncated_large_jpeg_is_refused() -> None:
    with pytest.raises(BadImage, match="truncated or damaged"):
        decode_pixels(photograph(1000, 1000)[:-3000], SMALL)


def test_real_pictures_keep_their_embeddings(shared_dir: Path) -> None:
    """The cosine that drafting costs the built-in model, at 1/2 of photographs of 400 pixels."""
    model = load_model("builtin")
    tower = get_tower(model, "clip-vision")
    files = sorted((shared_dir / "clothing").rglob("*.jpg"))[::12]
    assert len(files) > 50
    data = [file.read_bytes() for file in files]
    drafted = tower.encode(data)
    full = tower.encode([decode_image(picture) for picture in data])
    cosines = (drafted * full).sum(axis=1)
    assert cosines.min() > 0.9995
    assert not np.array_equal(drafted, full), "some are drafted"


def test_training_and_serving_see_the_same_pixels() -> None:
    seen = []

    def forward(pixels: np.ndarray) -> np.ndarray:
        seen.append(pixels)
        return np.ones((len(pixels), 2), dtype=np.float32)

    data = [photograph(300 + 31 * i, 500, orientation=1 + i % 8) for i in range(8)]
    VisionTower(forward, SMALL, "digest", 2).encode(data)
    trained = decode_documents(DocList[ClipDoc]([ClipDoc(image=d) for d in data]), SMALL).pixels
    np.testing.assert_array_equal(seen[0], normalise(trained, SMALL))
