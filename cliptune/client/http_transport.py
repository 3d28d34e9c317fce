"""Over HTTP: JSON bodies, on a pool of connections for threads and one for each event loop."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from typing import TypeVar

import httpx
import orjson

from cliptune.client.messages import Call
from cliptune.client.transport import Transport, bearer, read_ca, split_address
from cliptune.errors import BadInput, CliptuneError, Unavailable
from cliptune.protocol import wire_errors

R = TypeVar("R")


class HttpTransport(Transport):
    """JSON bodies, over a pool of connections for threads and one for each event loop."""

    def __init__(
        self, address: str, timeout: float, api_key: str | None = None, ca_file: str | None = None
    ) -> None:
        """Take `http://host:port` (or `https://`); connects with the first call.

        The rest as `GrpcTransport`.
        """
        split_address(address)
        super().__init__(address.rstrip("/"), timeout)
        self._headers = {
            "Content-Type": "application/json",
            **bearer(api_key, "Authorization"),
        }
        ca = read_ca(ca_file) if address.startswith("https://") else None
        self._tls = None if ca is None else _trusting(ca)
        self._pool: httpx.Client | None = None
        self._loops: dict[
            asyncio.AbstractEventLoop, tuple[httpx.AsyncClient, AsyncGenerator[None, None]]
        ] = {}

    def __del__(self) -> None:
        """Close the threads' connections of a client that nobody has closed."""
        if (pool := getattr(self, "_pool", None)) is not None:
            pool.close()

    def close(self) -> None:
        """Close the connections; those of other loops as soon as these come to it."""
        with self._guard:
            self._closed = True
            pool, self._pool = self._pool, None
            loops, self._loops = self._loops, {}
        if pool is not None:
            pool.close()
        for loop, (_, closing) in loops.items():
            if loop.is_running():
                asyncio.run_coroutine_threadsafe(closing.aclose(), loop)

    async def aclose(self) -> None:
        """As `close`."""
        with self._guard:
            _, own = self._loops.pop(asyncio.get_running_loop(), (None, None))
        self.close()
        if own is not None:
            await own.aclose()

    def forked(self) -> None:
        """Forget the parent's connections. Its loops don't run here, and keep theirs."""
        super().forked()
        self._pool = None

    def touch(self) -> None:
        """Nothing is to be done, see `GrpcTransport.touch`."""

    async def atouch(self) -> None:
        """Nothing is to be done."""

    def ask(self, call: Call[R]) -> R:
        """See `Transport.ask`."""
        url, raw = self._written(call)
        try:
            response = self._connected().post(url, content=raw)
        except (httpx.HTTPError, httpx.InvalidURL, RuntimeError) as error:
            raise self._error(error) from None
        return self._read(call, response)

    async def aask(self, call: Call[R]) -> R:
        """See `Transport.aask`."""
        self.check_open()
        url, raw = await asyncio.to_thread(self._written, call)
        pool = await self._of_loop()
        try:
            response = await pool.post(url, content=raw)
        except (httpx.HTTPError, httpx.InvalidURL, RuntimeError) as error:
            raise await asyncio.to_thread(self._error, error) from None
        return await asyncio.to_thread(self._read, call, response)

    def _written(self, call: Call[object]) -> tuple[str, bytes]:
        path, body = call.json()
        try:
            return self.address + path, orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        except TypeError as error:
            raise BadInput(f"not fit for JSON: {error}") from None

    def _read(self, call: Call[R], response: httpx.Response) -> R:
        try:
            body: object = orjson.loads(response.content)
        except ValueError:
            body = None
        if response.status_code >= 400 and body is not None:
            raise wire_errors.from_json(body.get("error") if isinstance(body, dict) else None)
        if not isinstance(body, dict):
            raise Unavailable(
                f"{response.request.url} answered {response.status_code} without JSON"
            )
        return call.read_json(body)

    def _error(self, error: Exception) -> CliptuneError:
        if self._closed:
            return self._is_closed()
        if isinstance(error, httpx.TimeoutException):
            return self._late()
        if isinstance(error, RuntimeError):
            raise error
        return self._unreachable(str(error))

    def _connected(self) -> httpx.Client:
        with self._guard:
            self.check_open()
            if self._pool is None:
                self._pool = httpx.Client(
                    headers=self._headers,
                    timeout=self.timeout,
                    verify=self._trusted(),
                    follow_redirects=True,
                )
            return self._pool

    async def _of_loop(self) -> httpx.AsyncClient:
        """The pool of the running loop."""
        loop = asyncio.get_running_loop()
        with self._guard:
            self.check_open()
            if loop in self._loops:
                return self._loops[loop][0]
            pool = httpx.AsyncClient(
                headers=self._headers,
                timeout=self.timeout,
                verify=self._trusted(),
                follow_redirects=True,
            )
            closing = _closing(pool)
            of_others = {one: held for one, held in self._loops.items() if not one.is_closed()}
            self._loops = {**of_others, loop: (pool, closing)}
        await anext(closing)
        return pool

    def _trusted(self) -> ssl.SSLContext:
        """What a server's certificate must be signed by; made once, since reading it takes time."""
        if self._tls is None:
            self._tls = httpx.create_ssl_context()
        return self._tls


def _trusting(ca: bytes) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=ca.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise BadInput(f"ca_file holds no certificates (PEM): {error}") from None


async def _closing(pool: httpx.AsyncClient) -> AsyncGenerator[None, None]:
    """Begun on a loop, it closes `pool` when that loop ends: `asyncio.run` ends all generators.

    So no connection outlives its loop where nobody closes the client in it.
    """
    try:
        yield
    finally:
        await pool.aclose()
