"""Log lines as text or JSON, each with the request it belongs to.

Lines hold what this module names and nothing else of a request: no headers, no queries, no bodies.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

from .settings import Settings

TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"
TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
SAMPLED = 1

REQUEST: ContextVar[Mapping[str, str] | None] = ContextVar("request", default=None)
"""``request_id`` and ``traceparent`` of the request that is being answered."""


def continue_trace(given: Sequence[str]) -> str:
    """This server's place in a trace: the caller's trace where its ``traceparent`` is valid, else a new one.

    Parameters
    ----------
    given : sequence of str
        The values of all ``traceparent`` headers.

    Returns
    -------
    str
        ``00-TRACE-PARENT-FLAGS`` with a new parent id: that of this request. It belongs into logs and outgoing
        requests; W3C Trace Context has no such header for responses, which carry X-Request-ID instead.

    References
    ----------
    W3C Trace Context (2021), sections 3.2 and 4.3.
    """
    found = TRACEPARENT.fullmatch(given[0]) if len(given) == 1 else None
    trace, sampled = secrets.token_hex(16), 0
    if found is not None:
        version, its_trace, parent, flags, more = found.groups()
        # Later versions may append fields, and are read as this one.
        if version != "ff" and (version != "00" or more is None) and int(its_trace, 16) and int(parent, 16):
            trace, sampled = its_trace, int(flags, 16) & SAMPLED
    return f"00-{trace}-{secrets.token_hex(8)}-{sampled:02x}"


class TextFormatter(logging.Formatter):
    """A line for people; the request at its end."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        request = (f"{name}={value}" for name, value in (REQUEST.get() or {}).items())
        return " ".join([super().formatMessage(record), *request])


class JsonFormatter(logging.Formatter):
    """One JSON object a line; times are UTC. A line's ``extra={"fields": ...}`` are members of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **(REQUEST.get() or {}),
            **{name: value for name, value in getattr(record, "fields", {}).items() if value is not None},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_handler(settings: Settings, stream: TextIO | None = None) -> logging.Handler:
    """A handler that writes as the settings say, on standard error by default."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter(TEXT))
    return handler


def configure(settings: Settings) -> None:
    """Log to standard error. Libraries log warnings at most: at ``debug`` some would write what images hold.

    The parser of forms warns of every malformed one, which its request's own line says already.
    """
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    logging.basicConfig(handlers=[log_handler(settings)], level=max(level, logging.WARNING))
    logging.getLogger("surety").setLevel(level)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
