"""Train as one of the processes that `torchrun` starts, on one machine or on several.

    torchrun --nnodes 2 --node-rank 0 --master-addr first -m cliptune.training run.yml out

`run.yml` has `train_data`, and what else `cliptune.fit` takes: `eval_data`, `callbacks` (each with
its `name` and its options), `csv_options`, and training options such as `model` and `epochs`. Data
is a path, a URL of a data set, or the name of one. `out`, as all of CLIPTUNE_HOME, is a folder that
all machines share; `out/artifact` is the tuned model.

Told to end (SIGTERM), the processes write a checkpoint. Started again they go on from the last one,
and where the artifact is there already they have nothing to do.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cliptune.data.source import read_documents
from cliptune.data.tables.options import CsvOptions
from cliptune.data.validation import PAIR
from cliptune.errors import BadInput, CliptuneError
from cliptune.files import make_folder
from cliptune.training import Cancelled, TrainingOptions, train
from cliptune.training.callbacks import parse_callback
from cliptune.training.run_logger import StandardRunLogger
from cliptune.training.state import list_checkpoints

_DATA = ("train_data", "eval_data")
_USAGE = "usage: torchrun ... -m cliptune.training RUN.yml FOLDER"


class _RunLogger(StandardRunLogger):
    """Writes to standard error; a SIGTERM asks to stop."""

    def __init__(self) -> None:
        super().__init__()
        self._told_to_end = False
        signal.signal(signal.SIGTERM, self._end)

    def cancelled(self) -> bool:
        """Whether there was a SIGTERM."""
        return self._told_to_end

    def _end(self, *_: object) -> None:
        self._told_to_end = True


def main(path: Path, folder: Path) -> None:
    """Train what the file at `path` says, into `folder`.

    Raises:
        BadInput: the file says something that can't be.
        Cancelled: there was a SIGTERM; a checkpoint was written.
        CliptuneError: as `train`.
    """
    if (folder / "artifact").exists():
        return
    given = _read(path)
    data = {role: given.pop(role, None) for role in _DATA}
    table = CsvOptions.parse(given.pop("csv_options", None))
    callbacks = [parse_callback(values) for values in given.pop("callbacks", None) or []]
    options = TrainingOptions.parse({"optimizer": "Adam", **given})
    logger = _RunLogger()
    docs = {}
    for role, value in data.items():
        if value is None:
            continue
        read = read_documents(value, csv_options=table, role=role, needs=PAIR)
        docs[role] = read.docs
        for level, line in read.summary.lines():
            logger.log(level, line)
    make_folder(folder)
    checkpoints = list_checkpoints(folder / "checkpoints")
    train(
        options,
        docs["train_data"],
        docs.get("eval_data"),
        callbacks,
        folder,
        logger,
        checkpoints[-1] if checkpoints else None,
        table.to_keep(),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        given = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"{path} can't be read: {error}") from error
    if not isinstance(given, Mapping) or not given.get("train_data"):
        raise BadInput(f"{path} has no train_data: it is YAML such as `train_data: products.csv`")
    return dict(given)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(_USAGE)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except Cancelled:
        sys.exit("stopped, with a checkpoint: started again it goes on from there")
    except CliptuneError as error:
        sys.exit(f"error: {error}")
