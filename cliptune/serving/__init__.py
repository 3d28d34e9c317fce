"""Serve tuned towers as text-to-image search, and training to others: Flows and their clients.

::

    from cliptune.serving import Client, serve

    with serve("artifacts/brave-otter-3f2a.zip", index="shop-index"):
        client = Client("grpc://localhost:51000")
        client.index(docs)
        for match in client.search("red rain boots", filter="price < 30").matches:
            print(match.score, match.text)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cliptune.client.async_client import AsyncClient
    from cliptune.client.client import Client
    from cliptune.client.remote import RemoteSession
    from cliptune.serving.launch import serve, serve_training

__all__ = ["AsyncClient", "Client", "RemoteSession", "serve", "serve_training"]

_MODULES = {
    "AsyncClient": "cliptune.client.async_client",
    "Client": "cliptune.client.client",
    "RemoteSession": "cliptune.client.remote",
    "serve": "cliptune.serving.launch",
    "serve_training": "cliptune.serving.launch",
}


def __getattr__(name: str) -> object:
    """Load what is asked for (PEP 562): executors import this package and need no client."""
    if name not in _MODULES:
        raise AttributeError(f"module 'cliptune.serving' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
