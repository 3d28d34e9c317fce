"""TLS of a gateway's ports, by a certificate that may be renewed while it runs."""

from __future__ import annotations

import logging
import ssl
import threading
from pathlib import Path

import grpc

from cliptune.errors import BadInput
from cliptune.gateway.access.changes import Changes
from cliptune.settings import Settings

log = logging.getLogger("cliptune")


class Certificate:
    """A certificate and its key in files: each new connection gets those that are there now.

    If what is there then is no certificate with its key, the pair from before stays in use and
    the log says why. Connections that are open already stay as they are.
    """

    def __init__(self, settings: Settings) -> None:
        """Read the files.

        Raises:
            BadInput: they are not a certificate and its key.
        """
        self.settings = settings
        self.files = settings.tls_files()
        self._changes = Changes(*map(Path, self.files.values()))
        self._complaint = ""
        self._lock = threading.Lock()
        self._changes.look()
        self._read()

    @classmethod
    def of(cls, settings: Settings) -> Certificate | None:
        """That of the settings; None: without TLS."""
        return cls(settings) if settings.tls_files() else None

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For gRPC's servers, which ask again with each connection."""
        given = self._pair

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            self._refresh()
            if given is self._pair:
                return None
            given = self._pair
            return grpc.ssl_server_certificate_configuration([given])

        first = grpc.ssl_server_certificate_configuration([given])
        return grpc.dynamic_ssl_server_credentials(first, renewed)

    def renew(self, context: ssl.SSLContext) -> None:
        """Have the connections of a server that was given `context` begin with what is there."""

        def choose(connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
            self._refresh()
            connection.context = self._context

        context.sni_callback = choose

    def _refresh(self) -> None:
        with self._lock:
            try:
                if not self._changes.look():
                    return
                self._read()
            except BadInput as error:
                if str(error) != self._complaint:
                    log.error("%s; the certificate from before stays in use", error)
                self._complaint = str(error)
            else:
                if self._complaint:
                    log.warning("TLS: the certificate is read again")
                self._complaint = ""

    def _read(self) -> None:
        files = self.settings.tls_files()
        paths = Path(files["ssl_keyfile"]), Path(files["ssl_certfile"])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            pair = paths[0].read_bytes(), paths[1].read_bytes()
            context.load_cert_chain(paths[1], paths[0])
            is_one = pair == (paths[0].read_bytes(), paths[1].read_bytes())
        except OSError as error:  # an ssl.SSLError is one
            raise BadInput(f"TLS: {error.strerror or error}") from None
        if not is_one:
            raise BadInput(f"TLS: {paths[1]} changes just now")
        self._context, self._pair = context, pair
