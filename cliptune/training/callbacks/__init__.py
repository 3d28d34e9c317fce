"""What may happen beside the steps of a run: evaluation, stopping, keeping weights, trackers.

`base` says what a callback is and how it may fail; each other module holds one callback.
"""

from __future__ import annotations

from collections.abc import Mapping

from cliptune.errors import BadInput, near_matches
from cliptune.training.callbacks.base import Callback, CallbackFailed, Callbacks
from cliptune.training.callbacks.evaluation import EvaluationCallback
from cliptune.training.callbacks.monitor import BestModelCheckpoint, EarlyStopping
from cliptune.training.callbacks.trackers import MLflowLogger, TensorBoardLogger, WandBLogger
from cliptune.training.callbacks.weights import TrainingCheckpoint, WiSEFTCallback

__all__ = [
    "CALLBACKS",
    "BestModelCheckpoint",
    "Callback",
    "CallbackFailed",
    "Callbacks",
    "EarlyStopping",
    "EvaluationCallback",
    "MLflowLogger",
    "TensorBoardLogger",
    "TrainingCheckpoint",
    "WandBLogger",
    "WiSEFTCallback",
    "parse_callback",
]

CALLBACKS: dict[str, type[Callback]] = {
    callback.__name__: callback
    for callback in (
        EvaluationCallback,
        BestModelCheckpoint,
        TrainingCheckpoint,
        EarlyStopping,
        WiSEFTCallback,
        WandBLogger,
        TensorBoardLogger,
        MLflowLogger,
    )
}
"""All callbacks that travel to a run's process, by name."""


def parse_callback(values: Mapping[str, object]) -> Callback:
    """A callback from its JSON form, `{'name': 'WiSEFTCallback', 'alpha': 0.5}`.

    Raises:
        BadInput: no such callback, or a bad value; the message repeats it.
    """
    name = str(values.get("name", ""))
    if name not in CALLBACKS:
        raise BadInput(f"unknown callback {name!r}: {near_matches(name, CALLBACKS)}")
    return CALLBACKS[name](**values)
