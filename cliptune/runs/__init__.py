"""Runs: their records, their processes, their logs; starting, stopping and resuming them."""

from cliptune.runs.experiments import (
    Experiment,
    create_experiment,
    create_run,
    delete_experiment,
    delete_experiments,
    delete_run,
    delete_runs,
    get_experiment,
    get_run,
    list_experiments,
    list_runs,
)
from cliptune.runs.logs import Progress
from cliptune.runs.record import Record, Status
from cliptune.runs.run import Run

__all__ = [
    "Experiment",
    "Progress",
    "Record",
    "Run",
    "Status",
    "create_experiment",
    "create_run",
    "delete_experiment",
    "delete_experiments",
    "delete_run",
    "delete_runs",
    "get_experiment",
    "get_run",
    "list_experiments",
    "list_runs",
]
