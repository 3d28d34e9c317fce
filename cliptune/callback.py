"""The callbacks of `fit`: `from cliptune.callback import EvaluationCallback, WiSEFTCallback`."""

from cliptune.training.callbacks import CALLBACKS, Callback, EvaluationCallback, WiSEFTCallback

__all__ = ["CALLBACKS", "Callback", "EvaluationCallback", "WiSEFTCallback"]
