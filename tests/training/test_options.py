"""Bad options are refused with the bad value and the allowed ones."""

from __future__ import annotations

from typing import Any

import pytest

from cliptune.errors import BadInput
from cliptune.training import TrainingOptions
from cliptune.training.callbacks import parse_callback


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"loss": "ClipLoss"}, "'ClipLoss'.*'CLIPLoss'"),
        ({"optimizer": "Adamw"}, "'Adamw'.*'AdamW'"),
        ({"scheduler": "cosin"}, "'cosin'.*'cosine'"),
        ({"epochs": -1}, "epochs is -1"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'"),
        ({"precision": "fp8"}, "precision is 'fp8'.*bf16"),
        ({"val_split": 1.0}, "val_split is 1.0"),
        ({"epoch": 3}, "unknown option 'epoch'.*'epochs'"),
        ({"micro_batch_size": 64, "batch_size": 32}, "micro_batch_size 64 is larger than .* 32"),
        ({"num_processes": 4, "batch_size": 3}, "batch_size 3 is smaller than num_processes 4"),
        ({"num_processes": 2, "device": "cuda:1"}, "'cuda:1' is one device.*num_processes is 2"),
        ({"lora": {"rank": 8}, "freeze": True}, "lora.*freeze=True"),
        ({"lora": {"rank": 0}}, "lora.rank is 0"),
        ({"lora": {"ranks": 8}}, "lora.ranks"),
        ({"freeze": {"visoin": 3}}, "freeze is .*visoin.*vision"),
        ({"freeze": {"text": -1}}, "freeze is .*-1.*'text': 4"),
        ({"freeze": "all"}, "'all'"),
        ({"sampler": "hard"}, "'hard'.*hard_negatives"),
        ({"num_processes": 0}, "num_processes is 0"),
        ({"checkpoint_minutes": 0}, "checkpoint_minutes is 0"),
        ({"label_smoothing": 1}, "label_smoothing is 1"),
        ({"label_smoothing": 0.1, "loss": "SigLIPLoss"}, "label_smoothing is 0.1: SigLIPLoss has"),
        ({"augment_word_order": 1.5}, "augment_word_order is 1.5"),
    ],
)
def test_options(values: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        TrainingOptions.parse(values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "WiSEFTCallbak"}, "'WiSEFTCallbak'.*'WiSEFTCallback'"),
        ({"name": "WiSEFTCallback", "alpha": 1.5}, "alpha is 1.5"),
        ({"name": "EvaluationCallback"}, "query_data"),
        ({"name": "EvaluationCallback", "query_data": "x", "limit": 0}, "limit is 0"),
        ({"name": "EvaluationCallback", "query_data": "x", "distance": "l2"}, "'l2'.*cosine"),
        ({"name": "EvaluationCallback", "query_data": "x", "model": "clip"}, "'clip'.*clip-text"),
    ],
)
def test_callbacks(values: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        parse_callback(values)
