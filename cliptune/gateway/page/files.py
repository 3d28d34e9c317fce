"""The page's files, as HTTP gives them out.

All but the page itself stand below an address with their digest in it, so that a browser keeps
them for good, and never mixes those of two versions: modules name each other relatively.
"""

from __future__ import annotations

import hashlib
from importlib import resources

from fastapi import FastAPI, Request, Response

from cliptune.errors import NotFound
from cliptune.protocol.endpoints import PAGE_FILES, ROOT

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Only the page's own files run, whatever else gets into it: nothing in it is inline."""
_TYPES = {"js": "text/javascript", "css": "text/css"}


def add_page(app: FastAPI) -> None:
    """Offer the page at `/`, and what it loads."""
    site = {
        file.name: file.read_bytes()
        for file in resources.files("cliptune.gateway.page").joinpath("site").iterdir()
    }
    version = _digest(*(name.encode() + site[name] for name in sorted(site)))
    # Relative to the page, which may be below a path of another site.
    page = site.pop("index.html").replace(b"{files}", f"{PAGE_FILES[1:]}{version}".encode())

    @app.get(ROOT.path, include_in_schema=False)
    async def search_page(request: Request) -> Response:
        headers = {
            "Content-Security-Policy": POLICY,
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
            "ETag": f'"{version}"',
        }
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(page, media_type="text/html; charset=utf-8", headers=headers)

    @app.get(PAGE_FILES + "{asked}/{name}", include_in_schema=False)
    async def page_file(asked: str, name: str) -> Response:
        if name not in site:
            raise NotFound(f"the page has no file {name[:100]!r}")
        # While versions are being rolled out, another one's page may ask here.
        kept = "public, max-age=31536000, immutable" if asked == version else "no-store"
        kind = f"{_TYPES[name.rpartition('.')[2]]}; charset=utf-8"
        return Response(site[name], media_type=kind, headers={"Cache-Control": kept})


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
