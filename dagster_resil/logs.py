"""Logs: readable lines on a terminal, one JSON object a line elsewhere; secrets in neither.

The JSON keys are those that Google Cloud Logging reads: ``severity``, ``time``, ``message``.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from datetime import UTC, datetime
from typing import Any, TextIO

from pythonjsonlogger.json import JsonFormatter

_URL_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s@/]+@", re.IGNORECASE)
_KEY_PASSWORD = re.compile(r"(\bpassword\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s'\"]+)", re.IGNORECASE)
_SHORTEST_SECRET = 4
"""Replacing every "a" of a message would hide more than it tells."""

_secrets: set[str] = set()
_lock = threading.Lock()


def register_secret(value: str) -> None:
    """Have a value replaced wherever it would show in a log line or an error message."""
    if len(value) >= _SHORTEST_SECRET:
        with _lock:
            _secrets.add(value)


def redact(text: str) -> str:
    """Return a text without passwords: those registered, and those that look like one."""
    with _lock:
        known = sorted(_secrets, key=len, reverse=True)
    for secret in known:
        text = text.replace(secret, "…")
    text = _URL_PASSWORD.sub(r"\1:…@", text)
    return _KEY_PASSWORD.sub(r"\1…", text)


class _Lines(logging.Formatter):
    """What a person reads: the message, with its level when it matters."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno >= logging.WARNING:
            text = f"{record.levelname.lower()}: {text}"
        return redact(text)


class _Json(JsonFormatter):
    """One JSON object a line."""

    def add_fields(
        self,
        log_data: dict[str, Any],
        record: logging.LogRecord,
        message_dict: dict[str, Any],
    ) -> None:
        super().add_fields(log_data, record, message_dict)
        log_data["time"] = (
            datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z")
        )
        log_data["severity"] = record.levelname
        log_data["logger"] = record.name

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def configure(
    level: int = logging.INFO, *, stream: TextIO | None = None, as_json: bool | None = None
) -> None:
    """Send this package's logs to a stream, by default stderr.

    :param as_json: one JSON object a line; by default when the stream is no terminal.
    """
    stream = stream or sys.stderr
    if as_json is None:
        as_json = not stream.isatty()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Json("%(message)s") if as_json else _Lines("%(message)s"))
    package = logging.getLogger("dagster_resil")
    package.handlers = [handler]
    package.setLevel(level)
    package.propagate = False
