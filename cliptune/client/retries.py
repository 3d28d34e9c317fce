"""What is tried again, how often, and with which pauses: one rule for all of the client."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    stop_any,
)

from cliptune.errors import Overloaded, Unavailable

R = TypeVar("R")
_PASSING = retry_if_exception_type((Unavailable, Overloaded))


@dataclass(frozen=True)
class Retries:
    """A server that can't be reached, or has too much to do, is asked again.

    The pauses double, and are spread by chance between a half and all of that; an overloaded server
    that says after which time to ask (`Overloaded.retry_after`) is given that time on top.
    """

    times: int
    """How often, after the first time."""
    within: float = math.inf
    """Seconds after the first time, from which on it isn't asked again."""
    first_pause: float = 0.2
    longest_pause: float = 5.0
    """Seconds; also the longest that `retry_after` is heeded."""

    def call(self, attempt: Callable[[], R]) -> R:
        """The result of `attempt`, or the error of the last one."""
        stop = stop_any(stop_after_attempt(self.times + 1), stop_after_delay(self.within))
        return Retrying(retry=_PASSING, stop=stop, wait=self._pause, reraise=True)(attempt)

    async def acall(self, attempt: Callable[[], Awaitable[R]]) -> R:
        """As `call`, of a coroutine function."""
        stop = stop_any(stop_after_attempt(self.times + 1), stop_after_delay(self.within))
        return await AsyncRetrying(retry=_PASSING, stop=stop, wait=self._pause, reraise=True)(
            attempt
        )

    def _pause(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, Overloaded) else 0.0
        longest = min(self.longest_pause, self.first_pause * 2 ** (state.attempt_number - 1))
        return min(self.longest_pause, asked) + random.uniform(longest / 2, longest)
