"""Runs and experiments: starting, finding and deleting them, on this machine or at a train Flow."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cliptune.runs.session import AnyRun, Experiment, Session
from cliptune.sdk.local import LocalSession
from cliptune.settings import Settings

if TYPE_CHECKING:
    from cliptune.client.remote import RemoteSession
    from cliptune.data.source import Data
    from cliptune.data.tables.options import CsvOptions
    from cliptune.training.callbacks import Callback


def connect(address: str, api_key: str | None = None, ca_file: str | None = None) -> RemoteSession:
    """The calls of this module at a train Flow, such as `grpc://host:52000`.

    `api_key` and `ca_file` are as `cliptune.serving.Client`'s; None: what CLIPTUNE_API_KEY and
    CLIPTUNE_CA_FILE say.
    """
    from cliptune.client.remote import RemoteSession

    known = Settings.read(api_key=api_key, ca_file=ca_file)
    return RemoteSession(
        address, api_key=known.api_key, ca_file=known.ca_file, max_docs=known.max_docs
    )


def session(address: str | None = None) -> Session:
    """At the train Flow at `address`, else at that which the environment names, else here."""
    server = address or Settings.read().server
    return connect(server) if server else LocalSession()


def fit(
    model: str,
    train_data: Data,
    eval_data: Data | None = None,
    val_split: float = 0.0,
    model_artifact: str | Path | None = None,
    run_name: str | None = None,
    description: str | None = None,
    experiment_name: str | None = None,
    model_options: Mapping[str, object] | None = None,
    loss: str = "CLIPLoss",
    miner: str | None = None,
    miner_options: Mapping[str, object] | None = None,
    optimizer: str = "auto",
    optimizer_options: Mapping[str, object] | None = None,
    learning_rate: float | Literal["auto"] | None = None,
    epochs: int = 5,
    batch_size: int | None = None,
    callbacks: Sequence[Callback | Mapping[str, object] | str] | None = None,
    scheduler: str | None = None,
    scheduler_options: Mapping[str, object] | None = None,
    freeze: bool | str | Mapping[str, int] = False,
    output_dim: int | None = None,
    device: str | None = None,
    num_workers: int = 4,
    to_onnx: bool = False,
    csv_options: CsvOptions | Mapping[str, object] | None = None,
    num_items_per_class: int = 4,
    sampler: str = "auto",
    loss_optimizer: str | None = None,
    loss_optimizer_options: Mapping[str, object] | None = None,
    tune: bool | float | Mapping[str, object] | None = None,
    robust_data: Data | None = None,
    **options: object,
) -> AnyRun:
    """Start fine-tuning a CLIP in a process of its own, and return at once.

    What can be checked is checked here, before anything is stored or started.

    Args:
        model: a name of `describe_models()`; `ARCH::TAG` of open_clip; `ARCH::TAG::FILE`, a
            checkpoint of such weights or tuned from them; `hf-hub:…`; or the path of a model's
            folder or of an artifact.
        train_data: pairs of a text and a picture: documents (`ClipDoc`), the name of a data set
            (`push`ed, or of the built-in catalogue), a table (CSV, TSV, JSON lines), or a folder
            of pictures, perhaps with a `metadata.csv`. Those without a text or a picture are left
            out, and named in the log.
        eval_data: pairs for `val_loss`, given alike; overrides `val_split`.
        val_split: the part of the training data that is kept aside for `val_loss`, in [0, 1).
        model_artifact: go on from an earlier run's model: `Run.artifact_id`, or the path of an
            artifact. `model` then says what it once came from; `builtin` says nothing.
        run_name: unique in its experiment; None makes one up, such as `brave-otter-3f2a`.
        description: anything to remember the run by.
        experiment_name: a group of runs; None is `default`. It is made if it is not there.
        model_options: none of the models here has options.
        loss: `CLIPLoss`, image-to-text and text-to-image cross entropy over the batch, or
            `SigLIPLoss`, whether each couple of the batch belongs together.
        miner: for metric learning; these losses have none.
        miner_options: see `miner`.
        optimizer: `Muon`, or `Adam`, `AdamW`, `SGD`, … of `torch.optim`; `auto` is Muon for
            `builtin` and random weights, AdamW for all others and for adapters.
        optimizer_options: its arguments, and `layer_wise_lr_decay`: a factor up to 1 by which the
            learning rate falls from each block of a tower to the one before it.
        learning_rate: the peak rate; None fits the model and the optimizer: 2e-3 for `builtin`,
            1e-5 for others, 1e-4 for their adapters (see the documentation on fine-tuning);
            `auto` finds it by a range test of at most 100 steps on the data.
        epochs: how often all pairs are seen.
        batch_size: pairs a step; None is the largest power of two that fits into memory at once,
            at most 1,024 and 1/16 of the pairs, and less where a run of `builtin` would have too
            few steps. One that does not fit is cut in parts, with the
            same gradients.
        callbacks: see `list_callbacks()`.
        scheduler: `linear`, `cosine`, `cosine_with_restarts`, `polynomial`, `constant` or
            `constant_with_warmup`; None is `cosine`.
        scheduler_options: `num_warmup_steps`, `scheduler_step` (`'batch'` or `'epoch'`) and the
            schedule's own.
        freeze: `'vision'` or `'text'` trains the other tower only, True the projections only, and
            `{'vision': 8, 'text': 4}` all but the first blocks of towers.
        output_dim: can't be changed for CLIP.
        device: `cpu`, `cuda`, `cuda:1`; None is the accelerator that is there.
        num_workers: threads that decode pictures.
        to_onnx: export both towers to ONNX too.
        csv_options: how tables are read: `{'text_column': 'title', …}` (see `CsvOptions`); columns
            are found by their names where that is clear. Data other than `train_data` need not
            have the columns that are named.
        num_items_per_class: of no effect with these losses.
        sampler: `auto` and `random` shuffle; `hard_negatives` puts groups of pairs with like texts
            into one batch.
        loss_optimizer: for losses with weights of their own; these have none.
        loss_optimizer_options: see `loss_optimizer`.
        tune: find the options by trials that are measured on a part that is held out: True, a
            number of minutes, or the fields of `cliptune.tuning.TuneOptions`. Options that are
            named here stay as they are. See the documentation on tuning.
        robust_data: with `tune`, pairs of another kind at which the model should stay good.
        options: the further options of `TrainingOptions`: lora, num_processes, micro_batch_size,
            checkpoint_minutes, seed, precision, max_grad_norm, …

    Raises:
        BadInput: an option or a name is wrong; the message repeats it.
        NotFound: the model, a data set or a file is not there; the message lists near names.
        BadData: a data set can't be read or has nothing to train on.
        AlreadyExists: `run_name` is in use.
    """
    given = dict(locals())
    changed = {
        name: given[name]
        for name, parameter in inspect.signature(fit).parameters.items()
        if name not in ("model", "train_data", "options")
        and given[name] is not None
        and given[name] is not parameter.default
    }
    return session().fit(model, train_data, **changed, **options)


def get_run(name: str, experiment_name: str | None = None) -> AnyRun:
    """The run `name`, whichever process started it.

    Without `experiment_name` it is looked for in all experiments, `default` first.

    Raises:
        NotFound: no such run; the message lists near names.
        BadInput: several experiments other than `default` have a run of that name.
    """
    return session().get_run(name, experiment_name)


def list_runs(
    experiment_name: str | None = None, page: int = 1, size: int = 50
) -> Sequence[AnyRun]:
    """The runs of an experiment, or of all: newest first, `size` on a page, pages from 1.

    Raises:
        NotFound: no such experiment.
        BadInput: `page` or `size` is below 1.
    """
    return session().list_runs(experiment_name, page, size)


def delete_run(name: str, experiment_name: str | None = None) -> None:
    """Delete a run with all its files; one under way is stopped first.

    Raises:
        NotFound, BadInput: as `get_run`.
        NotReady: it runs on another machine.
    """
    session().delete_run(name, experiment_name)


def delete_runs(experiment_name: str | None = None) -> None:
    """Delete all runs of an experiment, or without a name all runs there are.

    Raises:
        NotFound: no such experiment.
        NotReady: one runs on another machine.
    """
    session().delete_runs(experiment_name)


def create_experiment(name: str = "default") -> Experiment:
    """Make a new group for runs (`fit(experiment_name=…)` makes one by itself).

    Raises:
        AlreadyExists: there is one of that name.
        BadInput: the name is not allowed.
    """
    return session().create_experiment(name)


def get_experiment(name: str = "default") -> Experiment:
    """The experiment `name`.

    Raises:
        NotFound: there is none; the message lists near names.
    """
    return session().get_experiment(name)


def list_experiments() -> Sequence[Experiment]:
    """All experiments by name."""
    return session().list_experiments()


def delete_experiment(name: str) -> None:
    """Delete an experiment with all its runs; those under way are stopped first.

    Raises:
        NotFound: there is none.
        NotReady: one of its runs is on another machine.
    """
    session().delete_experiment(name)


def delete_experiments() -> None:
    """Delete all experiments with all their runs."""
    session().delete_experiments()
