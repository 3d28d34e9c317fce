"""Processes that begin with what they need imported, forked from a server of their own."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

import pytest


@contextmanager
def fork_server(*modules: str) -> Iterator[ForkServerContext]:
    """multiprocessing's forkserver with these modules imported, and ended afterwards.

    A process has but one: where another test's was left, its processes would import all anew.
    """
    context = multiprocessing.get_context("forkserver")
    with pytest.MonkeyPatch.context() as patch:
        # Python 3.11's server has not our `sys.path`, and is silent where it can't find a module.
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        _stop()
        context.set_forkserver_preload(list(modules))
        forkserver.ensure_running()
    try:
        yield context
    finally:
        _stop()


def _stop() -> None:
    forkserver._forkserver._stop()
