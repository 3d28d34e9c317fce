"""Token buckets: how fast each key may ask.

The libraries for this count whole requests in windows. Here a request counts as many tokens as it
has documents, may have more than a second's worth, and is told exactly when to come again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

BURST = 5.0
"""Seconds' worth of tokens that a bucket holds: what may be asked at once after a pause."""


@dataclass
class Bucket:
    """Tokens flow in at a rate, up to `BURST` seconds' worth; requests take them out.

    A request that takes more than a full bucket is let through when it is full, and leaves a debt
    that those after it wait for: so no size is refused for ever.
    """

    rate: float
    """Tokens a second."""
    tokens: float = field(init=False)
    since: float = field(init=False)

    def __post_init__(self) -> None:
        """Begin full."""
        self.tokens = self.size
        self.since = time.monotonic()

    @property
    def size(self) -> float:
        """What it holds when full."""
        return max(1.0, self.rate * BURST)

    def wait(self, amount: float, now: float | None = None) -> float:
        """Seconds until `amount` may be taken; 0: now."""
        now = time.monotonic() if now is None else now
        self.tokens = min(self.size, self.tokens + (now - self.since) * self.rate)
        self.since = now
        wait = (min(amount, self.size) - self.tokens) / self.rate
        return wait if wait > 1e-6 else 0.0

    def take(self, amount: float) -> None:
        """Take `amount` tokens, which `wait` has allowed."""
        self.tokens -= amount
