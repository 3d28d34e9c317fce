"""Rounds of queries, each contender in a process of its own, taking turns."""

from __future__ import annotations

import multiprocessing
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
from contenders import CONTENDERS


@dataclass(frozen=True)
class Round:
    """What one round of a contender gave."""

    seconds: np.ndarray
    """Of each query, float64 [Q]."""
    wall: float
    """Seconds from the first query's start to the last one's end."""
    cpu: float
    """Seconds of processor time that the process took for them, on all cores together: unlike the
    rest, it says the same on a machine that others use too."""
    found: list[list[int]]
    """The numbers of the documents, for each query."""


class Worker:
    """A contender's process."""

    def __init__(self, name: str, folder: Path, rows: int) -> None:
        """Start it and wait until the contender is open."""
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(theirs, name, folder, rows), daemon=True
        )
        self._process.start()
        theirs.close()
        self._receive()

    def round(self, queries: np.ndarray, clients: int, only_share: int | None = None) -> Round:
        """Ask all `queries` by so many threads at once."""
        self._ours.send((queries, clients, only_share))
        answer: Round = self._receive()
        return answer

    def resident_mb(self) -> int:
        """The memory of the process, without files that the system merely keeps in its cache."""
        info = psutil.Process(self._process.pid).memory_info()
        return int(info.rss - info.shared) >> 20

    def __enter__(self) -> Self:
        """The worker itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()

    def _receive(self) -> Any:
        answer = self._ours.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def _work(pipe: Connection, name: str, folder: Path, rows: int) -> None:
    try:
        contender = CONTENDERS[name](folder, rows)
        pipe.send(None)
        while True:
            queries, clients, only_share = pipe.recv()
            seconds = np.zeros(len(queries))
            found: list[list[int]] = [[] for _ in queries]

            def ask(
                first: int,
                queries: np.ndarray = queries,
                clients: int = clients,
                only_share: int | None = only_share,
                seconds: np.ndarray = seconds,
                found: list[list[int]] = found,
            ) -> None:
                for number in range(first, len(queries), clients):
                    began = time.perf_counter()
                    found[number] = contender.search(queries[number], only_share)
                    seconds[number] = time.perf_counter() - began

            threads = [threading.Thread(target=ask, args=(n,)) for n in range(clients)]
            began, used = time.perf_counter(), time.process_time()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            wall, cpu = time.perf_counter() - began, time.process_time() - used
            pipe.send(Round(seconds, wall, cpu, found))
    except EOFError:
        pass
    except Exception as error:
        pipe.send(RuntimeError(f"{name}: {error!r}"))
