"""`top_k` against sorting the whole score matrix."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cliptune.errors import BadInput
from cliptune.evaluation.topk import top_k


def brute_force(
    queries: np.ndarray, index: np.ndarray, k: int, exclude: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """All cosines in float64, rounded to float32, sorted stably: ties stay in index order."""
    q = queries.astype(np.float64)
    x = index.astype(np.float64)
    scores = (q / np.linalg.norm(q, axis=1)[:, None]) @ (x / np.linalg.norm(x, axis=1)[:, None]).T
    scores = np.round(scores, 9).astype(np.float32)
    for row in range(len(q)):
        for position in [] if exclude is None else np.atleast_1d(exclude[row]):
            if position >= 0:
                scores[row, position] = -np.inf
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, ids, axis=1)
    return np.where(np.isinf(best), -1, ids), best


def embeddings(rng: np.random.Generator, n: int, d: int = 8) -> np.ndarray:
    return rng.normal(size=(n, d)).astype(np.float32)


def check(queries: np.ndarray, index: np.ndarray, k: int, **options: object) -> None:
    ids, scores = top_k(queries, index, k, **options)
    expected_ids, expected_scores = brute_force(queries, index, k, options.get("exclude"))
    assert ids.dtype == np.int64
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(scores, expected_scores, atol=2e-7)


@pytest.mark.parametrize("chunk", [1, 3, 64, 16384])
@pytest.mark.parametrize("query_chunk", [1, 3, 512])
@pytest.mark.parametrize("k", [1, 5, 200])
def test_equals_sorting_everything(chunk: int, query_chunk: int, k: int) -> None:
    rng = np.random.default_rng(k)
    check(embeddings(rng, 7), embeddings(rng, 200), k, chunk=chunk, query_chunk=query_chunk)


@pytest.mark.parametrize("n", [2_999, 3_000, 3_001, 5_000])
def test_equals_sorting_everything_where_groups_of_columns_are_used(n: int) -> None:
    rng = np.random.default_rng(n)
    queries, index = embeddings(rng, 20), embeddings(rng, n)
    for k, chunk in ((1, 8192), (3, 8192), (20, 8192), (20, 1000), (100, 1024)):
        check(queries, index, k, chunk=chunk)


@settings(max_examples=60, deadline=None)
@example(seed=0, n=42, q=1, k=1, chunk=7, values=2)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 400),
    q=st.integers(0, 5),
    k=st.integers(1, 30),
    chunk=st.sampled_from([1, 2, 7, 100, 500]),
    values=st.sampled_from([2, 3, 100]),
)
def test_ties_are_in_index_order(
    seed: int, n: int, q: int, k: int, chunk: int, values: int
) -> None:
    """Few different directions, each many times, so that ties straddle the k-th place."""
    rng = np.random.default_rng(seed)
    directions = embeddings(rng, values, 4)
    index = directions[rng.integers(0, values, n)]
    queries = directions[rng.integers(0, values, q)]
    # Scaled by powers of two, the directions stay bit for bit the same.
    scaled = index * 2.0 ** rng.integers(-3, 4, (n, 1)).astype(np.float32)
    check(queries, scaled, k, chunk=chunk)


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_many_copies_are_in_index_order_where_a_matrix_product_rounds(precision: str) -> None:
    """Far more copies than spare candidates, in so many dimensions that sums round by place."""
    rng = np.random.default_rng(0)
    directions = embeddings(rng, 4, 259)
    index = directions[rng.integers(0, 4, 3_001)]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        for chunk in (100, 1001, 16384):
            check(directions, index, 20, chunk=chunk)
            check(directions + 0.1, index, 20, chunk=chunk, exclude=np.array([0, 1, 2, -1]))
    finally:
        torch.set_float32_matmul_precision(before)


def test_all_equal_gives_the_first_positions_whatever_the_chunks() -> None:
    index = np.tile(np.random.default_rng(0).normal(size=48).astype(np.float32), (4_000, 1))
    for chunk in (17, 1000, 8192):
        ids, scores = top_k(index[:2], index, 20, chunk=chunk)
        np.testing.assert_array_equal(ids, np.tile(np.arange(20), (2, 1)))
        np.testing.assert_allclose(scores, 1.0, atol=1e-6)
        assert scores.max() <= 1.0


def test_more_wanted_than_there_are() -> None:
    rng = np.random.default_rng(1)
    ids, scores = top_k(embeddings(rng, 2), embeddings(rng, 3), 20)
    assert ids.shape == scores.shape == (2, 3)
    assert sorted(ids[0]) == [0, 1, 2]
    assert top_k(embeddings(rng, 2), embeddings(rng, 0), 20)[0].shape == (2, 0)


def test_the_length_of_an_embedding_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    queries, index = embeddings(rng, 5), embeddings(rng, 500)
    lengths = np.exp(rng.normal(size=(500, 1)) * 5).astype(np.float32)
    np.testing.assert_array_equal(
        top_k(queries * 100, index * lengths, 9)[0], top_k(queries, index, 9)[0]
    )


@pytest.mark.parametrize("chunk", [1, 7, 8192])
def test_excluded_positions_are_not_retrieved(chunk: int) -> None:
    rng = np.random.default_rng(3)
    index = embeddings(rng, 50)
    queries = index[:10]
    own = np.arange(10)
    assert (top_k(queries, index, 3, chunk=chunk)[0][:, 0] == own).all()
    check(queries, index, 3, chunk=chunk, exclude=own)
    several = np.stack([own, np.where(own % 2, own + 20, -1)], axis=1)
    check(queries, index, 3, chunk=chunk, exclude=several)
    ids, scores = top_k(queries, index, 50, chunk=chunk, exclude=several)
    for row, answers in enumerate(ids):
        left = (several[row] >= 0).sum()
        assert (answers[-left:] == -1).all()
        assert np.isneginf(scores[row, -left:]).all()
        assert set(answers[:-left]) == set(range(50)) - set(several[row])


def test_torch_half_precision_and_read_only_maps(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    queries, index = embeddings(rng, 6), embeddings(rng, 300)
    ids, scores = top_k(queries, index, 5)
    got = top_k(torch.from_numpy(queries), torch.from_numpy(index), 5)
    np.testing.assert_array_equal(got[0], ids)
    np.testing.assert_array_equal(got[1], scores)
    np.save(tmp_path / "index.npy", index)
    mapped = np.load(tmp_path / "index.npy", mmap_mode="r")
    np.testing.assert_array_equal(top_k(queries, mapped, 5, chunk=64)[0], ids)
    half = index.astype(np.float16)
    np.testing.assert_array_equal(
        top_k(queries, half, 5)[0], top_k(queries, half.astype(np.float32), 5)[0]
    )


@pytest.mark.gpu
def test_a_gpu_gives_the_same_answer(gpu: torch.device) -> None:
    rng = np.random.default_rng(5)
    queries, index = embeddings(rng, 50, 64), embeddings(rng, 20_000, 64)
    index[::7] = index[3]
    expected = top_k(queries, index, 20)
    got = top_k(torch.from_numpy(queries).to(gpu), torch.from_numpy(index).to(gpu), 20)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_allclose(got[1], expected[1], atol=2e-7)


def _with(row: int, value: float, n: int = 6) -> np.ndarray:
    values = embeddings(np.random.default_rng(0), n, 4)
    values[row] = value
    return values


good = embeddings(np.random.default_rng(0), 5, 4)


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((_with(3, np.nan), good, 2), {}, "1 of 6 query embeddings hold NaN.*position 3"),
        ((good, _with(4, np.inf), 2), {}, "index embeddings hold NaN or infinite.*position 4"),
        ((good, _with(5, 0.0), 2), {"chunk": 2}, "length 0.*position 5"),
        ((good, good[:, :3], 2), {}, "4 dimensions, index embeddings 3"),
        ((good[0], good, 2), {}, r"the shape is \(4,\)"),
        ((good, good, 0), {}, "k is 0"),
        ((good, good, 2), {"chunk": 0}, "chunk is 0"),
        ((good, good, 2), {"distance": "euclidean"}, "distance is 'euclidean', allowed: 'cosine'"),
        ((good, good, 2), {"exclude": [5, 0, 0, 0, 0]}, "from 0 to 5, the index has 0 to 4"),
        ((good, good, 2), {"exclude": [0]}, "exclude must be integers"),
    ],
)
def test_bad_input_is_named(args: tuple, options: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        top_k(*args, **options)


MEMORY = """
import resource
import numpy as np
import torch
from cliptune.evaluation.topk import top_k
torch.set_num_threads(1)
rng = np.random.default_rng(0)
queries = rng.normal(size=(2_000, 16)).astype(np.float32)
index = rng.normal(size=(100_000, 16)).astype(np.float32)
top_k(queries[:10], index[:100], 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ids, scores = top_k(queries, index, 20)
assert ids.shape == (2_000, 20)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
@pytest.mark.e2e
def test_memory_is_bounded_by_the_chunks() -> None:
    """The whole score matrix would have 800 MB."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, timeout=120
    )
    assert float(done.stdout) < 200
