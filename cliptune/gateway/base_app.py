"""What both HTTP applications share: errors as JSON, and who may post."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from cliptune.errors import BadInput, CliptuneError, Forbidden, near_matches, shown
from cliptune.gateway.access.auth import AuthMiddleware
from cliptune.gateway.dispatch import Dispatcher
from cliptune.gateway.http import docs_page
from cliptune.gateway.http.errors import error_response, render_error
from cliptune.gateway.http.schemas import json_response
from cliptune.protocol import endpoints, redaction, wire_errors
from cliptune.settings import Settings


def new_app(title: str, description: str, dispatcher: Dispatcher) -> FastAPI:
    """An application with errors as JSON, `/healthz` and `/readyz`."""
    from cliptune.version import __version__

    app = FastAPI(
        title=title,
        description=description,
        version=__version__,
        docs_url=None,  # it would load scripts from a CDN; ours is below
        redoc_url=None,
        openapi_url=None,  # it would not know the prefix; ours is below
        dependencies=[Depends(known_query)],
        redirect_slashes=False,
    )
    settings = dispatcher.handler.settings

    @app.middleware("http")
    async def same_site(
        request: Request, go_on: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        # A page of another site can post to a server on its reader's machine or network without
        # asking first: such a request says where it comes from.
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            try:
                check_origin(request.headers, settings)
            except Forbidden as error:
                return error_response(error, request.scope["path"])
        try:
            response = await go_on(request)
        except CliptuneError as error:
            response = error_response(error, request.scope["path"])
        except Exception as error:
            response = error_response(wire_errors.from_exception(error), request.scope["path"])
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        return response

    app.add_middleware(AuthMiddleware, admission=dispatcher.handler.admission)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Retry-After", "X-Request-ID"],
        )
    if settings.allowed_hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.allowed_hosts)

    @app.exception_handler(CliptuneError)
    async def deliberate(request: Request, error: CliptuneError) -> Response:
        return error_response(error, request.scope["path"])

    @app.exception_handler(RequestValidationError)
    async def bad_query(request: Request, error: RequestValidationError) -> Response:
        parts = [f"{e['loc'][-1]}: {e['msg']}, got {e.get('input')!r:.80}" for e in error.errors()]
        return error_response(BadInput("; ".join(parts)), request.scope["path"])

    @app.exception_handler(HTTPException)
    async def from_framework(request: Request, error: HTTPException) -> Response:
        paths = sorted(
            {r.path for r in app.routes if isinstance(r, APIRoute) and r.include_in_schema}
        )
        message = str(error.detail)
        if error.status_code == 404:
            message = f"nothing at {request.scope['path'][:200]}; there are {', '.join(paths)}"
        elif error.status_code == 405:
            allowed = methods_at(app, request.scope["path"])
            error.headers = {**(error.headers or {}), "Allow": ", ".join(allowed)}
            message = (
                f"{request.method} is not offered at {request.scope['path'][:200]}: use "
                f"{' or '.join(allowed)}"
            )
        kind = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "BadRequest")
        body = wire_errors.ErrorBody(type=kind, message=message)
        response = render_error(request.scope["path"], body, error.status_code)
        response.headers.update(error.headers or {})
        return response

    @app.get(endpoints.DOCS, include_in_schema=False)
    async def docs() -> Response:
        headers = {"Content-Security-Policy": docs_page.policy(), "Referrer-Policy": "no-referrer"}
        page = docs_page.page(app.openapi(), redaction.PREFIX.get())
        return Response(page, media_type="text/html; charset=utf-8", headers=headers)

    @app.get(endpoints.OPENAPI, include_in_schema=False)
    async def openapi() -> Response:
        description = app.openapi()
        if prefix := redaction.PREFIX.get():
            description = {**description, "servers": [{"url": prefix}]}
        return json_response(description)

    @app.get(endpoints.HEALTHZ, tags=["health"])
    async def healthz() -> dict[str, str]:
        """Whether the gateway lives."""
        return {"status": "ok"}

    @app.get(endpoints.READYZ, tags=["health"])
    async def readyz(
        need: Literal["all", "any"] = Query("all", description="How many executors must answer."),
    ) -> Response:
        """Whether all executors answer; 503 if not, and once the gateway has been told to end.

        With `need=any` one of them is enough: what the others do is refused, the rest goes on.
        """
        alive = await dispatcher.ready()
        enough = any(alive.values()) if need == "any" else all(alive.values())
        ready = enough and not dispatcher.handler.admission.ending.is_set()
        return json_response({"ready": ready, "executors": alive}, 200 if ready else 503)

    return app


def methods_at(app: FastAPI, path: str) -> list[str]:
    """The methods that are offered at a path."""
    routes = [r for r in app.routes if isinstance(r, APIRoute) and r.path_regex.match(path)]
    methods = {method for route in routes for method in route.methods or ()}
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


ANY_QUERY = (*endpoints.OPEN_PATHS, endpoints.PROMETHEUS)
"""What pages link to, and health checks ask, with whatever they like behind the `?`."""


def known_query(request: HTTPConnection) -> None:
    """Refuse parameters in the address that the endpoint doesn't have: they would have no effect.

    Raises:
        BadInput: naming them, and those that there are.
    """
    if request.scope["type"] == "websocket":
        return
    route = request.scope["route"]
    path = request.scope["path"]
    if path in ANY_QUERY or path.startswith(endpoints.PICTURES):
        return
    known = [field.alias for field in route.dependant.query_params]
    for name in request.query_params:
        given = request.query_params.getlist(name)
        if name not in known:
            why = near_matches(name, known) if known else (
                "this endpoint has none in its address: they go into the body, as `parameters`"
                if request.scope["method"] == "POST" else "this endpoint has none"
            )  # fmt: skip
            raise BadInput(f"parameter {shown(name)} is unknown: {why}")
        if len(given) > 1:
            raise BadInput(f"parameter {name} is given {len(given)} times")


def check_origin(headers: Headers, settings: Settings) -> None:
    """Refuse what a page of another site asks.

    Raises:
        Forbidden: the origin is neither this service nor in CLIPTUNE_CORS_ORIGINS.
    """
    origin = headers.get("origin")
    if not origin or origin in settings.cors_origins:
        return
    try:
        own = urlsplit(origin).netloc == headers.get("host")
    except ValueError:
        own = False
    if not own:
        raise Forbidden(
            f"requests from pages of {origin[:100]} are not allowed (CLIPTUNE_CORS_ORIGINS)"
        )
