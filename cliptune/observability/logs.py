"""Logs as JSON, one object a line, with the id of the request; and a line for each request.

Off unless CLIPTUNE_LOG_FORMAT is `json`.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from cliptune.observability import request_ids
from cliptune.protocol import jina_compat
from cliptune.settings import Settings

access_log = logging.getLogger("cliptune.access")
access_log.disabled = True  # until `setup` says that logs are JSON: its fields are all it has


class JsonFormatter(logging.Formatter):
    """A record as JSON: time, level, logger, service, process, message, request_id, fields."""

    def __init__(self, service: str) -> None:
        """`service` is the executor, or `gateway`."""
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self.service,
            "process": record.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if identity := request_ids.current.get():
            line["request_id"] = identity
        for name, value in getattr(record, "fields", {}).items():
            line.setdefault(name, value)  # never in the place of those above
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)  # in ASCII: also what is no valid UTF-8


def setup(service: str, settings: Settings) -> None:
    """Log as the settings say, in this process: what is logged already, and by Jina's loggers."""
    if settings.log_format != "json":
        return
    ours = JsonFormatter(service)
    # Jina's loggers that are made from now on; those that are there are changed below.
    jina_compat.format_logs_with(ours)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(ours)
    # Jina logs an empty line where `quiet_error` keeps an exception out of the log.
    handler.addFilter(lambda record: bool(record.getMessage().strip()))
    logging.root.handlers = [handler]
    logging.getLogger("cliptune").setLevel(logging.INFO)
    access_log.disabled = False
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        if logger.handlers:
            logger.handlers = [handler]
            logger.propagate = False


def log_call(message: str, **fields: object) -> None:
    """A line about a request, where logs are JSON; the id is added."""
    if not access_log.disabled:
        given = {name: value for name, value in fields.items() if value is not None}
        access_log.info(message, extra={"fields": given})
