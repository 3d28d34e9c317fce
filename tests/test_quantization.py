"""Embeddings as integers and as signs, and what is found by them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cliptune
from cliptune.errors import BadInput
from cliptune.evaluation.shortening import CANDIDATES, bytes_of, top_k_by_signs
from cliptune.quantization import dequantize_embeddings, quantize_embeddings


def unit(seed: int, *shape: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x.astype(np.float64) for x in (a, b))
    return (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)


def test_integers_keep_cosines() -> None:
    a, b = unit(1, 20, 512), unit(2, 30, 512)
    stored = cliptune.quantize_embeddings(b, "int8")
    assert (stored.dtype, stored.shape, stored.min() >= -127) == (np.int8, b.shape, True)
    assert (np.abs(stored.astype(int)).max(1) == 127).all()
    np.testing.assert_allclose(cosines(a, stored), cosines(a, b), atol=2e-3)
    assert quantize_embeddings(np.zeros((1, 8), np.float32), "int8").tolist() == [[0] * 8]


@given(st.integers(1, 40), st.integers(0, 100))
def test_signs_are_bits(dimensions: int, seed: int) -> None:
    rows = unit(seed, 3, dimensions)
    rows[0] = 0
    stored = quantize_embeddings(rows, "ubinary")
    assert (stored.dtype, stored.shape) == (np.uint8, (3, -(-dimensions // 8)))
    for row, told in zip(rows, stored, strict=True):
        bits = "".join("1" if number > 0 else "0" for number in row)
        padded = bits.ljust(8 * len(told), "0")
        assert [int(padded[i : i + 8], 2) for i in range(0, len(padded), 8)] == told.tolist()
    np.testing.assert_array_equal(
        dequantize_embeddings(stored, dimensions), np.where(rows > 0, 1, -1)
    )
    assert bytes_of(dimensions, "ubinary") == stored.shape[1]


def test_floats_stay() -> None:
    rows = unit(3, 4, 16)
    assert quantize_embeddings(rows, "float32").tobytes() == rows.tobytes()
    assert dequantize_embeddings(rows, 16).tobytes() == rows.tobytes()


@pytest.mark.parametrize("wrong", ["binary", "float16", "INT8", ""])
def test_another_type(wrong: str) -> None:
    known = "use one of 'float32', 'int8', 'ubinary'"
    with pytest.raises(BadInput, match=f"output_dtype is '{wrong}': {known}"):
        quantize_embeddings(unit(1, 1, 8), wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["float32", "int8", "ubinary"])
def test_what_is_no_number(wrong: float, kind: cliptune.quantization.OutputDtype) -> None:
    rows = unit(1, 2, 8)
    rows[1, 3] = wrong
    with pytest.raises(BadInput, match="NaN or infinite"):
        quantize_embeddings(rows, kind)


def test_candidates_by_hamming_distance_in_the_order_of_cosines() -> None:
    k, queries, index = 3, unit(4, 70, 24), unit(5, 200, 24)
    exclude = np.arange(70)
    ids, scores = top_k_by_signs(queries, index, k, exclude=exclude)
    words = [int("".join("01"[int(x > 0)] for x in row), 2) for row in index]
    for number, query in enumerate(queries):
        asked = int("".join("01"[int(x > 0)] for x in query), 2)
        distances = [(asked ^ word).bit_count() for word in words]
        others = [i for i in range(200) if i != number]
        near = sorted(others, key=lambda i: (distances[i], i))[: CANDIDATES * k]
        cosine = {
            i: cosines(query[None], np.where(index[i : i + 1] > 0, 1, -1)).item() for i in near
        }
        expected = sorted(near, key=lambda i: -cosine[i])[:k]
        np.testing.assert_allclose(scores[number], [cosine[i] for i in expected], atol=1e-5)
        assert set(ids[number]) == set(expected)
    few, _ = top_k_by_signs(queries[:1], index[:2], 5, exclude=[0])
    assert few.tolist() == [[1, -1]]
