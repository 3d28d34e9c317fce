"""What trials vary: the first trial is `fit` at its defaults, and what is given stays."""

from __future__ import annotations

import optuna
import pytest

from cliptune.errors import BadInput
from cliptune.training import TrainingOptions
from cliptune.training.defaults import batch_size_for
from cliptune.tuning import TuneOptions
from cliptune.tuning.space import make_axes, options_of
from cliptune.tuning.trial import rungs_passed

BLOCKS = {"vision": 12, "text": 8}


@pytest.mark.parametrize("model", ["builtin", "ViT-B-32::openai"])
def test_the_defaults_on_all_axes_are_what_fit_would_take(model: str) -> None:
    base = TrainingOptions(model=model)
    axes = make_axes(base, ["model"], 3000)
    options = options_of(base, {axis.name: axis.default for axis in axes}, BLOCKS)
    assert options.peak_learning_rate == pytest.approx(base.peak_learning_rate)
    assert options.chosen_optimizer == base.chosen_optimizer
    assert options.batch_size == batch_size_for(model, 1024, 3000, 5)
    assert options.optimizer_options == {"weight_decay": 0.05}, "the optimizers' default here"
    unchanged = {"epochs", "augment_crop", "freeze", "lora", "loss", "seed", "scheduler"}
    assert options.model_dump(include=unchanged) == base.model_dump(include=unchanged)
    for axis in axes:
        assert axis.distribution._contains(axis.distribution.to_internal_repr(axis.default))


def test_what_is_given_is_not_varied() -> None:
    given = {"learning_rate": 1e-3, "epochs": 4, "batch_size": 32, "freeze": "vision"}
    base = TrainingOptions(**given, optimizer_options={"weight_decay": 0.2})
    assert make_axes(base, [*given, "optimizer_options"], 3000) == []
    assert options_of(base, {}, BLOCKS) == base


def test_any_point_is_a_training_that_is_allowed() -> None:
    base = TrainingOptions(model="ViT-B-32::openai", micro_batch_size=64, epochs=1)
    axes = make_axes(base, ["model", "micro_batch_size"], 5000)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    trained = set()
    for _ in range(60):
        trial = study.ask({axis.name: axis.distribution for axis in axes})
        options = options_of(base, trial.params, BLOCKS)
        assert options.batch_size >= 64
        if trial.params["trained"] == "upper half":
            assert options.freeze == {"vision": 6, "text": 4}
        if trial.params["trained"] == "lora":
            assert options.lora is not None
            rate = trial.params["learning_rate_factor"] * 1e-4
            assert options.learning_rate == pytest.approx(rate), "adapters take ten times as much"
        trained.add(trial.params["trained"])
    assert trained == {"all", "upper half", "lora"}


def test_few_pairs_leave_a_batch_to_choose() -> None:
    axes = {axis.name: axis for axis in make_axes(TrainingOptions(), [], 8)}
    assert axes["batch_size"].distribution.high <= 4


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("yes", "give True, a number of minutes"),
        ({"minute": 3}, "unknown option of tune 'minute'.*minutes"),
        ({"metric": "mrr"}, "metric is 'mrr'"),
        ({"minutes": 0}, "minutes is 0"),
        ({"validation": 0.4, "test": 0.4}, "hold out 0.8"),
    ],
)
def test_bad_options_are_named(given: object, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        TuneOptions.parse(given)


def test_short_forms() -> None:
    assert TuneOptions.parse(True) == TuneOptions()
    assert TuneOptions.parse(5) == TuneOptions(minutes=5)


def test_trials_of_few_and_of_many_epochs_are_compared_at_the_same_points() -> None:
    """Where all learn along one line, none may be ahead for being measured later."""
    for epochs in (1, 2, 3, 5, 8, 40):
        at = [0.1 + 0.4 * done / epochs for done in range(epochs + 1)]
        told = [
            rung
            for done in range(1, epochs + 1)
            for rung in rungs_passed(done, epochs, at[done - 1], at[done])
        ]
        assert told == [(25, pytest.approx(0.2)), (50, pytest.approx(0.3))], epochs
