"""Trying again what others' work made fail, and waiting for what nobody announces."""

from __future__ import annotations

from collections.abc import Callable

from tenacity import (
    Retrying,
    retry_if_result,
    stop_after_delay,
    wait_exponential,
    wait_fixed,
    wait_random,
)

PAUSES = wait_exponential(multiplier=0.02, max=1.0) + wait_random(0, 0.02)
"""Seconds between attempts: 0.02, 0.04, 0.08, … up to 1, and up to 0.02 more by chance, so that
those who got in each other's way do not meet again."""


def wait_until(holds: Callable[[], bool], timeout: float, *, every: float) -> bool:
    """Ask whether it `holds` until it does, every so many seconds.

    Returns: whether it did within `timeout` seconds; with 0 it is asked once.
    """
    waiting = Retrying(
        retry=retry_if_result(lambda held: not held),
        wait=wait_fixed(every),
        stop=stop_after_delay(timeout),
        retry_error_callback=lambda last: False,
    )
    return waiting(holds)
