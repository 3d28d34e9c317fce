"""Where Jina's own parts are changed, each with its reason; all of it may be called again."""

from __future__ import annotations

from typing import Any


def agree_on_pings() -> None:
    """Give Jina's channels and servers the gRPC options of `grpc_options`.

    Jina has one list for both ends, with pings every 10 s, and means servers to allow them: but
    the names of those options are wrong (`grpc.http1.…`), so that servers allow one in five
    minutes, and close the gateway's connections to its executors every now and then.

    To be called before a server or a channel is made: modules that define executors or gateways do
    so when they are imported.
    """
    from jina.serve import helper

    from cliptune.serving.grpc_options import SERVER

    module: Any = helper
    module.get_default_grpc_options = lambda: list(SERVER)
