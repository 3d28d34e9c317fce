"""Fine-tune CLIP on your own titles and pictures, and serve it as text-to-image search.

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

Everything happens on this machine. `connect(address)` offers the calls for runs and experiments at
a train Flow; with the environment variable CLIPTUNE_SERVER set to its address, the functions here
use it. Importing this package is quick: everything else is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from cliptune import docarray_compat
from cliptune.version import __version__ as __version__

if TYPE_CHECKING:
    from cliptune import callback as callback
    from cliptune import errors as errors
    from cliptune.client.async_client import AsyncClient as AsyncClient
    from cliptune.client.client import Client as Client
    from cliptune.documents import ClipDoc as ClipDoc
    from cliptune.documents import Match as Match
    from cliptune.documents import QueryDoc as QueryDoc
    from cliptune.documents import QueryPart as QueryPart
    from cliptune.documents import RankDoc as RankDoc
    from cliptune.documents import RankMatch as RankMatch
    from cliptune.documents import SearchResult as SearchResult
    from cliptune.quantization import quantize_embeddings as quantize_embeddings
    from cliptune.runs import Experiment as Experiment
    from cliptune.runs import Run as Run
    from cliptune.sdk.data import mine as mine
    from cliptune.sdk.data import pull as pull
    from cliptune.sdk.data import push as push
    from cliptune.sdk.models import TwoTowers as TwoTowers
    from cliptune.sdk.models import build_model as build_model
    from cliptune.sdk.models import describe_models as describe_models
    from cliptune.sdk.models import encode as encode
    from cliptune.sdk.models import get_model as get_model
    from cliptune.sdk.models import list_callbacks as list_callbacks
    from cliptune.sdk.models import list_model_options as list_model_options
    from cliptune.sdk.models import list_models as list_models
    from cliptune.sdk.session import connect as connect
    from cliptune.sdk.session import create_experiment as create_experiment
    from cliptune.sdk.session import delete_experiment as delete_experiment
    from cliptune.sdk.session import delete_experiments as delete_experiments
    from cliptune.sdk.session import delete_run as delete_run
    from cliptune.sdk.session import delete_runs as delete_runs
    from cliptune.sdk.session import fit as fit
    from cliptune.sdk.session import get_experiment as get_experiment
    from cliptune.sdk.session import get_run as get_run
    from cliptune.sdk.session import list_experiments as list_experiments
    from cliptune.sdk.session import list_runs as list_runs

docarray_compat.mend()
_HOMES = {
    "cliptune.client.async_client": "AsyncClient",
    "cliptune.client.client": "Client",
    "cliptune.documents": "ClipDoc Match QueryDoc QueryPart RankDoc RankMatch SearchResult",
    "cliptune.quantization": "quantize_embeddings",
    "cliptune.runs": "Experiment Run",
    "cliptune.sdk.data": "mine pull push",
    "cliptune.sdk.models": """TwoTowers build_model describe_models encode get_model
        list_callbacks list_model_options list_models""",
    "cliptune.sdk.session": """connect create_experiment delete_experiment delete_experiments
        delete_run delete_runs fit get_experiment get_run list_experiments list_runs""",
}
"""By module: what of it is offered here."""
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}
_MODULES = ["callback", "errors"]
__all__ = sorted([*_MODULES, *_HOME_OF])


def __getattr__(name: str) -> object:
    """Load what is asked for (PEP 562)."""
    if name in _MODULES:
        return import_module(f"cliptune.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'cliptune' has no attribute {name!r}")
    value: object = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What is offered, for completion."""
    return sorted([*globals(), *__all__])
