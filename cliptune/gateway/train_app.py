"""The HTTP side of a train Flow: the Trainer's calls as JSON, logs and artifacts as streams."""

from __future__ import annotations

from fastapi import FastAPI, Response
from fastapi.routing import APIRoute
from fastapi.utils import generate_unique_id

from cliptune.gateway.base_app import new_app
from cliptune.gateway.dispatch import Dispatcher
from cliptune.gateway.http.schemas import json_response
from cliptune.gateway.routes import add_routes
from cliptune.protocol.endpoints import ROOT, TRAIN_FLOW

DESCRIPTION = """Fine-tune CLIP on this machine, from another one.

Data sets, models and runs are given by name; `cliptune.connect("grpc://…")` in Python sends
documents too. Errors are `{"error": {"type": …, "message": …}}`."""


def make_app(dispatcher: Dispatcher) -> FastAPI:
    """The application over a gateway."""
    app = new_app("cliptune training", DESCRIPTION, dispatcher)
    app.router.generate_unique_id_function = _operation_id
    add_routes(app, dispatcher, TRAIN_FLOW)
    calls = sorted(path for path, one in TRAIN_FLOW.items() if "POST" in one.methods)

    @app.get(ROOT.path, include_in_schema=False)
    async def root() -> Response:
        return json_response({"service": "cliptune training", "calls": calls})

    return app


def _operation_id(route: APIRoute) -> str:
    return route.name if "POST" in (route.methods or ()) else generate_unique_id(route)
