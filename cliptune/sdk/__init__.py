"""The SDK: fine-tune, watch, fetch and use models. `import cliptune` offers all of this.

    import cliptune
    from cliptune.callback import EvaluationCallback

    run = cliptune.fit(
        model="builtin",
        train_data="catalogue-train",
        eval_data="catalogue-eval",
        epochs=5,
        callbacks=[EvaluationCallback(query_data="catalogue-queries",
                                      index_data="catalogue-index")],
    )
    for line in run.stream_logs():
        print(line)
    artifact = run.save_artifact()
    tower = cliptune.get_model(artifact, select_model="clip-text")
    cliptune.encode(tower, ["red summer dress"])        # float32 [1, D]

Everything happens on this machine. `connect(address)` offers the same calls at a train Flow;
with the environment variable CLIPTUNE_SERVER set to its address, the functions here use it.
"""

from cliptune.sdk.data import pull, push
from cliptune.sdk.fitting import fit
from cliptune.sdk.models import (
    TwoTowers,
    build_model,
    describe_models,
    encode,
    find_artifact,
    get_model,
    list_callbacks,
    list_model_options,
    list_models,
)
from cliptune.sdk.runs import (
    create_experiment,
    delete_experiment,
    delete_experiments,
    delete_run,
    delete_runs,
    get_experiment,
    get_run,
    list_experiments,
    list_runs,
)
from cliptune.sdk.server import connect

__all__ = [
    "TwoTowers",
    "build_model",
    "connect",
    "create_experiment",
    "delete_experiment",
    "delete_experiments",
    "delete_run",
    "delete_runs",
    "describe_models",
    "encode",
    "find_artifact",
    "fit",
    "get_experiment",
    "get_model",
    "get_run",
    "list_callbacks",
    "list_experiments",
    "list_model_options",
    "list_models",
    "list_runs",
    "pull",
    "push",
]
