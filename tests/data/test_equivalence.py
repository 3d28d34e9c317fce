"""What is the same, against a transitive closure by brute force."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from docarray import DocList
from PIL import Image

from cliptune.data.equivalence import KeyedDocs, same_labels, word_keys
from cliptune.documents import ClipDoc
from cliptune.models.openclip import open_clip
from cliptune.models.tokenizers import token_keys

KEYS = token_keys(open_clip.get_tokenizer("ViT-B-32"), 77)


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (number, 100, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def table(*docs: ClipDoc) -> KeyedDocs:
    return KeyedDocs.of(DocList[ClipDoc](docs), KEYS)


def partition(labels: list[str | None]) -> np.ndarray:
    values = np.array(labels, dtype=object)
    return values[:, None] == values[None, :]


@pytest.mark.parametrize("seed", range(20))
def test_against_a_transitive_closure(seed: int) -> None:
    """Three tables without labels; some documents have no text, or no picture."""
    random = np.random.default_rng(seed)
    words = [f"word{i}" for i in range(14)]
    pictures = [picture(i) for i in range(14)]
    docs = []
    for _ in range(24):
        text = random.choice(words) if random.random() < 0.8 else None
        image = pictures[random.integers(14)] if text is None or random.random() < 0.7 else None
        spelt = {0: str.upper, 1: lambda t: f"  {t} ", 2: str}[int(random.integers(3))]
        docs.append(ClipDoc(text=text and spelt(str(text)), image=image))
    near = np.eye(len(docs), dtype=int)
    for i, one in enumerate(docs):
        for j, other in enumerate(docs):
            same_text = one.text and other.text
            if same_text and str(one.text).strip().lower() == str(other.text).strip().lower():
                near[i, j] = 1
            if one.image is not None and one.image == other.image:
                near[i, j] = 1
    closure = np.linalg.matrix_power(near.astype(float), len(docs)) > 0
    parts = same_labels(table(*docs[:8]), table(*docs[8:15]), table(*docs[15:]))
    np.testing.assert_array_equal(partition([label for part in parts for label in part]), closure)


def test_texts_are_the_same_by_the_tokens_that_the_model_reads() -> None:
    long = "a red dress with " + " and ".join(f"pearl{i}" for i in range(60))
    texts = [
        "Red Summer Dress", "red summer dress", "red  summer\tdress", "Red summer dress &amp; more",
        "red summer dress & more", f"{long} to wear", f"{long} to sell", "red summer dresses",
    ]  # fmt: skip
    [labels] = same_labels(table(*(ClipDoc(text=text) for text in texts)))
    assert labels == [texts[0]] * 3 + [texts[3]] * 2 + [texts[5]] * 2 + [texts[7]]


def test_a_picture_is_the_same_under_any_name(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.png", "b.PNG", "c.png")]
    for file, number in zip(files, (1, 1, 2), strict=True):
        file.write_bytes(picture(number))
    docs = [ClipDoc(uri=str(file)) for file in files]
    docs += [ClipDoc(image=picture(2)), ClipDoc(text="no picture"), ClipDoc(uri="gone.png")]
    [labels] = same_labels(table(*docs))
    assert labels[0] == labels[1] != labels[2] == labels[3] != labels[4]
    assert labels[5] is None, "there is nothing to go by"
    assert len(set(labels)) == 4


def test_labels_of_their_own_stay_and_name_what_is_the_same() -> None:
    products = table(
        ClipDoc(text="red dress", image=picture(1), label="sku 1"),
        ClipDoc(text="red dress", image=picture(2), label="sku 2"),
        ClipDoc(text="boots", image=picture(3), label="sku 3"),
        ClipDoc(text="hat", image=picture(4), label=" "),  # none
    )
    others = table(
        ClipDoc(text="Red  dress"),
        ClipDoc(image=picture(2)),
        ClipDoc(text="Boots"),
        ClipDoc(text="a sun hat", image=picture(4)),
        ClipDoc(text="sku 3"),
        ClipDoc(text="scarf"),
    )
    named, found = same_labels(products, others)
    assert named == ["sku 1", "sku 2", "sku 3", "hat"]
    assert found == ["sku 1", "sku 2", "sku 3", "hat", "sku 3", "scarf"]
    found, named = same_labels(others, products)
    assert named[:3] == ["sku 1", "sku 2", "sku 3"]
    assert found[3] == named[3] == "a sun hat"


def test_a_text_that_is_a_label_belongs_to_it() -> None:
    """As pictures labelled by their title, whose queries have titles alone."""
    queries = table(ClipDoc(text="red dress"), ClipDoc(text="boots", image=picture(1)))
    index = table(
        ClipDoc(image=picture(7), label="red dress"),
        ClipDoc(image=picture(1), label="other"),
        ClipDoc(image=picture(8), label="boots"),
    )
    assert same_labels(queries, index)[0] == ["red dress", "boots"]


def test_without_a_tokenizer_words_count() -> None:
    docs = DocList[ClipDoc]([ClipDoc(text="Große  Tasse"), ClipDoc(text="grosse tasse")])
    [labels] = same_labels(KeyedDocs.of(docs, word_keys))
    assert labels == ["Große  Tasse"] * 2


def test_documents_are_copied_with_their_labels() -> None:
    given = table(ClipDoc(text="a"), ClipDoc(text="b", label="b"))
    labelled = given.labelled(["x", "b"])
    assert [doc.label for doc in labelled] == ["x", "b"]
    assert given.docs[0].label is None
    assert labelled[1] is given.docs[1]


def test_long_chains_and_many_rows() -> None:
    """24,000 rows, each tied to the one before by a picture and to the next by a text."""
    count = 24_000
    docs = DocList[ClipDoc](
        [ClipDoc(text=f"title {i}", image_digest=f"{(i + 1) // 2}") for i in range(count)]
    )
    texts = [str(i // 2).encode() for i in range(count)]
    chain = KeyedDocs(docs, texts, [doc.image_digest for doc in docs])
    [labels] = same_labels(chain)
    assert set(labels) == {"title 0"}
