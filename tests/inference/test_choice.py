"""`engine='auto'`: the quickest is taken and kept, whatever happens to what was kept."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cliptune.inference import choice, get_tower
from cliptune.inference.choice import Task, quickest
from cliptune.inference.engines import possible_engines
from cliptune.inference.speed import TURNS, call_seconds
from cliptune.inference.towers import Forward
from cliptune.models.artifact import open_artifact
from cliptune.models.artifact_writer import write_artifact
from cliptune.models.loading import load_model
from cliptune.settings import Engine

TASK = Task("d" * 64, "clip-text", "fp32", "cpu", 1, compiled=False)
BATCHES = [np.zeros((1, 4)), np.zeros((32, 4))]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that has no choices of other tests, and little time for each."""
    monkeypatch.setenv("CLIPTUNE_HOME", str(tmp_path))
    monkeypatch.setattr(choice, "SECONDS", 0.1)
    return tmp_path / "cache" / "engines"


class Engines:
    """Engines of known speed, which count how often they are loaded and run."""

    def __init__(self, **seconds: float | Callable[[int], float]) -> None:
        self.seconds = seconds
        self.loaded: list[str] = []
        self.runs = 0
        self.alive: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()

    @property
    def makers(self) -> dict[Engine, Callable[[], Forward]]:
        return {name: lambda name=name: self.load(name) for name in self.seconds}  # type: ignore[misc, return-value]

    def load(self, name: str) -> Forward:
        self.loaded.append(name)
        seconds = self.seconds[name]

        def forward(batch: NDArray[Any]) -> NDArray[np.float32]:
            self.runs += 1
            time.sleep(seconds(len(batch)) if callable(seconds) else seconds)
            return np.ones((len(batch), 2), np.float32)

        self.alive[name] = forward
        return forward


def kept_file(folder: Path) -> Path:
    [file] = folder.glob("*.json")
    return file


def test_the_quickest_is_chosen_kept_and_not_measured_again(
    own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cliptune")
    engines = Engines(torch=0.02, onnx=0.01, openvino=0.001)
    name, forward = quickest(engines.makers, TASK, BATCHES, "titles")
    assert name == "openvino"
    assert forward(BATCHES[1]).shape == (32, 2)
    assert sorted(engines.loaded) == ["onnx", "openvino", "torch"]
    gc.collect()
    assert list(engines.alive) == ["openvino"], "the others are let go of"
    assert caplog.text.count("engine openvino: ") == 1
    assert caplog.text.index("titles a second; onnx ") < caplog.text.index(", torch ")

    caplog.clear()
    again = Engines(torch=0.001, onnx=0.01, openvino=0.02)
    assert quickest(again.makers, TASK, BATCHES, "titles")[0] == "openvino"
    assert (again.loaded, again.runs) == (["openvino"], 0)
    assert "as it was measured before" in caplog.text


def test_singles_and_batches_count_alike() -> None:
    """By the geometric mean: four times as quick for one outweighs twice as slow for many."""
    engines = Engines(
        torch=0.016,
        onnx=lambda rows: 0.004 if rows == 1 else 0.032,
    )
    assert quickest(engines.makers, TASK, BATCHES, "titles")[0] == "onnx"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", "3", "null", '{"tpu": 1.0}', '{"torch": "fast"}', '{"torch": -1}',
     '{"torch": null, "onnx": 1}', "\udcff"],
)  # fmt: skip
def test_what_was_damaged_is_measured_again(own_cache: Path, content: str) -> None:
    engines = Engines(torch=0.01, onnx=0.001)
    quickest(engines.makers, TASK, BATCHES, "titles")
    whole = kept_file(own_cache)
    whole.write_bytes(content.encode(errors="surrogateescape"))
    again = Engines(torch=0.001, onnx=0.01)
    assert quickest(again.makers, TASK, BATCHES, "titles")[0] == "torch"
    after = Engines(torch=0.01, onnx=0.001)
    assert quickest(after.makers, TASK, BATCHES, "titles")[0] == "torch"
    assert after.runs == 0, "it was written again"


