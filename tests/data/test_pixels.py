"""The decode-once store: right pixels, problems named, reused only when it fits."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from docarray import DocList
from PIL import Image

from cliptune.data.pictures.images import decode_image
from cliptune.data.pictures.pixels import decode_documents
from cliptune.data.pictures.preprocessing import ImagePreprocessing, to_pixels
from cliptune.documents import ClipDoc
from cliptune.errors import BadData

P = ImagePreprocessing((16, 16), (0.5,) * 3, (0.5,) * 3)


def documents(count: int) -> DocList[ClipDoc]:
    random = np.random.default_rng(0)
    docs = DocList[ClipDoc]()
    for number in range(count):
        buffer = io.BytesIO()
        pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        docs.append(ClipDoc(id=str(number), text=f"t{number}", image=buffer.getvalue()))
    return docs


def expected(doc: ClipDoc, p: ImagePreprocessing = P) -> np.ndarray:
    assert doc.image is not None
    return to_pixels(decode_image(doc.image), p)


@pytest.mark.parametrize("cached", [False, True])
def test_pixels_in_order_with_duplicates_and_problems(tmp_path: Path, cached: bool) -> None:
    docs = documents(40)
    docs[5].image = docs[2].image
    docs[7].image = b"broken"
    docs[9].image, docs[9].uri = None, "https://example.org/a.jpg"
    steps: list[tuple[int, int]] = []
    for _ in range(2):
        found = decode_documents(
            docs,
            P,
            cache_dir=tmp_path if cached else None,
            on_progress=lambda done, total: steps.append((done, total)),
        )
        assert found.index == [i for i in range(40) if i not in (7, 9)]
        for row, position in enumerate(found.index):
            np.testing.assert_array_equal(found.pixels[row], expected(docs[position]))
        assert [(p.position, p.id) for p in found.problems] == [(7, "7"), (9, "9")]
        assert "not a picture" in found.problems[0].reason
        assert "never fetched" in found.problems[1].reason
    assert steps.count((38, 38)) == (1 if cached else 2), "the second time comes from the store"


def test_a_store_is_used_for_the_same_pictures_and_preprocessing_only(tmp_path: Path) -> None:
    docs = documents(12)
    decode_documents(docs, P, cache_dir=tmp_path)
    other = ImagePreprocessing((16, 16), (0.5,) * 3, (0.5,) * 3, resize_mode="squash")
    found = decode_documents(docs, other, cache_dir=tmp_path)
    np.testing.assert_array_equal(found.pixels[3], expected(docs[3], other))
    docs[3].image = docs[4].image
    found = decode_documents(docs, P, cache_dir=tmp_path)
    np.testing.assert_array_equal(found.pixels[3], expected(docs[4]))


@pytest.mark.parametrize("damage", ["truncate", "manifest", "remove"])
def test_a_damaged_store_is_made_again(tmp_path: Path, damage: str) -> None:
    docs = documents(12)
    decode_documents(docs, P, cache_dir=tmp_path)
    [store] = filter(Path.is_dir, tmp_path.iterdir())
    if damage == "truncate":
        data = (store / "pixels.u8").read_bytes()
        (store / "pixels.u8").write_bytes(data[:-1])
    elif damage == "manifest":
        (store / "manifest.json").write_text("{")
    else:
        (store / "pixels.u8").unlink()
    found = decode_documents(docs, P, cache_dir=tmp_path)
    np.testing.assert_array_equal(found.pixels[11], expected(docs[11]))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {store.name, f"{store.name}.lock"}, "nothing is left beside it"


def test_too_many_unreadable_pictures_stop_it(tmp_path: Path) -> None:
    docs = documents(20)
    for position in (3, 8):
        docs[position].image = b""
    assert len(decode_documents(docs, P).problems) == 2
    docs[11].image = b"x"
    with pytest.raises(BadData, match=r"3 of 20 pictures are unreadable.*document 3 \(id 3\)"):
        decode_documents(docs, P, cache_dir=tmp_path)
    with pytest.raises(BadData, match="no documents"):
        decode_documents(DocList[ClipDoc](), P)
