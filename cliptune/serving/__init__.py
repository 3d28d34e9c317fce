"""Serve tuned towers as text-to-image search, and training to others: Flows and their clients.

::

    from cliptune.serving import Client, serve

    with serve("artifacts/brave-otter-3f2a.zip", index="shop-index"):
        client = Client("grpc://localhost:51000")
        client.index(docs)
        for match in client.search("red rain boots", filter="price < 30").matches:
            print(match.score, match.text)
"""

import os
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Before Jina is imported: it would report usage to its makers and print a survey.
os.environ.setdefault("JINA_OPTOUT_TELEMETRY", "1")
os.environ.setdefault("JINA_HIDE_SURVEY", "1")
# Jina imports pkg_resources, which then warns every user of what they can do nothing about.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")

if TYPE_CHECKING:
    from cliptune.client.client import Client
    from cliptune.serving.launch import serve, serve_training
    from cliptune.client.remote import RemoteSession

__all__ = ["Client", "RemoteSession", "serve", "serve_training"]

_ELSEWHERE = {"Client": "client", "RemoteSession": "remote"}


def __getattr__(name: str) -> Any:
    """Load what is asked for (PEP 562): executors import this package and need no client."""
    if name not in __all__:
        raise AttributeError(f"module 'cliptune.serving' has no attribute {name!r}")
    module = import_module(f"cliptune.serving.{_ELSEWHERE.get(name, 'launch')}")
    return getattr(module, name)
