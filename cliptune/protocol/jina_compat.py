"""Where Jina's own parts are changed, each with its reason; all of it may be called again."""

from __future__ import annotations

from functools import wraps
from typing import Any

from cliptune.serving import startup


def agree_on_pings() -> None:
    """Give Jina's channels and servers the gRPC options of `grpc_options`.

    Jina has one list for both ends, with pings every 10 s, and means servers to allow them: but
    the names of those options are wrong (`grpc.http1.…`), so that servers allow one in five
    minutes, and close the gateway's connections to its executors every now and then.

    To be called before a server or a channel is made: modules that define executors or gateways do
    so when they are imported.
    """
    from jina.serve import helper

    from cliptune.protocol.grpc_options import SERVER

    module: Any = helper
    module.get_default_grpc_options = lambda: list(SERVER)


def report_failed_starts() -> None:
    """Have each process of a Flow report why it can't start, see `starting`.

    Jina catches the error and logs it, or with `quiet_error` an empty line; the Flow's process
    learns no more than that one of its children has ended. To be called before they are forked.
    """
    from jina.serve.runtimes.asyncio import AsyncNewLoopRuntime

    setup = AsyncNewLoopRuntime.async_setup
    if hasattr(setup, "__wrapped__"):
        return

    @wraps(setup)
    async def reporting_setup(self: Any) -> None:
        with startup.reporting(str(self.args.name)):
            await setup(self)

    AsyncNewLoopRuntime.async_setup = reporting_setup
