"""Ports for the servers of tests: each is given once, and none is one that clients are given."""

from __future__ import annotations

import itertools
import os
import random
import socket
import sys

# Below the ports that the system gives to outgoing connections (32768 on Linux): one of those
# could take a port between its choice and its server's start. Each process of the tests has its
# own thousand, on each version of Python.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw9").removeprefix("gw"))
_SIZE = 1000
_FIRST = 20_000 + _SIZE * ((_WORKER + 4 * sys.version_info.minor) % 12)
_START = random.randrange(_SIZE)
_places = itertools.count(_START)


def free_ports(count: int) -> list[int]:
    """`count` ports that nobody listens at."""
    found: list[int] = []
    while len(found) < count:
        port = _FIRST + next(_places) % _SIZE
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    return found


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]
