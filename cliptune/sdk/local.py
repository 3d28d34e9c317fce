"""Runs of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cliptune import runs
from cliptune.errors import BadInput
from cliptune.extras import need
from cliptune.runs.experiments import LocalRuns
from cliptune.runs.record import RunConfig
from cliptune.sdk.models import find_artifact, refuse_model_options

_METRIC_LEARNING = ("miner", "miner_options", "loss_optimizer", "loss_optimizer_options")

_NEVER_NONE = {
    *("val_split", "loss", "optimizer", "optimizer_options", "epochs", "scheduler"),
    *("scheduler_options", "freeze", "num_workers", "to_onnx", "sampler"),
}
"""Options for which None means their default."""


class LocalSession(LocalRuns):
    """Starts runs on this machine, and finds them: a `cliptune.runs.session.Session`."""

    def fit(self, model: str, train_data: object, **options: Any) -> runs.Run:
        """Start a run; arguments and errors as `cliptune.fit`."""
        _refuse_metric_learning(options)
        need("train", "fit")
        from cliptune.models.loading import check_same_model
        from cliptune.models.names import absolute_name
        from cliptune.models.registry import BUILTIN
        from cliptune.runs.plan import make_plan

        artifact = options.pop("model_artifact", None)
        of_run = [options.pop(f, None) for f in ("run_name", "experiment_name", "description")]
        names = ("eval_data", "callbacks", "csv_options", "tune", "robust_data")
        of_plan = [options.pop(name, None) for name in names]
        if options.get("sampler") == "auto":
            del options["sampler"]
        for name in _NEVER_NONE & options.keys():
            if options[name] is None:
                del options[name]
        start = model
        if artifact is not None:
            start = str(find_artifact(artifact))
            if model != BUILTIN:  # the default wherever a model need not be named
                check_same_model(model, Path(start))
        chosen = {**options, "model": absolute_name(start)}
        plan = make_plan(chosen, train_data, *of_plan)
        named = None if artifact is None else str(artifact)
        config: RunConfig = {"model": str(model), "model_artifact": named, **plan.config}
        run = runs.create_run(config, plan.documents, *of_run)
        run.start()
        return run


def _refuse_metric_learning(options: dict[str, Any]) -> None:
    """Take options for other losses and models away; say of those given that they'd do nothing."""
    refuse_model_options(options.pop("model_options", None))
    options.pop("num_items_per_class", None)
    for name in _METRIC_LEARNING:
        if value := options.pop(name, None):
            raise BadInput(
                f"{name} is {value!r}: it is for metric-learning losses; with CLIPLoss all "
                "other pairs of the batch are the negatives, and it has no weights of its own"
            )
    if (output_dim := options.pop("output_dim", None)) is not None:
        raise BadInput(
            f"output_dim is {output_dim!r}: CLIP's is fixed by its model (see describe_models())"
        )
