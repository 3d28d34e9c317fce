"""`fit`: start a fine-tuning run."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliptune import runs
from cliptune.errors import BadInput
from cliptune.extras import need
from cliptune.runs import Run
from cliptune.sdk.models import find_artifact, refuse_model_options
from cliptune.sdk.server import server_address, session

if TYPE_CHECKING:
    from cliptune.data.tables.columns import CsvOptions
    from cliptune.sdk.data import Data
    from cliptune.training.callbacks import Callback


def fit(
    model: str,
    train_data: Data,
    eval_data: Data | None = None,
    val_split: float = 0.0,
    model_artifact: str | Path | None = None,
    run_name: str | None = None,
    description: str | None = None,
    experiment_name: str | None = None,
    model_options: Mapping[str, Any] | None = None,
    loss: str = "CLIPLoss",
    miner: str | None = None,
    miner_options: Mapping[str, Any] | None = None,
    optimizer: str = "Adam",
    optimizer_options: Mapping[str, Any] | None = None,
    learning_rate: float | None = None,
    epochs: int = 5,
    batch_size: int | None = None,
    callbacks: Sequence[Callback | Mapping[str, Any] | str] | None = None,
    scheduler: str | None = None,
    scheduler_options: Mapping[str, Any] | None = None,
    freeze: bool | str | Mapping[str, int] = False,
    output_dim: int | None = None,
    device: str | None = None,
    num_workers: int = 4,
    to_onnx: bool = False,
    csv_options: CsvOptions | Mapping[str, Any] | None = None,
    num_items_per_class: int = 4,
    sampler: str = "auto",
    loss_optimizer: str | None = None,
    loss_optimizer_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Run:
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
        optimizer: `Adam`, `AdamW`, `SGD`, … of `torch.optim`.
        optimizer_options: its arguments, and `layer_wise_lr_decay`: a factor up to 1 by which the
            learning rate falls from each block of a tower to the one before it.
        learning_rate: the peak rate; None fits the model: 5e-4 for `builtin`, 1e-5 for others.
        epochs: how often all pairs are seen.
        batch_size: pairs a step; None is the largest power of two that fits into memory at once,
            at most 1,024 and 1/16 of the pairs. One that does not fit is cut in parts, with the
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
        options: the further options of `TrainingOptions`: lora, num_processes, micro_batch_size,
            checkpoint_minutes, seed, precision, max_grad_norm, …

    Raises:
        BadInput: an option or a name is wrong; the message repeats it.
        NotFound: the model, a data set or a file is not there; the message lists near names.
        BadData: a data set can't be read or has nothing to train on.
        AlreadyExists: `run_name` is in use.
    """
    given = {name: value for name, value in locals().items() if name != "options"}
    if server_address():
        defaults = inspect.signature(fit).parameters
        changed = {n: v for n, v in given.items() if v is not defaults[n].default}
        return session().fit(**changed, **options)
    _refuse_metric_learning(given)
    need("train", "fit")
    from cliptune.models.loading import check_same_model
    from cliptune.models.names import absolute_name
    from cliptune.models.registry import BUILTIN
    from cliptune.runs.plan import make_plan

    names = ("val_split", "loss", "optimizer", "optimizer_options", "learning_rate", "epochs",
             "batch_size", "scheduler", "scheduler_options", "freeze", "device", "num_workers",
             "to_onnx")  # fmt: skip
    chosen = {name: given[name] for name in names if given[name] is not None}
    if sampler != "auto":
        chosen["sampler"] = sampler
    start = model
    if model_artifact is not None:
        start = str(find_artifact(model_artifact))
        if model != BUILTIN:  # the default wherever a model need not be named
            check_same_model(model, Path(start))
    plan = make_plan(
        {**options, **chosen, "model": absolute_name(start)},
        train_data,
        eval_data,
        callbacks,
        csv_options,
    )
    config = {"model": str(model), "model_artifact": _text(model_artifact), **plan.config}
    run = runs.create_run(config, plan.documents, run_name, experiment_name, description)
    run.start()
    return run


def _refuse_metric_learning(given: Mapping[str, Any]) -> None:
    """Say of options for other losses and models that they would have no effect."""
    refuse_model_options(given["model_options"])
    for name in ("miner", "miner_options", "loss_optimizer", "loss_optimizer_options"):
        if given[name]:
            raise BadInput(
                f"{name} is {given[name]!r}: it is for metric-learning losses; with CLIPLoss all "
                "other pairs of the batch are the negatives, and it has no weights of its own"
            )
    if given["output_dim"] is not None:
        raise BadInput(
            f"output_dim is {given['output_dim']!r}: CLIP's is fixed by its model "
            "(see describe_models())"
        )


def _text(value: str | Path | None) -> str | None:
    return None if value is None else str(value)
