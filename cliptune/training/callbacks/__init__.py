"""What may happen beside the steps of a run: evaluation, stopping, keeping weights, trackers.

`base` says what a callback is and how it may fail.
"""

from __future__ import annotations

from collections.abc import Mapping

from cliptune.errors import BadInput, near_matches
from cliptune.training.callbacks.base import Callback as Callback
from cliptune.training.callbacks.base import CallbackFailed as CallbackFailed
from cliptune.training.callbacks.base import Callbacks as Callbacks
from cliptune.training.callbacks.evaluation import EvaluationCallback as EvaluationCallback
from cliptune.training.callbacks.monitor import BestModelCheckpoint as BestModelCheckpoint
from cliptune.training.callbacks.monitor import EarlyStopping as EarlyStopping
from cliptune.training.callbacks.trackers import MLflowLogger as MLflowLogger
from cliptune.training.callbacks.trackers import TensorBoardLogger as TensorBoardLogger
from cliptune.training.callbacks.trackers import WandBLogger as WandBLogger
from cliptune.training.callbacks.weights import TrainingCheckpoint as TrainingCheckpoint
from cliptune.training.callbacks.weights import WiSEFTCallback as WiSEFTCallback

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
