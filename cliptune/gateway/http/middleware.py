"""What HTTP clients and the proxies before a server expect, whatever the application.

- A proxy that the operator trusts says whom it asks for, and by which address it was asked.
- The service may live below a path, which a proxy takes off or leaves on.
- `HEAD` is answered wherever `GET` is, and a slash at a path's end changes nothing.
- Bodies may come compressed, within the limits of their decompressed size; large answers in JSON
  go out compressed to those who ask for it.
"""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import re
import zlib

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cliptune.errors import BadJson, CliptuneError, UnsupportedCoding
from cliptune.gateway.http.errors import error_response
from cliptune.protocol import redaction
from cliptune.protocol.endpoints import PICTURES
from cliptune.settings import Settings

CODINGS = ("gzip", "deflate")
"""Of requests' bodies."""
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*/?")
_PIECE = 1 << 20
"""Bytes that are decompressed at once."""
_COMPRESSIBLE = ("application/json", "text/")
_WORTH_IT = 2048
"""Bytes of an answer from which on it is compressed."""


class EdgeMiddleware:
    """ASGI middleware around all others: see the module."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        """Take the application, and the settings: its path, and the proxies that are trusted."""
        self.app = app
        self.root_path, self.proxies = settings.root_path, settings.trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        scope = {**scope, "headers": list(scope["headers"])}
        prefix = self._follow_proxy(scope) or self.root_path
        redaction.PREFIX.set(prefix)
        if scope["path"] == prefix and prefix and scope["type"] == "http":
            await _redirect(f"{prefix}/", send)  # the page's own addresses are relative to it
            return
        scope["path"] = _inner_path(scope["path"], prefix)
        if scope["type"] == "websocket":
            await self.app(scope, receive, send)
            return
        try:
            receive = _decompressed(scope, receive)
        except CliptuneError as error:
            response = error_response(error, scope["path"])
            response.headers["Accept-Encoding"] = ", ".join(CODINGS)
            await response(scope, receive, send)
            return
        send = _compressing(scope, send)
        if scope["method"] == "HEAD":
            await self._head(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _follow_proxy(self, scope: Scope) -> str:
        """Take over what a trusted proxy says; returns the path prefix that it gives."""
        if not self._trusts((scope.get("client") or ("",))[0]):
            return ""
        headers = MutableHeaders(scope=scope)
        chain = [a.strip() for h in headers.getlist("x-forwarded-for") for a in h.split(",")]
        # From the right: what stands left of the first one that isn't ours, anybody may have sent.
        while chain:
            address = _address(chain.pop())
            if address is None:
                break
            scope["client"] = (address, 0)
            if not self._trusts(address):
                break
        scheme = _last(headers, "x-forwarded-proto").lower()
        if scheme in ("http", "https", "ws", "wss"):
            secure = scheme in ("https", "wss")
            plain = "ws" if scope["type"] == "websocket" else "http"
            scope["scheme"] = plain + "s" * secure
        if _HOST.fullmatch(host := _last(headers, "x-forwarded-host")):
            headers["host"] = host
        prefix = _last(headers, "x-forwarded-prefix")
        return prefix.rstrip("/") if _PREFIX.fullmatch(prefix) and ".." not in prefix else ""

    def _trusts(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        return any(ip in network for network in self.proxies)

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As `GET`, without the body; a stream isn't read any further than to its beginning."""
        is_ended, answered = False, asyncio.Event()

        async def headers_alone(message: Message) -> None:
            nonlocal is_ended
            if is_ended:
                return
            if message["type"] == "http.response.body":
                is_ended = True
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                answered.set()  # only now: what waits for it cancels this
            else:
                await send(message)

        work = asyncio.ensure_future(self.app({**scope, "method": "GET"}, receive, headers_alone))
        first = asyncio.ensure_future(answered.wait())
        try:
            await asyncio.wait((work, first), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            first.cancel()
            work.cancel()


def _inner_path(path: str, prefix: str) -> str:
    """The path as the application has it: without the prefix, and without a slash at its end."""
    if prefix and path.startswith(f"{prefix}/"):
        path = path.removeprefix(prefix)
    if path.endswith("/") and not path.startswith(PICTURES):  # ids may end with one
        path = path.rstrip("/") or "/"
    return path


async def _redirect(place: str, send: Send) -> None:
    headers = [(b"location", place.encode("latin-1")), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 308, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _last(headers: Headers, name: str) -> str:
    """The value that the nearest proxy gave."""
    values = headers.getlist(name)
    return values[-1].rpartition(",")[2].strip() if values else ""


def _address(text: str) -> str | None:
    """An IP address, which may come with a port and in brackets."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _decompressed(scope: Scope, receive: Receive) -> Receive:
    """What gives a request's body as it was before it was compressed.

    Raises:
        UnsupportedCoding: it is compressed in another way than `CODINGS`.
    """
    headers = MutableHeaders(scope=scope)
    coding = ", ".join(headers.getlist("content-encoding")).strip().lower()
    if coding in ("", "identity"):
        return receive
    if coding.removeprefix("x-") not in CODINGS:
        raise UnsupportedCoding(
            f"Content-Encoding is {coding[:100]!r}: use {' or '.join(CODINGS)}, or none"
        )
    del headers["content-encoding"]
    if "content-length" in headers:
        del headers["content-length"]
        headers["transfer-encoding"] = "chunked"  # there is a body, of unknown length
    return _Decompressed(coding.removeprefix("x-"), receive)


class _Decompressed:
    """A `receive` that decompresses the body, at most `_PIECE` bytes at once."""

    def __init__(self, coding: str, receive: Receive) -> None:
        self.coding, self.receive = coding, receive
        self.stream: zlib._Decompress | None = None
        self.waiting = b""
        self.arrived = self.ended = False

    async def __call__(self) -> Message:
        while not self.ended:
            if not self.waiting and not self.arrived:
                message = await self.receive()
                if message["type"] != "http.request":
                    return message
                self.waiting = message.get("body", b"")
                self.arrived = not message.get("more_body", False)
            piece = await asyncio.to_thread(self._decompress)
            self.ended = self.arrived and not self.waiting and len(piece) < _PIECE
            if self.ended and self.stream is not None and not self.stream.eof:
                raise BadJson(f"the body is not all of a {self.coding} stream: it ends early")
            if piece or self.ended:
                return {"type": "http.request", "body": piece, "more_body": not self.ended}
        return await self.receive()

    def _decompress(self) -> bytes:
        if self.stream is None and not self.waiting:
            return b""
        stream = self.stream or zlib.decompressobj(wbits=_window(self.coding, self.waiting))
        self.stream = stream
        try:
            piece = stream.decompress(self.waiting, _PIECE)
        except zlib.error as error:
            raise BadJson(f"the body is not {self.coding}: {error}") from None
        if stream.unused_data:
            raise BadJson(f"the body goes on after its {self.coding} stream")
        self.waiting = stream.unconsumed_tail
        return piece


def _window(coding: str, begin: bytes) -> int:
    if coding == "gzip":
        return zlib.MAX_WBITS | 16
    # `deflate` is zlib's format, but some clients send what is inside it.
    is_zlib = begin[0] & 15 == 8 and (len(begin) < 2 or int.from_bytes(begin[:2], "big") % 31 == 0)
    return zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS


def _compressing(scope: Scope, send: Send) -> Send:
    """A `send` that compresses large answers of text, if the client takes gzip.

    Those of a length that is known: a stream is sent as it comes, a log's reader waits for lines.
    """
    wanted = _accepts_gzip(Headers(scope=scope).getlist("accept-encoding"))
    start: Message | None = None
    parts: list[bytes] = []

    async def compress(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message["headers"]))
            if headers.get("content-type", "").startswith(_COMPRESSIBLE):
                headers.add_vary_header("Accept-Encoding")
                message = {**message, "headers": headers.raw}
                large = int(headers.get("content-length", "0")) >= _WORTH_IT
                if wanted and large and "content-encoding" not in headers:
                    start = message
                    return
            await send(message)
            return
        if start is None:
            await send(message)
            return
        parts.append(message.get("body", b""))
        if message.get("more_body"):
            return
        # Level 1: most of the size for a fraction of the time.
        body = await asyncio.to_thread(gzip.compress, b"".join(parts), 1, mtime=0)
        headers = MutableHeaders(raw=start["headers"])
        headers["Content-Encoding"] = "gzip"
        headers["Content-Length"] = str(len(body))
        await send({**start, "headers": headers.raw})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return compress


def _accepts_gzip(values: list[str]) -> bool:
    qualities: dict[str, float] = {}
    for part in ",".join(values).lower().split(","):
        name, _, options = part.strip().partition(";")
        quality = re.search(r"q=([0-9.]{1,5})", options)
        try:
            qualities[name.strip()] = float(quality.group(1)) if quality else 1.0
        except ValueError:
            continue
    return qualities.get("gzip", qualities.get("*", 0.0)) > 0
