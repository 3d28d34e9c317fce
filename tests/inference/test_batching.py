"""Batches across requests: every request gets its own rows, batches fill."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cliptune.errors import BadInput, Overloaded, Unavailable
from cliptune.inference import get_tower
from cliptune.inference.batching import BatchingForward, share_batches
from cliptune.inference.cache import EmbeddingCache


class Engine:
    """Squares its rows; can be held up; refuses negative ones."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.entered = threading.Event()
        self.free = threading.Event()
        self.free.set()

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        self.entered.set()
        self.free.wait(10)
        self.sizes.append(len(rows))
        if (rows < 0).any():
            raise ValueError("negative")
        return (rows.astype(np.float32)) ** 2


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def shared(engine: Engine) -> Iterator[BatchingForward]:
    forward = BatchingForward(engine, batch_size=8, max_wait=0.05)
    yield forward
    engine.free.set()
    forward.close()


def rows(*values: int) -> np.ndarray:
    return np.array(values)[:, None]


def until_pending(shared: BatchingForward, count: int) -> None:
    deadline = time.monotonic() + 10
    while shared.pending != count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_each_request_gets_its_own_rows(shared: BatchingForward) -> None:
    def ask(i: int) -> None:
        asked = rows(*range(i, i + 1 + i % 3))
        np.testing.assert_array_equal(shared(asked), asked.astype(np.float32) ** 2)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(200)))


def test_what_waits_goes_together(engine: Engine, shared: BatchingForward) -> None:
    engine.free.clear()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(shared, rows(0))
        assert engine.entered.wait(10)
        others = [pool.submit(shared, rows(i, i)) for i in range(1, 6)]
        until_pending(shared, 10)
        engine.free.set()
        for i, answer in enumerate([first, *others]):
            assert (answer.result(10) == i * i).all()
    assert engine.sizes[0] == 1
    assert engine.sizes[1] == 8, "four requests of two rows fill a batch of eight"
    assert sum(engine.sizes) == 11


def test_a_lone_request_does_not_wait(engine: Engine) -> None:
    """With an endless wait for others, it would never be answered."""
    patient = BatchingForward(engine, batch_size=8, max_wait=1e6)
    for i in range(3):
        np.testing.assert_array_equal(patient(rows(i)), [[i * i]])
    patient.close()


def test_a_request_larger_than_a_batch_is_one_of_its_own(
    engine: Engine, shared: BatchingForward
) -> None:
    assert len(shared(rows(*range(50)))) == 50
    assert engine.sizes == [50]


def test_an_error_of_the_engine_reaches_its_callers_only(shared: BatchingForward) -> None:
    with pytest.raises(ValueError, match="negative"):
        shared(rows(-1))
    np.testing.assert_array_equal(shared(rows(3)), [[9]])


def test_closing_answers_what_waits_and_refuses_the_rest(engine: Engine) -> None:
    forward = BatchingForward(engine, max_wait=1e6)
    engine.free.clear()
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(forward, rows(0))]
        assert engine.entered.wait(10)
        answers.append(pool.submit(forward, rows(1)))
        until_pending(forward, 1)
        closing = pool.submit(forward.close)
        engine.free.set()
        assert [answer.result(10).item() for answer in answers] == [0, 1]
        closing.result(10)
    with pytest.raises(Unavailable, match="ending"):
        forward(rows(1))


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"max_wait": -1}])
def test_wrong_settings_are_named(engine: Engine, wrong: dict) -> None:
    [(name, value)] = wrong.items()
    with pytest.raises(BadInput, match=f"{name} is {value}"):
        BatchingForward(engine, **wrong)


def test_texts_of_many_threads_are_embedded_as_alone(tiny_model: str) -> None:
    """Texts of different lengths share a batch, which is cut to the longest of them all."""
    texts = [f"{'very ' * (i % 7)}red boots {i % 40}" for i in range(120)]
    expected = get_tower(tiny_model, "clip-text").encode(texts)
    tower = get_tower(tiny_model, "clip-text", batch_size=16)
    shared = share_batches(tower)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: tower.encode([text])[0], texts))
    shared.close()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_pictures_of_many_threads_are_embedded_as_alone(tiny_model: str) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (24, 40, 40, 3), dtype=np.uint8)
    expected = get_tower(tiny_model, "clip-vision").encode(list(pictures))
    tower = get_tower(tiny_model, "clip-vision", batch_size=16)
    shared = share_batches(tower)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda picture: tower.encode([picture])[0], pictures))
    shared.close()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_cache_gives_back_what_the_tower_gave(tiny_model: str) -> None:
    tower = get_tower(tiny_model, "clip-text")
    expected = tower.encode(["red boots", "blue hat", "red boots"])
    tower.cache = EmbeddingCache(2)
    calls = []
    run = tower.run
    tower.run = lambda tokens: calls.append(len(tokens)) or run(tokens)
    asked = (["red boots"], ["red boots", "blue hat"], ["blue hat", "red boots"])
    found = [tower.encode(texts) for texts in asked]
    assert calls == [1, 1], "only what is new goes through the tower"
    np.testing.assert_allclose(found[2], expected[1:], atol=1e-5)
    assert (tower.cache.hits, tower.cache.misses) == (3, 2)
    tower.encode(["a third"])
    tower.encode(["blue hat"])
    assert calls[-1] == 1, "the one used least lately went"
    tower.encode(["long " * 500])
    assert not tower.cache.get(["long " * 500])


def test_what_is_beyond_the_queue_is_refused_at_once(engine: Engine) -> None:
    shared = BatchingForward(engine, batch_size=4, max_pending=6)
    engine.free.clear()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(shared, np.ones((2, 1)))
        engine.entered.wait()
        alone = pool.submit(shared, np.full((9, 1), 2))  # more than the limit, but nothing waits
        while shared.pending < 9:
            time.sleep(0.001)
        with pytest.raises(Overloaded, match="9 inputs"):
            shared(np.ones((1, 1)))
        engine.free.set()
        assert len(first.result()) == 2
        assert (alone.result() == 4).all()
    assert (shared(np.full((1, 1), 3)) == 9).all()
    shared.close()
    with pytest.raises(BadInput, match="max_pending"):
        BatchingForward(engine, max_pending=0)
