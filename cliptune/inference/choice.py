"""`engine='auto'`: the engine that is quickest where it will run, by measurement, and kept."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import importlib.metadata
import json
import logging
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from cliptune.files import locked, make_folder, write_text
from cliptune.inference.speed import call_seconds
from cliptune.inference.towers import Forward
from cliptune.settings import Engine, current

log = logging.getLogger("cliptune")
SECONDS = 1.0
"""For which each engine is timed."""
Rates = dict[Engine, float]
"""Inputs a second, by engine."""


@dataclass(frozen=True)
class Task:
    """What is to run, and how: all that the choice may depend on but the machine."""

    digest: str
    tower: str
    precision: str
    device: str
    threads: int | None
    compiled: bool


def quickest(
    engines: Mapping[Engine, Callable[[], Forward]],
    task: Task,
    batches: Sequence[NDArray[Any]],
    inputs: str,
) -> tuple[Engine, Forward]:
    """The quickest of `engines`, and what it is as a function; the others are let go of.

    That is the one of the most inputs a second, by the geometric mean over `batches`: each engine
    runs them for about a second, after one round that doesn't count, in turns with the others. An
    engine that can't run the model is left out. The choice is kept in the cache folder, for the
    same task by the same versions on the same kind of processor: the next start measures nothing.
    Processes that start together measure one after the other.

    Args:
        engines: those that are possible, each loaded by a call.
        task: what it is chosen for.
        batches: inputs such as it will be given, [N, …].
        inputs: what one of them is called, in the plural.
    """
    if len(engines) == 1:
        [(only, load)] = engines.items()
        return only, load()
    file = _file(task, list(engines))
    with _one_at_a_time(file.parent):
        if kept := _read(file, engines):
            best = max(kept, key=kept.__getitem__)
            log.info("engine %s, as it was measured before", _in_words(kept, inputs))
            return best, engines[best]()
        forwards = _loaded(engines, batches[0])
        rates = _measure(forwards, batches)
        _write(file, rates)
    log.info("engine %s", _in_words(rates, inputs))
    best = max(rates, key=rates.__getitem__)
    chosen = forwards[best]
    forwards.clear()
    _give_back_memory()
    return best, chosen


def _give_back_memory() -> None:
    """Give the system what nothing uses any more: the weights of the other engines."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # of glibc, which would keep it
        trim(0)


def _loaded(
    engines: Mapping[Engine, Callable[[], Forward]], batch: NDArray[Any]
) -> dict[Engine, Forward]:
    forwards: dict[Engine, Forward] = {}
    for name, load in engines.items():
        try:
            forward = load()
            forward(batch)
        except Exception as error:  # each library has its own
            if name == "torch":  # which runs all models: the model is at fault
                raise
            log.warning("engine %s can't run this model and is left out: %s", name, error)
        else:
            forwards[name] = forward
    return forwards


def _measure(forwards: Mapping[Engine, Forward], batches: Sequence[NDArray[Any]]) -> Rates:
    calls = {
        (name, number): partial(forward, batch)
        for name, forward in forwards.items()
        for number, batch in enumerate(batches)
    }
    took = call_seconds(calls, SECONDS / len(batches))
    return {
        name: statistics.geometric_mean(
            len(batch) / took[name, number] for number, batch in enumerate(batches)
        )
        for name in forwards
    }


def _in_words(rates: Rates, inputs: str) -> str:
    """Such as `openvino: 44.0 pictures a second; onnx 21.3, torch 17.4`."""
    best, *others = sorted(rates, key=lambda name: -rates[name])
    words = f"{best}: {rates[best]:.1f} {inputs} a second"
    slower = ", ".join(f"{name} {rates[name]:.1f}" for name in others)
    return f"{words}; {slower}" if slower else words


def _file(task: Task, engines: list[Engine]) -> Path:
    """Where the choice is kept: by all that it may depend on."""
    on_gpu = task.device.startswith("cuda")
    key = {
        **asdict(task),
        "torch_threads": torch.get_num_threads(),
        "processor": torch.cuda.get_device_name(task.device) if on_gpu else _processor(),
        "versions": {name: _version(name) for name in engines},
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return current().cache_dir / "engines" / f"{digest[:32]}.json"


def _version(engine: Engine) -> str:
    if engine == "torch":
        return torch.__version__
    if engine == "openvino":
        return importlib.metadata.version("openvino")  # importing it takes longer
    import onnxruntime

    return str(onnxruntime.__version__)


def _processor() -> str:
    """The CPU's name and what it can do: in virtual machines the name alone says little."""
    told: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            told.setdefault(name.strip(), value.strip())
    names = ("model name", "flags", "Features", "CPU part")  # the last two are of ARM
    return "; ".join([platform.machine(), *(told.get(name, "") for name in names)])


def _read(file: Path, engines: Mapping[Engine, object]) -> Rates | None:
    """The rates of `engines` that are kept; None: there are none, or the file is damaged."""
    try:
        rates = json.loads(file.read_text())
        is_whole = bool(rates) and rates.keys() <= engines.keys()
        return rates if is_whole and all(rate > 0 for rate in rates.values()) else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _write(file: Path, rates: Rates) -> None:
    try:
        write_text(file, json.dumps(rates))
    except OSError as error:
        log.warning(
            "which engine is quickest can't be kept, and is measured at each start: %s", error
        )


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Have processes wait for one another, where that is possible: they share the cores."""
    with ExitStack() as stack:
        with suppress(OSError):  # a folder that can't be written, or one that has no locks
            stack.enter_context(locked(make_folder(folder) / "lock"))
        yield
