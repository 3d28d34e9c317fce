"""Runs: their records, their processes, their logs; starting, stopping and resuming them."""

from cliptune.runs.experiments import create_experiment as create_experiment
from cliptune.runs.experiments import create_run as create_run
from cliptune.runs.experiments import delete_experiment as delete_experiment
from cliptune.runs.experiments import delete_experiments as delete_experiments
from cliptune.runs.experiments import delete_run as delete_run
from cliptune.runs.experiments import delete_runs as delete_runs
from cliptune.runs.experiments import get_experiment as get_experiment
from cliptune.runs.experiments import get_run as get_run
from cliptune.runs.experiments import list_experiments as list_experiments
from cliptune.runs.experiments import list_runs as list_runs
from cliptune.runs.logs import Progress as Progress
from cliptune.runs.record import Record as Record
from cliptune.runs.record import Status as Status
from cliptune.runs.run import Run as Run
from cliptune.runs.session import Experiment as Experiment
