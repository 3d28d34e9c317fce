"""Errors on the wire: from an executor's exception to a status, and back to the same class.

Jina sends an exception as a traceback inside the response's header. The gateway replaces it by
one line, `CLIPTUNE:{"type": …, "message": …}`, from which the client makes the error again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import uuid
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from cliptune import errors
from cliptune.errors import BadInput, CliptuneError, InternalError, Overloaded, Unavailable

log = logging.getLogger("cliptune")

PREFIX = "CLIPTUNE:"
UNREADABLE = "the message can't be read: expected a jina.DataRequestProto"
MAX_MESSAGE = 1000
"""Characters of a message: gRPC keeps 8 KiB for all of a status."""


ERRORS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, CliptuneError)
}

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}


def grpc_code(error: CliptuneError) -> grpc.StatusCode:
    """The gRPC status of an error."""
    return _CODES.get(error.http_status, grpc.StatusCode.INTERNAL)


def as_dict(error: CliptuneError) -> dict[str, Any]:
    """`{"type": class name, "message": …}`, and `retry_after` seconds where that is known."""
    message = str(error)
    if len(message) > MAX_MESSAGE:
        message = message[: MAX_MESSAGE - 1] + "…"
    fields: dict[str, Any] = {"type": type(error).__name__, "message": message}
    if isinstance(error, Overloaded):
        fields["retry_after"] = round(error.retry_after, 3)
    return fields


def to_text(error: CliptuneError) -> str:
    """The error in one line; `from_text` reads it."""
    return PREFIX + json.dumps(as_dict(error))


def from_dict(fields: Any) -> CliptuneError:
    """The error that `as_dict` wrote; of an unknown class, a `CliptuneError`."""
    if not isinstance(fields, dict):
        return InternalError(str(fields)[:MAX_MESSAGE])
    kind = ERRORS.get(str(fields.get("type")), CliptuneError)
    found = kind(str(fields.get("message") or "the server gave no reason"))
    if isinstance(found, Overloaded) and isinstance(fields.get("retry_after"), int | float):
        found.retry_after = float(fields["retry_after"])
    return found


def from_text(text: str) -> CliptuneError:
    """The error of a status description."""
    if text.startswith(PREFIX):
        try:
            return from_dict(json.loads(text[len(PREFIX) :]))
        except ValueError:
            pass
    return InternalError(text[:MAX_MESSAGE])


def internal(what: str) -> InternalError:
    """Log `what` under a new id, and make the error that tells a client no more than that id."""
    number = uuid.uuid4().hex[:12]
    log.error("internal error %s: %s", number, what)
    return InternalError(f"internal error {number}; the server's log says more")


def from_exception(error: BaseException) -> CliptuneError:
    """What a client is told of an exception in the gateway."""
    from cliptune.protocol.jina_compat import InternalNetworkError

    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]  # what a middleware's tasks wrap it into
    if isinstance(error, CliptuneError):
        return error
    if isinstance(error, DecodeError):
        return BadInput(UNREADABLE)
    if isinstance(error, InternalNetworkError):
        log.error("an executor did not answer: %s", error.details())
        late = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        return Unavailable(
            "an executor took too long" if late else "an executor of this service can't be reached"
        )
    import traceback

    return internal("".join(traceback.format_exception(error)))


def from_status(status: Any) -> CliptuneError | None:
    """What a client is told of a response's status (jina's StatusProto); None: it succeeded."""
    if status.code != status.ERROR:
        return None
    if status.description.startswith(PREFIX):
        return from_text(status.description)
    name = status.exception.name
    if name in ERRORS:
        return ERRORS[name](status.exception.args[0] if status.exception.args else name)
    if name == "ValidationError":  # documents that don't fit the endpoint's schema
        return BadInput(status.description)
    if name == DecodeError.__name__:  # an executor is stricter about bytes than the gateway
        return BadInput(UNREADABLE)
    stack = "".join(status.exception.stacks)
    # Documents that DocArray can't read. An AttributeError of its own comes as one of the request.
    if "in from_protobuf" in stack or stack.rstrip().endswith("AttributeError: docs"):
        reason = ", ".join(status.exception.args) or name
        return BadInput(f"a document can't be read: {reason}"[:MAX_MESSAGE])
    return internal(f"in {status.exception.executor or 'the gateway'}: {stack or status}")


def set_status(status: Any, error: CliptuneError) -> None:
    """Write `error` into a response's status, and nothing else."""
    status.Clear()
    status.code = status.ERROR
    status.description = to_text(error)
    status.exception.name = type(error).__name__


def refusal(request: Any, error: CliptuneError) -> Any:
    """The answer of a stream to a request that failed: its id, and the error as status."""
    from cliptune.protocol.jina_compat import DataRequest

    response = DataRequest()
    with contextlib.suppress(Exception):  # of a message that can't be read, there is no id
        response.header.request_id = request.header.request_id
        response.header.exec_endpoint = request.header.exec_endpoint
    set_status(response.header.status, error)
    return response
