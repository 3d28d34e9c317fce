"""Two processes with gloo train like one: the same losses and weights, and they end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import cliptune
from cliptune.errors import BadInput
from cliptune.models.artifact import open_artifact
from cliptune.models.loading import load_model
from cliptune.runs.record import read_record
from cliptune.training import TrainingOptions
from cliptune.training.batches.pairs import read_pairs
from cliptune.training.distributed import World
from cliptune.training.run_logger import StandardRunLogger
from cliptune.training.setup import choose_sizes
from cliptune.training.state import Training
from tests.training.test_loop import squares
from tests.waiting import wait_until

# SGD: Adam's first steps are of one size however small a gradient is, and so enlarge rounding.
OPTIONS = {
    "epochs": 2,
    "batch_size": 11,
    "learning_rate": 0.05,
    "optimizer": "SGD",
    "device": "cpu",
}

# What a user's own script looks like.
SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.training.test_loop import squares
from cliptune.training import TrainingOptions, train
from cliptune.training.callbacks import EvaluationCallback
from cliptune.training.run_logger import StandardRunLogger
import json
options = TrainingOptions.parse(json.loads(sys.argv[3]))
evaluation = EvaluationCallback(query_data=squares(2, 1), index_data=squares(3), limit=5)
folder, logger = Path(sys.argv[2]), StandardRunLogger()
outcome = train(options, squares(1), squares(4, 2), [evaluation], folder, logger)
assert outcome.after, "every process gets the outcome"
"""


def run_script(folder: Path, options: dict, processes: int) -> dict[str, torch.Tensor]:
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [
        sys.executable,
        *(launcher if processes > 1 else []),
        str(script),
        str(Path(__file__).parents[2]),
        str(folder),
        json.dumps(options),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    towers = ("clip-text", "clip-vision")
    state: dict[str, torch.Tensor] = {}
    for tower in towers:
        state.update(load_file(folder / "artifact" / "models" / tower / "model.safetensors"))
    return state


def losses(folder: Path) -> list[float]:
    metrics = open_artifact(folder / "artifact").metrics
    return [entry[name] for entry in metrics["epochs"] for name in ("loss", "val_loss")]


@pytest.mark.e2e
def test_two_processes_give_the_losses_of_one(tiny_model: Path, tmp_path: Path) -> None:
    # Parts of unequal size (11 over 2), each in parts again.
    options = {**OPTIONS, "model": str(tiny_model)}
    one = run_script(tmp_path / "one", options, 1)
    two = run_script(tmp_path / "two", {**options, "micro_batch_size": 4}, 2)
    np.testing.assert_allclose(losses(tmp_path / "one"), losses(tmp_path / "two"), atol=1e-5)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-4)


def test_a_batch_has_a_pair_for_each_process(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(World, "from_first", lambda self, tensor, device: tensor)
    settings = TrainingOptions.parse({**OPTIONS, "batch_size": 4, "micro_batch_size": 4})
    model, cpu = load_model(tiny_model), torch.device("cpu")
    pairs = read_pairs(squares(1)[:5], "training", model, 1, StandardRunLogger())
    for processes in (2, 3):
        training = Training(
            settings, model, cpu, tmp_path, StandardRunLogger(), World(0, processes)
        )
        if processes == 2:
            choose_sizes(training, pairs, None)
            continue
        with pytest.raises(BadInput, match="5 training pairs make batches of 2, too few for 3"):
            choose_sizes(training, pairs, None)


def start_run(tiny_model: Path) -> cliptune.Run:
    return cliptune.fit(
        str(tiny_model),
        squares(1, 30),
        epochs=2000,
        batch_size=12,
        device="cpu",
        num_processes=2,
        sampler="hard_negatives",  # all must follow the order that the first one finds
    )


def wait_for_steps(run: cliptune.Run) -> None:
    def stepping() -> bool:
        assert not run.record().status.ended, log_of(run)
        return "Training [" in log_of(run)

    wait_until(stepping, 120, lambda: log_of(run))


def log_of(run: cliptune.Run) -> str:
    log = run.folder / "run.log"
    return log.read_text() if log.exists() else ""


@pytest.mark.e2e
def test_a_run_of_two_processes_is_cancelled_and_resumed(tiny_model: Path) -> None:
    run = start_run(tiny_model)
    wait_for_steps(run)
    status = run.cancel()
    assert status["status"] == "CANCELLED", run.logs()
    assert "from its last checkpoint" in status["details"]
    run.resume()
    wait_until(lambda: "resumed in epoch" in log_of(run), 120, run.logs)
    # The other process is killed: the first can't go on, and says why.
    first = read_record(run.folder).process.pid
    others = [pid for pid in workers(run.folder) if pid != first]
    assert len(others) == 1
    os.kill(others[0], signal.SIGKILL)
    status = run.wait(60)
    assert status["status"] == "FAILED"
    assert "another process of this run has ended" in status["details"]


def workers(folder: Path) -> list[int]:
    """The processes of the run in `folder`, without `torchrun` itself."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if str(folder) in line and "torch.distributed.run" not in line:
                found.append(int(entry.name))
    return found
