"""Asking many queries by several threads at once, and what that took.

It needs NumPy alone: stores that are compared run in environments of their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Round:
    """What one round of queries gave."""

    seconds: np.ndarray
    """Of each query, float64 [Q]."""
    wall: float
    """Seconds from the first query's start to the last one's end."""
    cpu: float
    """Seconds of processor time that the process took for them, on all cores together: unlike the
    rest, it says the same on a machine that others use too."""
    found: list[list[int]]
    """The numbers of the documents, for each query."""


def ask(search: Callable[[np.ndarray], list[int]], queries: np.ndarray, clients: int) -> Round:
    """Have `search` find each of `queries` [Q, D], by so many threads."""
    seconds = np.zeros(len(queries))
    found: list[list[int]] = [[] for _ in queries]

    def work(first: int) -> None:
        for number in range(first, len(queries), clients):
            began = time.perf_counter()
            found[number] = search(queries[number])
            seconds[number] = time.perf_counter() - began

    threads = [threading.Thread(target=work, args=(n,)) for n in range(clients)]
    began, used = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Round(seconds, time.perf_counter() - began, time.process_time() - used, found)
