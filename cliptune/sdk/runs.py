"""Runs and experiments, found again from any process on any day."""

from __future__ import annotations

from cliptune.runs import Experiment, Run
from cliptune.sdk.server import here_or_there


def get_run(name: str, experiment_name: str | None = None) -> Run:
    """The run `name`, whichever process started it.

    Without `experiment_name` it is looked for in all experiments, `default` first.

    Raises:
        NotFound: no such run; the message lists near names.
        BadInput: several experiments other than `default` have a run of that name.
    """
    return here_or_there("get_run")(name, experiment_name)


def list_runs(experiment_name: str | None = None, page: int = 1, size: int = 50) -> list[Run]:
    """The runs of an experiment, or of all: newest first, `size` on a page, pages from 1.

    Raises:
        NotFound: no such experiment.
        BadInput: `page` or `size` is below 1.
    """
    return here_or_there("list_runs")(experiment_name=experiment_name, page=page, size=size)


def delete_run(name: str, experiment_name: str | None = None) -> None:
    """Delete a run with all its files; one under way is stopped first.

    Raises:
        NotFound, BadInput: as `get_run`.
        NotReady: it runs on another machine.
    """
    here_or_there("delete_run")(name, experiment_name)


def delete_runs(experiment_name: str | None = None) -> None:
    """Delete all runs of an experiment, or without a name all runs there are."""
    here_or_there("delete_runs")(experiment_name)


def create_experiment(name: str = "default") -> Experiment:
    """Make a new group for runs (`fit(experiment_name=…)` makes one by itself).

    Raises:
        AlreadyExists: there is one of that name.
        BadInput: the name is not allowed.
    """
    return here_or_there("create_experiment")(name)


def get_experiment(name: str = "default") -> Experiment:
    """The experiment `name`.

    Raises:
        NotFound: there is none; the message lists near names.
    """
    return here_or_there("get_experiment")(name)


def list_experiments() -> list[Experiment]:
    """All experiments by name."""
    return here_or_there("list_experiments")()


def delete_experiment(name: str) -> None:
    """Delete an experiment with all its runs."""
    here_or_there("delete_experiment")(name)


def delete_experiments() -> None:
    """Delete all experiments with all their runs."""
    here_or_there("delete_experiments")()
