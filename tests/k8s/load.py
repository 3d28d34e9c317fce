"""Clients that ask again and again, and count what is not answered."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Tally:
    """What clients were answered."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)
    """When a failure came, and when the next answer, by the monotonic clock."""
    slowest: float = 0.0
    repeated: int = 0
    """Requests that were made once more, as the server had closed the connection."""


class Load:
    """`with Load("search", "/encode", body):` asks over connections that are kept open.

    A failure is anything but status 200: a refused or broken connection, too. Only where the
    server had closed an idle connection before a request could reach it, it is made once more on
    a new one, as every HTTP client does.
    """

    def __init__(
        self,
        host: str,
        path: str,
        body: dict[str, Any],
        clients: int = 4,
        pause: float = 0.1,
        key: str | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        """Take what to ask.

        Args:
            host: the Service.
            path: the endpoint.
            body: of each request; NUMBER in it becomes another one each time.
            clients: how many ask at once.
            pause: seconds for which each waits after an answer.
            key: an API key.
            trust: which certificates are trusted, for TLS; None: without TLS.
        """
        self.pause = pause
        self.host, self.path, self.body, self.trust = host, path, body, trust
        self.headers = {"Content-Type": "application/json"}
        if key:
            self.headers["Authorization"] = f"Bearer {key}"
        self.tally = Tally()
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(clients)]

    def __enter__(self) -> Tally:
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self.tally

    def __exit__(self, *_: object) -> None:
        """End, once the last requests are answered."""
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, client: int) -> None:
        number = 0
        connection = self._connect()
        failed_at: float | None = None
        while not self._ending.is_set():
            number += 1
            # Another text each time: encoders remember.
            text = json.dumps(self.body).replace("NUMBER", f"{client} {number}")
            began = time.monotonic()
            try:
                self._once(connection, text)
            except Exception as error:
                connection.close()
                connection = self._connect()
                with self._lock:
                    self.tally.failures.append(f"{type(error).__name__}: {error}")
                failed_at = failed_at or began
                time.sleep(0.05)
                continue
            with self._lock:
                self.tally.answered += 1
                self.tally.slowest = max(self.tally.slowest, time.monotonic() - began)
                if failed_at is not None:
                    self.tally.gaps.append((failed_at, time.monotonic()))
            failed_at = None
            self._ending.wait(self.pause)
        connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        if self.trust:
            return http.client.HTTPSConnection(self.host, 51001, timeout=60, context=self.trust)
        return http.client.HTTPConnection(self.host, 51001, timeout=60)

    def _once(self, connection: http.client.HTTPConnection, text: str) -> None:
        try:
            connection.request("POST", self.path, text, self.headers)
            response = connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            with self._lock:
                self.tally.repeated += 1
            connection.close()
            connection.request("POST", self.path, text, self.headers)
            response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status} {answer[:300].decode(errors='replace')}")
