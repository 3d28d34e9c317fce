"""The callbacks of `fit`: `from cliptune.callback import EvaluationCallback, EarlyStopping`."""

from cliptune.training.callbacks import (
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
