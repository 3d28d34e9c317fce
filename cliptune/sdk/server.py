"""Whether the SDK works on this machine or at a train Flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cliptune import runs
from cliptune.errors import BadInput
from cliptune.settings import current

if TYPE_CHECKING:
    from cliptune.client.remote import RemoteSession


def connect(address: str, api_key: str | None = None, ca_file: str | None = None) -> RemoteSession:
    """The calls of this module at a train Flow, such as `grpc://host:52000`.

    `api_key` and `ca_file` are as `cliptune.serving.Client`'s.
    """
    from cliptune.client.remote import RemoteSession

    return RemoteSession(address, api_key=api_key, ca_file=ca_file)


def server_address() -> str | None:
    """The server named in the environment, if one is."""
    return current().server


def session() -> Any:
    """The calls of that server."""
    return connect(str(server_address()))


def here_or_there(call: str) -> Any:
    """The function `call` for runs of this machine, or of the server in CLIPTUNE_SERVER."""
    if not server_address():
        return getattr(runs, call)
    try:
        return getattr(session(), call)
    except AttributeError:
        # Doing it here instead would be to the wrong runs.
        raise BadInput(
            f"{call} is not offered by the server in CLIPTUNE_SERVER ({server_address()}): "
            "call it on the server's machine"
        ) from None
