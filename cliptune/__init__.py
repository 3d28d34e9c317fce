"""Fine-tune CLIP on your own titles and pictures, and serve it as text-to-image search.

`cliptune.sdk` has the functions that are offered here; importing this package is quick, since
everything else is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cliptune.version import __version__ as __version__

if TYPE_CHECKING:
    from cliptune import callback, errors
    from cliptune.client.async_client import AsyncClient
    from cliptune.client.client import Client
    from cliptune.documents import ClipDoc, Match, RankDoc, RankMatch, SearchResult
    from cliptune.runs import Experiment, Run
    from cliptune.sdk import (
        TwoTowers,
        build_model,
        connect,
        create_experiment,
        delete_experiment,
        delete_experiments,
        delete_run,
        delete_runs,
        describe_models,
        encode,
        fit,
        get_experiment,
        get_model,
        get_run,
        list_callbacks,
        list_experiments,
        list_model_options,
        list_models,
        list_runs,
        pull,
        push,
    )

__all__ = [
    "AsyncClient",
    "Client",
    "ClipDoc",
    "Experiment",
    "Match",
    "RankDoc",
    "RankMatch",
    "Run",
    "SearchResult",
    "TwoTowers",
    "build_model",
    "callback",
    "connect",
    "create_experiment",
    "delete_experiment",
    "delete_experiments",
    "delete_run",
    "delete_runs",
    "describe_models",
    "encode",
    "errors",
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

_MODULES = {"callback", "errors"}
_ELSEWHERE = {
    "AsyncClient": "cliptune.client.async_client",
    "Client": "cliptune.client.client",
    "ClipDoc": "cliptune.documents",
    "Match": "cliptune.documents",
    "RankDoc": "cliptune.documents",
    "RankMatch": "cliptune.documents",
    "SearchResult": "cliptune.documents",
    "Experiment": "cliptune.runs",
    "Run": "cliptune.runs",
}


def __getattr__(name: str) -> Any:
    """Load what is asked for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'cliptune' has no attribute {name!r}")
    if name in _MODULES:
        return import_module(f"cliptune.{name}")
    value = getattr(import_module(_ELSEWHERE.get(name, "cliptune.sdk")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What is offered, for completion."""
    return sorted([*globals(), *__all__])
