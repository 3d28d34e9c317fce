"""Waiting for what comes about by itself: never for a time that is guessed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

import requests

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T], seconds: float = 60, told: Callable[[], object] = lambda: ""
) -> T:
    """What `condition` returns once that is true; after `seconds` the test fails with `told()`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"it did not happen within {seconds:g} s {told()}"
        time.sleep(0.002)
    return value


def wait_until_ready(
    address: str,
    process: subprocess.Popen[str] | subprocess.Popen[bytes] | None = None,
    seconds: float = 180,
) -> None:
    """Until the HTTP server there says that it is ready, and while its process is there."""

    def ready() -> bool:
        assert process is None or process.poll() is None, "the server has ended"
        try:
            return requests.get(f"{address}/readyz", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    wait_until(ready, seconds)