def test_it_is_kept_for_what_it_was_measured_for(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measures(task: Task, *names: str) -> bool:
        engines = Engines(**dict.fromkeys(names or ("torch", "onnx"), 0.001))
        quickest(engines.makers, task, BATCHES, "titles")
        return engines.runs > 0

    assert measures(TASK)
    assert not measures(TASK)
    others: list[dict[str, Any]] = [
        {"digest": "e" * 64}, {"tower": "clip-vision"}, {"precision": "bf16"}, {"threads": 2},
        {"compiled": True}, {"device": "mps"},
    ]  # fmt: skip
    for other in others:
        assert measures(replace(TASK, **other)), other
    assert measures(TASK, "torch", "onnx", "openvino"), "another engine came"
    assert not measures(TASK)
    monkeypatch.setattr("torch.__version__", "99.0")
    assert measures(TASK)
    monkeypatch.setattr(choice, "_processor", lambda: "a new one")
    assert measures(TASK)


def test_a_folder_that_can_not_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLIPTUNE_HOME", str(tmp_path / "file" / "home"))
    for _ in range(2):
        engines = Engines(torch=0.01, onnx=0.001)
        assert quickest(engines.makers, TASK, BATCHES, "titles")[0] == "onnx"
        assert engines.runs
    assert "can't be kept, and is measured at each start: [Errno " in caplog.text


def test_an_engine_that_fails_is_left_out_but_for_torch(caplog: pytest.LogCaptureFixture) -> None:
    def fail(rows: int) -> float:
        raise RuntimeError("no such operator")

    engines = Engines(torch=0.01, onnx=fail)
    assert quickest(engines.makers, TASK, BATCHES, "titles")[0] == "torch"
    assert "engine onnx can't run this model and is left out: no such operator" in caplog.text
    other = replace(TASK, digest="e" * 64)
    with pytest.raises(RuntimeError, match="no such operator"):
        quickest(Engines(torch=fail, onnx=0.001).makers, other, BATCHES, "titles")


def test_one_alone_is_not_measured(own_cache: Path) -> None:
    engines = Engines(torch=0.01)
    assert quickest(engines.makers, TASK, BATCHES, "titles")[0] == "torch"
    assert engines.runs == 0
    assert not own_cache.exists()


def test_those_that_start_together_measure_once() -> None:
    engines = Engines(torch=0.005, onnx=0.001)
    chosen: list[str] = []

    def start() -> None:
        chosen.append(quickest(engines.makers, TASK, BATCHES, "titles")[0])

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert chosen == ["onnx"] * 4
    assert engines.loaded.count("torch") == 1


def test_calls_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that moves by calls alone, so that the order is known."""
    now, order = [0.0], ""

    def call(name: str, seconds: float) -> None:
        nonlocal order
        order += name
        now[0] += seconds

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    took = call_seconds({"a": lambda: call("a", 0.25), "b": lambda: call("b", 0.5)}, 5.0)
    assert took == {"a": 0.25, "b": 0.5}
    assert order == "ab" + ("a" * 4 + "b" * 2) * TURNS


def test_a_tower_is_run_by_one_that_can(tiny_model: Path, tmp_path: Path) -> None:
    model = load_model(tiny_model)
    artifact = write_artifact(model, tmp_path / "artifact", to_onnx=True).path
    able = possible_engines(open_artifact(artifact), "fp32", "cpu")
    assert able[:2] == ["torch", "onnx"]
    pictures = [np.full((40, 40, 3), shade, np.uint8) for shade in (20, 200)]
    for tower, given in (("clip-text", ["a red shoe", "boots"]), ("clip-vision", pictures)):
        expected = get_tower(model, tower).encode(given)  # type: ignore[arg-type]
        found = [get_tower(artifact, tower, engine="auto", device="cpu") for _ in range(2)]
        assert found[0].engine == found[1].engine
        assert found[0].engine in able
        for one in found:
            assert np.abs(one.encode(given) - expected).max() < 1e-4  # type: ignore[arg-type]
