"""Errors over HTTP: the service's own form, and OpenAI's where its interface is spoken.

What refuses a request knows its path alone (a key is checked before a route is chosen), so the
form follows from the path.
"""

from __future__ import annotations

import math

from fastapi import Response

from cliptune.errors import CliptuneError, NotFound, Overloaded, RateLimited, Unauthorized
from cliptune.gateway.http.schemas import json_response
from cliptune.protocol.endpoints import FOREIGN
from cliptune.protocol.wire_errors import ErrorBody

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
_CODES = {
    NotFound.__name__: "model_not_found",  # nothing else is looked up there
    Unauthorized.__name__: "invalid_api_key",
    RateLimited.__name__: "rate_limit_exceeded",
}


def error_response(error: CliptuneError, path: str = "") -> Response:
    """An error as the answer to a request at `path`, with what HTTP adds to it."""
    response = render_error(path, ErrorBody.of(error), error.http_status, error.param)
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, Overloaded):
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    return response


def render_error(path: str, body: ErrorBody, status: int, param: str | None = None) -> Response:
    """What is told of an error at `path`.

    `{"error": {"type", "message"}}`; of calls in others' form `{"error": {"message", "type",
    "param", "code"}}`, whose clients know 400 for what is wrong with a request, not 422.

    Args:
        path: where was asked.
        body: the error.
        status: its HTTP status.
        param: the field of the body that is at fault, if it is known.
    """
    if path not in FOREIGN:
        return json_response({"error": body.to_json()}, status)
    status = 400 if status == 422 else status
    kind = "server_error" if status >= 500 else "invalid_request_error"
    content = {
        "message": body.message,
        "type": _TYPES.get(status, kind),
        "param": param,
        "code": _CODES.get(body.type, body.type),
    }
    return json_response({"error": content}, status)
