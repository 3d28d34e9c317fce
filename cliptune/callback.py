"""The callbacks of `fit`: `from cliptune.callback import EvaluationCallback, EarlyStopping`."""

from cliptune.extras import need

need("train", "cliptune.callback")

from cliptune.training.callbacks import (  # noqa: E402
    CALLBACKS,
    BestModelCheckpoint,
    Callback,
    EarlyStopping,
    EvaluationCallback,
    MLflowLogger,
    TensorBoardLogger,
    TrainingCheckpoint,
    WandBLogger,
    WiSEFTCallback,
)

__all__ = [
    "CALLBACKS",
    "BestModelCheckpoint",
    "Callback",
    "EarlyStopping",
    "EvaluationCallback",
    "MLflowLogger",
    "TensorBoardLogger",
    "TrainingCheckpoint",
    "WandBLogger",
    "WiSEFTCallback",
]
