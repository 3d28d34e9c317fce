"""Locust's side: searches at a stated rate, over HTTP and gRPC alike, and what became of them.

    python -m benchmarks.load.users http://127.0.0.1:51001 grpc://127.0.0.1:51000 40 600 0

Asks 40 times a second for 600 seconds, or (0: no limit) until a number of requests is answered, and
prints one JSON object: by protocol and status how many, and the milliseconds of the accepted ones.
Each text is another, so that no embedding is remembered. Nothing is tried again.

It is a process of its own, since gevent changes the standard library, in the environment that
`scripts/install-peers load` makes: Locust's urllib3 is newer than Jina admits.
"""

from __future__ import annotations

# isort: off
from locust import FastHttpUser, User, events, task  # patches first of all
from locust.env import Environment
# isort: on

import itertools
import json
import random
import sys
import time
from collections import Counter
from typing import Any

import gevent
import grpc.experimental.gevent

from cliptune.errors import CliptuneError, Overloaded
from cliptune.serving import Client

EACH = 0.2
"""Requests a second of one user: up to five seconds an answer doesn't hold the next request up."""
LIMIT = 10
_COLOURS = ("red", "blue", "green", "black", "white", "striped", "flowered", "checked")
_THINGS = ("dress", "shirt", "boots", "hat", "coat", "scarf", "bag", "jumper")
_numbers = itertools.count()


def next_text() -> str:
    """A query that nobody has asked."""
    number = next(_numbers)
    colour, thing = _COLOURS[number % 8], _THINGS[number // 8 % 8]
    return f"{colour} {thing} {number}"


class AtRandom:
    """Asks `EACH` times a second on average, at random, as independent people do (Poisson)."""

    def on_start(self) -> None:
        """Wait for the first moment."""
        self.due = time.monotonic()
        gevent.sleep(self.wait_time())

    def wait_time(self) -> float:
        """Seconds until the next moment, which doesn't depend on when the last answer came."""
        self.due += random.expovariate(EACH)
        return max(0.0, self.due - time.monotonic())


class HttpSearch(AtRandom, FastHttpUser):
    """POST /search."""

    @task
    def search(self) -> None:
        """Ask for the best ten."""
        body = {"data": [{"text": next_text()}], "parameters": {"limit": LIMIT}}
        self.client.post("/search", json=body, name="http")


class GrpcSearch(AtRandom, User):
    """The client over one gRPC channel."""

    shared: Client

    @task
    def search(self) -> None:
        """Ask for the best ten."""
        started, error = time.perf_counter(), None
        try:
            self.shared.search(next_text(), limit=LIMIT)
        except CliptuneError as failed:
            error = failed
        milliseconds = (time.perf_counter() - started) * 1e3
        self.environment.events.request.fire(
            request_type="grpc", name="grpc", response_time=milliseconds, response_length=0,
            exception=error,
        )  # fmt: skip


class Answers:
    """What was answered."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.counts: Counter[str] = Counter()
        self.milliseconds: list[float] = []

    def note(
        self, *, name: str, response_time: float, exception: Exception | None, **more: Any
    ) -> None:
        """One of Locust's `request` events."""
        status = "accepted"
        if name == "http" and exception is not None:
            code = getattr(more.get("response"), "status_code", 0)
            status = "refused" if code == 429 else f"failed ({code or exception})"
        elif exception is not None:
            is_refused = isinstance(exception, Overloaded)
            status = "refused" if is_refused else f"failed ({exception})"
        self.counts[f"{name} {status}"] += 1
        if status == "accepted":
            self.milliseconds.append(round(response_time, 1))


def main(http: str, address: str, rate: float, seconds: float, requests: int) -> None:
    """Ask, and print what became of it."""
    grpc.experimental.gevent.init_gevent()
    HttpSearch.host = http
    answers = Answers()
    environment = Environment(user_classes=[HttpSearch, GrpcSearch], events=events)
    environment.events.request.add_listener(answers.note)
    runner = environment.create_local_runner()
    started = time.monotonic()
    with Client(address, retries=0) as GrpcSearch.shared:
        users = max(2, round(rate / EACH))
        runner.start(users, spawn_rate=min(100, users))
        while time.monotonic() < started + seconds:
            gevent.sleep(0.2)
            if requests and answers.counts.total() >= requests:
                break
        took = time.monotonic() - started
        runner.quit()
    told = {"seconds": took, "counts": answers.counts, "milliseconds": answers.milliseconds}
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
