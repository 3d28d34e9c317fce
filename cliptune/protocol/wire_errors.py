"""Errors on the wire: from an exception to a document, and back to an error of the same class.

The document is `ErrorBody`: the JSON of HTTP as it is, and the text of a gRPC status behind
`PREFIX`, which tells it from the words of proxies and libraries. What isn't for clients to know
(of an exception that nobody raised on purpose) stays in the log of the process that it happened
in; they are told an id.
"""

from __future__ import annotations

import json
import logging
import uuid
from typing import TYPE_CHECKING, NoReturn, Self

import grpc
from google.protobuf.message import DecodeError
from pydantic import BaseModel, JsonValue, ValidationError

import cliptune.errors
from cliptune.errors import BadInput, CliptuneError, InternalError, Overloaded, Unavailable

if TYPE_CHECKING:
    from cliptune.protocol.jina_types import ServicerContext, StatusProto

log = logging.getLogger("cliptune")

PREFIX = "CLIPTUNE:"
UNREADABLE = "the message can't be read: expected a jina.DataRequestProto"
MAX_MESSAGE = 1000
"""Characters of a message: gRPC keeps 8 KiB for all of a status."""


ERRORS = {
    name: kind
    for name, kind in vars(cliptune.errors).items()
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


class ErrorBody(BaseModel):
    """An error as it travels: `{"type": class name, "message": …}`, and what else is known."""

    type: str = CliptuneError.__name__
    message: str = "the server gave no reason"
    retry_after: float | None = None
    """Seconds after which it makes sense to ask again."""
    status: int | None = None
    """Its HTTP status, where the answer has none: over a WebSocket."""

    @classmethod
    def of(cls, error: CliptuneError) -> Self:
        """What is told of `error`."""
        message = str(error)
        if len(message) > MAX_MESSAGE:
            message = message[: MAX_MESSAGE - 1] + "…"
        wait = round(error.retry_after, 3) if isinstance(error, Overloaded) else None
        return cls(type=type(error).__name__, message=message, retry_after=wait)

    @classmethod
    def read(cls, value: object) -> Self | None:
        """From JSON that somebody sent; None: it is none."""
        try:
            return cls.model_validate(value)
        except ValidationError:
            return None

    def error(self) -> CliptuneError:
        """The error again; of a class that isn't known here, a `CliptuneError`."""
        made = ERRORS.get(self.type, CliptuneError)(self.message)
        if isinstance(made, Overloaded) and self.retry_after is not None:
            made.retry_after = self.retry_after
        return made

    def to_json(self) -> dict[str, JsonValue]:
        """Without what isn't known."""
        return self.model_dump(exclude_none=True)


def from_json(value: object) -> CliptuneError:
    """The error that a server's JSON tells of."""
    body = ErrorBody.read(value)
    return body.error() if body else InternalError(str(value)[:MAX_MESSAGE])


def to_text(error: CliptuneError) -> str:
    """The error in one line, for the one text that a gRPC status has; `from_text` reads it.

    A second copy, such as a detail in the trailing metadata, would halve what there is room for.
    """
    return PREFIX + json.dumps(ErrorBody.of(error).to_json())


def from_text(text: str) -> CliptuneError:
    """The error of a status's text."""
    return error_in(text) or InternalError(text[:MAX_MESSAGE])


def error_in(text: str) -> CliptuneError | None:
    """The error that `to_text` wrote; None: somebody else wrote it."""
    if not text.startswith(PREFIX):
        return None
    try:
        body = ErrorBody.read(json.loads(text.removeprefix(PREFIX)))
    except ValueError:
        return None
    return body.error() if body else None


def internal(what: str) -> InternalError:
    """Log `what` under a new id, and make the error that tells a client no more than that id."""
    number = uuid.uuid4().hex[:12]
    log.error("internal error %s: %s", number, what)
    return InternalError(f"internal error {number}; the server's log says more")


def from_exception(error: BaseException) -> CliptuneError:
    """What a client is told of an exception in the gateway."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]  # what a middleware's tasks wrap it into
    if isinstance(error, CliptuneError):
        return error
    if isinstance(error, DecodeError):
        return BadInput(UNREADABLE)
    if isinstance(error, grpc.aio.AioRpcError):
        return no_answer(error, "an executor")
    import traceback

    return internal("".join(traceback.format_exception(error)))


def no_answer(error: grpc.aio.AioRpcError, executor: str) -> Unavailable:
    """What a client is told where an executor did not answer; where it is stays in the log."""
    log.error("%s did not answer: %s", executor, error.details())
    late = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    what = "took too long" if late else "can't be reached"
    return Unavailable(f"{executor} of this service {what}")


def from_status(status: StatusProto) -> CliptuneError | None:
    """What a client is told of a response's status; None: it succeeded."""
    if status.code != status.ERROR:
        return None
    stack = "".join(status.exception.stacks)
    return error_in(status.description) or internal(
        f"in {status.exception.executor or 'the gateway'}: {stack or status}"
    )


def set_status(status: StatusProto, error: CliptuneError) -> None:
    """Write `error` into a response's status, and nothing else."""
    status.Clear()
    status.code = status.ERROR
    status.description = to_text(error)
    status.exception.name = type(error).__name__


async def abort(context: ServicerContext, error: CliptuneError) -> NoReturn:
    """End a gRPC call with an error's status; `retry-after` (seconds) is in its metadata."""
    trailing: tuple[tuple[str, str], ...] = ()
    if isinstance(error, Overloaded):
        trailing = (("retry-after", f"{error.retry_after:.3f}"),)
    await context.abort(grpc_code(error), to_text(error), trailing)
    raise error  # it has raised already
