"""The id of the request that is being worked on: accepted from clients, returned, and logged.

It travels from the gateway to the executors as a parameter, `PARAMETER`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

HEADER = "x-request-id"
"""The HTTP header and the gRPC metadata."""
PARAMETER = "_request_id"

current: ContextVar[str] = ContextVar("request_id", default="")
"""The id; empty where no request is being worked on."""

_ACCEPTED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}", re.ASCII)


def accept(given: str | bytes | None) -> str:
    """A client's id, if it is fit for a header and a log; a new one otherwise."""
    text = given.decode("latin-1") if isinstance(given, bytes) else given or ""
    return text if _ACCEPTED.fullmatch(text) else uuid.uuid4().hex


class RequestThreads(ThreadPoolExecutor):
    """Threads that know which request they work for, and in which span of its trace."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As `ThreadPoolExecutor.submit`, in a copy of the caller's context."""
        context = copy_context()
        return super().submit(lambda: context.run(fn, *args, **kwargs))
