"""Pictures by URI, where the operator allows it: from listed places alone, and from nowhere inside.

A service that fetches what a client names can be sent to where the client can't go: to a cloud's
metadata address, to a database in the same network, to a file of the server. So:

- nothing is fetched unless it lies below a prefix in `CLIPTUNE_ALLOW_URIS`;
- a name is resolved once, and the connection goes to the address that was checked: never to a
  private, loopback or link-local one, unless its network is in `CLIPTUNE_ALLOW_NETWORKS`;
- redirects are checked like the first address;
- a file must lie below its prefix once all links are followed;
- size, time and number at once are bounded.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as LateError
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import SplitResult, unquote, urljoin

from cliptune.data.pictures.download import AT_ONCE, CHUNK, MAX_REDIRECTS
from cliptune.errors import BadImage
from cliptune.executors.uris import (
    ALLOW_URIS,
    Prefix,
    port_of,
    read_prefixes,
    split,
)
from cliptune.settings import Settings

# Addresses inside which others are wrapped: NAT64, 6to4, Teredo.
_WRAPPING = [ipaddress.ip_network(n) for n in ("64:ff9b::/96", "2002::/16", "2001::/32")]


class Fetcher:
    """Reads pictures below allowed prefixes, several at once."""

    def __init__(self, prefixes: list[Prefix], settings: Settings) -> None:
        """Take what is allowed, and the settings that bound it; threads start when needed."""
        self.prefixes = prefixes
        self.networks, self.seconds = settings.allow_networks, settings.fetch_seconds
        self.most, self.most_together = settings.fetch_bytes, settings.max_body
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="cliptune-fetch")

    @classmethod
    def allowed_by(cls, settings: Settings) -> Fetcher | None:
        """As the settings allow; None: nothing is read.

        Raises:
            BadInput: a variable is wrong.
        """
        prefixes = read_prefixes(settings.allow_uris)
        return cls(prefixes, settings) if prefixes else None

    def read_all(self, uris: list[str]) -> list[bytes | BadImage]:
        """The bytes of each URI, or why there are none, in order."""
        budget = Budget(self.most_together)  # as if they had been sent
        begun = [self._threads.submit(self._read, uri, budget) for uri in uris]
        # Those that wait for a thread have as long again for each full round before them.
        rounds = 1 + len(uris) // AT_ONCE
        deadline = time.monotonic() + self.seconds * rounds + 1
        return [self._result(one, uri, deadline) for one, uri in zip(begun, uris, strict=True)]

    def read(self, uri: str) -> bytes:
        """The bytes of one URI.

        Raises:
            BadImage: it is not allowed, is not there, is too large or takes too long.
        """
        data = self.read_all([uri])[0]
        if isinstance(data, BadImage):
            raise data
        return data

    def covers(self, uri: str) -> bool:
        """Whether `uri` lies below an allowed prefix."""
        try:
            return self._is_allowed(split(uri))
        except BadImage:
            return False

    def _is_allowed(self, parts: SplitResult) -> bool:
        return any(prefix.covers(parts) for prefix in self.prefixes)

    def _read(self, uri: str, budget: Budget) -> bytes:
        if budget.spent:
            raise BadImage(f"uri {uri[:200]!r} is not read: {budget.spent}")
        deadline = time.monotonic() + self.seconds
        for _ in range(MAX_REDIRECTS + 1):
            parts = split(uri)
            if not self._is_allowed(parts):
                raise BadImage(f"uri {uri[:200]!r} is not below what {ALLOW_URIS} allows")
            if parts.scheme == "file":
                return self._read_file(parts, budget)
            answer = self._get(parts, deadline, budget)
            if isinstance(answer, bytes):
                return answer
            uri = urljoin(uri, answer)
        raise BadImage(f"uri {uri[:200]!r}: more than {MAX_REDIRECTS} redirects")

    def _read_file(self, uri: SplitResult, budget: Budget) -> bytes:
        shown = uri.path[:200]
        try:
            path = Path(unquote(uri.path)).resolve(strict=True)
            self._check_file(path, shown)
            # O_NONBLOCK: a pipe would keep us waiting.
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(handle, "rb") as file:
                # What was opened, not what the name says now: links may change in between.
                self._check_file(Path(os.path.realpath(f"/proc/self/fd/{handle}")), shown)
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise BadImage(f"file {shown!r} is not a regular file")
                deadline = time.monotonic() + self.seconds
                return self._read_bounded(file, budget, shown, deadline)
        except (OSError, ValueError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or "not a file name"
            raise BadImage(f"file {shown!r}: {reason}") from None

    def _check_file(self, path: Path, shown: str) -> None:
        folders = [Path(p.path).resolve() for p in self.prefixes if p.scheme == "file"]
        if not any(path.is_relative_to(folder) for folder in folders):
            raise BadImage(f"file {shown!r} leads out of what {ALLOW_URIS} allows")

    def _get(self, uri: SplitResult, deadline: float, budget: Budget) -> bytes | str:
        """The body, or where the answer redirects to."""
        import urllib3

        shown = uri.geturl()[:200]
        error: Exception | None = None
        for address in self._addresses(uri):
            try:
                with _connect(uri, address, deadline) as pool:
                    return self._exchange(pool, uri, deadline, budget)
            except (urllib3.exceptions.HTTPError, OSError) as raised:
                error = raised
        raise BadImage(f"uri {shown!r} can't be read: {type(error).__name__}")

    def _addresses(self, uri: SplitResult) -> list[str]:
        """The addresses of a host, all of them allowed."""
        host = uri.hostname or ""
        try:
            entries = socket.getaddrinfo(host, port_of(uri), type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise BadImage(f"uri {uri.geturl()[:200]!r}: no such host") from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
        if refused := [address for address in addresses if not self.allows(address)]:
            raise BadImage(
                f"uri {uri.geturl()[:200]!r}: {host[:100]} is at {refused[0]}, which is not a "
                "public address"
            )
        return addresses[:4]

    def allows(self, address: str) -> bool:
        """Whether a connection may go to this IP address."""
        ip = ipaddress.ip_address(address.split("%")[0])
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        if any(ip in network for network in self.networks):
            return True
        wrapped = any(ip in network for network in _WRAPPING)
        return ip.is_global and not ip.is_multicast and not wrapped

    def _exchange(
        self, pool: _Pool, uri: SplitResult, deadline: float, budget: Budget
    ) -> bytes | str:
        target = (uri.path or "/") + (f"?{uri.query}" if uri.query else "")
        shown = uri.geturl()[:200]
        headers = {"Host": uri.netloc, "Accept": "image/*", "Accept-Encoding": "identity"}
        response = pool.request(
            "GET",
            target,
            headers=headers,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )
        try:
            if response.status in (301, 302, 303, 307, 308) and response.headers.get("location"):
                return str(response.headers["location"])
            if response.status != 200:
                raise BadImage(f"uri {shown!r}: the server answered {response.status}")
            return self._read_bounded(response, budget, shown, deadline)
        finally:
            response.close()

    def _read_bounded(self, file: _Readable, budget: Budget, shown: str, deadline: float) -> bytes:
        parts = []
        size = 0
        while part := file.read(CHUNK):
            size += len(part)
            if size > self.most:
                raise BadImage(f"{shown!r} has more than {self.most} bytes, the limit")
            if time.monotonic() > deadline:
                raise BadImage(f"{shown!r} did not arrive within {self.seconds} s")
            budget.take(len(part))
            parts.append(part)
        return b"".join(parts)

    def _result(self, begun: Future[bytes], uri: str, deadline: float) -> bytes | BadImage:
        try:
            return begun.result(max(0.0, deadline - time.monotonic()))
        except LateError:
            begun.cancel()
            return BadImage(f"uri {uri[:200]!r} did not arrive within {self.seconds} s")
        except BadImage as error:
            return error


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Answer(_Readable, Protocol):
    status: int
    headers: Mapping[str, str]

    def close(self) -> None: ...


class _Pool(Protocol):
    """What is used of urllib3's connections, which have no types."""

    def request(self, method: str, url: str, **options: object) -> _Answer: ...


class Budget:
    """The bytes that the pictures of one request may have together."""

    def __init__(self, size: int) -> None:
        """Take how many there are."""
        self.size = self.left = size
        self.spent = ""
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Take some.

        Raises:
            BadImage: there are none left.
        """
        with self._lock:
            self.left -= size
            if self.left < 0:
                self.spent = f"the request's pictures have more than {self.size} bytes together"
                raise BadImage(self.spent)


def _connect(uri: SplitResult, address: str, deadline: float) -> AbstractContextManager[_Pool]:
    import certifi
    import urllib3

    left = max(0.1, deadline - time.monotonic())
    options: dict[str, Any] = {
        "port": port_of(uri),
        "timeout": urllib3.Timeout(connect=left, read=left),
        "retries": False,
        "maxsize": 1,
    }
    if uri.scheme == "http":
        return urllib3.HTTPConnectionPool(address, **options)
    return urllib3.HTTPSConnectionPool(
        address,
        **options,
        cert_reqs="CERT_REQUIRED",
        ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        server_hostname=uri.hostname,
        assert_hostname=uri.hostname,
    )
