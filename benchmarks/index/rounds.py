"""Rounds of queries, each contender in a process of its own, taking turns."""

from __future__ import annotations

import multiprocessing
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
from asking import Round, ask
from contenders import CONTENDERS


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
            search = partial(contender.search, only_share=only_share)
            pipe.send(ask(search, queries, clients))
    except EOFError:
        pass
    except Exception as error:
        pipe.send(RuntimeError(f"{name}: {error!r}"))
