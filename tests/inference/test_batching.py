"""Batches across requests: every request gets its own rows, batches fill."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cliptune.errors import BadInput, Overloaded, Unavailable
from cliptune.inference import get_tower
from cliptune.inference.batching import BatchingForward, share_batches
from cliptune.inference.cache import EmbeddingCache
from cliptune.inference.towers import length_groups
from tests.waiting import wait_until


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
    wait_until(lambda: shared.pending == count)


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


def test_a_second_thread_begins_with_a_full_batch_only(engine: Engine) -> None:
    shared = BatchingForward(engine, batch_size=4, max_wait=0, threads=2)
    engine.free.clear()
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(shared, rows(0))]
        assert engine.entered.wait(10)
        engine.entered.clear()
        answers += [pool.submit(shared, rows(i)) for i in (1, 2, 3)]
        until_pending(shared, 3)
        assert not engine.entered.wait(0.1), "three rows wait for the batch before them"
        answers.append(pool.submit(shared, rows(4)))
        assert engine.entered.wait(10), "four are a batch, and go in beside it"
        until_pending(shared, 0)
        engine.free.set()
        assert [answer.result(10).item() for answer in answers] == [0, 1, 4, 9, 16]
    assert sorted(engine.sizes) == [1, 4]
    shared.close()


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


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"max_wait": -1}, {"threads": 0}])
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
        until_pending(shared, 9)
        with pytest.raises(Overloaded, match="9 inputs"):
            shared(np.ones((1, 1)))
        engine.free.set()
        assert len(first.result()) == 2
        assert (alone.result() == 4).all()
    assert (shared(np.full((1, 1), 3)) == 9).all()
    shared.close()
    with pytest.raises(BadInput, match="max_pending"):
        BatchingForward(engine, max_pending=0)


def test_what_a_tower_does_is_told(tiny_model: str) -> None:
    told: list[tuple[str, float]] = []
    tower = get_tower(tiny_model, "clip-text", batch_size=16)
    tower.observe = lambda figure, value: told.append((figure, value))
    tower.cache = EmbeddingCache(10)
    shared = share_batches(tower)
    tower.encode(["red boots", "blue hat", "long " * 100])
    tower.encode(["red boots", "red boots"])
    shared.close()
    sums = {name: sum(v for n, v in told if n == name) for name, _ in told}
    assert (sums["cache_misses"], sums["cache_hits"]) == (3, 1)
    assert (sums["batch_rows"], sums["truncated_texts"]) == (3, 1)
    counts = {name: sum(n == name for n, _ in told) for name, _ in told}
    for stage in ("preprocess_seconds", "queue_seconds", "inference_seconds", "batch_seconds"):
        assert counts[stage] == 1
        assert sums[stage] > 0
    assert told[-1][0] != "waiting_rows" or told[-1][1] == 0


@pytest.mark.parametrize("precision", [None, "bf16"])
@pytest.mark.e2e
def test_a_compiled_engine_is_one_program_for_all_sizes(
    tiny_model: str, precision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captured as on a GPU; the code that is made for one can't run here, so eager runs it."""
    import torch

    from cliptune.inference.forwards import torch_forward
    from cliptune.models.loading import load_model

    programs: list[object] = []

    def backend(program: torch.fx.GraphModule, _: object) -> object:
        programs.append(program)
        return program.forward

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m, **kw: compile_(m, backend=backend, **kw))
    torch._dynamo.reset()
    model = load_model(tiny_model)
    dtype = torch.bfloat16 if precision else None
    cpu = torch.device("cpu")
    for module, batches in (
        (model.text_module, [np.full((n, length), 5) for n, length in ((1, 4), (3, 9), (7, 20))]),
        (model.vision_module, [np.ones((n, 3, 32, 32), np.float32) for n in (1, 2, 5)]),
    ):
        programs.clear()
        plain = torch_forward(module, cpu, dtype)
        compiled = torch_forward(module, cpu, dtype, compiled=True)
        for batch in batches:
            found = compiled(batch)
            assert len(found) == len(batch)
            np.testing.assert_allclose(found, plain(batch), atol=1e-5 if dtype is None else 2e-2)
        assert len(programs) <= 2, "the second size makes it free, further ones use the same"


def test_a_batch_is_divided_where_that_costs_least() -> None:
    from itertools import product

    def cost(groups: list[np.ndarray], lengths: np.ndarray, call: float) -> float:
        return sum(len(rows) * lengths[rows].max() + call for rows in groups)

    rng = np.random.default_rng(3)
    for call in (0, 2, 5, 30, float("inf")):
        lengths = rng.integers(3, 9, 12)
        groups = length_groups(lengths, call)
        assert sorted(np.concatenate(groups).tolist()) == list(range(12))
        levels = np.unique(lengths)
        every = []  # all ways to divide the levels into neighbours
        for cuts in product([False, True], repeat=len(levels) - 1):
            label = dict(zip(levels, np.cumsum([0, *cuts]), strict=True))
            labels = np.array([label[value] for value in lengths])
            parts = [np.flatnonzero(labels == name) for name in np.unique(labels)]
            every.append(cost(parts, lengths, call))
        assert cost(groups, lengths, call) == min(every)
        if call == float("inf"):
            assert len(groups) == 1


def test_texts_of_like_length_go_through_the_tower_together(tiny_model: str) -> None:
    short, long = [f"hat {i}" for i in range(20)], ["a very long title " * 8 + str(i) for i in "ab"]
    tower = get_tower(tiny_model, "clip-text")
    shapes, forward = [], tower.forward
    tower.forward = lambda tokens: shapes.append(tokens.shape) or forward(tokens)
    found = tower.encode([*long, *short])
    assert [rows for rows, _ in shapes] == [2, 20] or [rows for rows, _ in shapes] == [20, 2]
    assert sum(rows * length for rows, length in shapes) < 250
    alone = np.concatenate([tower.encode([text]) for text in [*long, *short]])
    np.testing.assert_allclose(found, alone, atol=1e-5)
