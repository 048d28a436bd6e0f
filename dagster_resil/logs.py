"""Logs: readable lines on a terminal, one JSON object a line elsewhere; secrets in neither.

The JSON keys are those that Google Cloud Logging reads: ``severity``, ``time``, ``message``.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO
from urllib.parse import quote

from pythonjsonlogger.json import JsonFormatter

# To the last @: in a URL typed wrongly the password holds an @ or / of its own. Digits up to the
# path are a port.
_URL_PASSWORD = re.compile(
    r"(\b[a-z][a-z0-9+.-]{0,30}://[^\s:/@]*):(?!\d{1,5}(?:[/?#\s]|$))\S{0,1000}@",
    re.IGNORECASE,
)
_KEY_PASSWORD = re.compile(
    r"""((?:\b|PG)password\s*=\s*)('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s'"]+)""", re.IGNORECASE
)
_SHORTEST_SECRET = 4
"""Replacing every "a" of a message would hide more than it tells."""

_secrets: set[str] = set()
_lock = threading.Lock()


def register_secret(value: str) -> None:
    """Have a value replaced wherever it would show in a log line or an error message."""
    if len(value) >= _SHORTEST_SECRET:
        # As it is, as in a URL, as in repr() and in libpq's "key=value" text.
        escaped = value.replace("\\", "\\\\")
        forms = {value, quote(value, safe=""), escaped, escaped.replace("'", "\\'")}
        with _lock:
            _secrets.update(forms)


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
        # Written last: a field of the record's own must not stand in for one of these.
        log_data["time"] = (
            datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z")
        )
        log_data["severity"] = record.levelname
        log_data["logger"] = record.name

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        # Before it is JSON: a quote or backslash in a secret would be escaped by then.
        return {redact(str(key)): _redacted(value) for key, value in log_data.items()}


def _redacted(value: object) -> object:
    """Return a value made of JSON's own types, without passwords."""
    if value is None or isinstance(value, int) or _is_finite(value):
        return value
    if isinstance(value, Mapping):
        return {redact(str(key)): _redacted(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_redacted(item) for item in value]
    return redact(value.isoformat() if isinstance(value, datetime) else str(value))


def _is_finite(value: object) -> bool:
    # JSON has no NaN and no infinity.
    return isinstance(value, float) and math.isfinite(value)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to a stream; what goes wrong with that is told without the record's arguments."""

    def handleError(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(redact(traceback.format_exc()))


def configure(
    level: int = logging.INFO, *, stream: TextIO | None = None, as_json: bool | None = None
) -> None:
    """Send this package's logs to a stream, by default stderr.

    :param as_json: one JSON object a line; by default when the stream is no terminal.
    """
    stream = stream or sys.stderr
    if as_json is None:
        as_json = not stream.isatty()
    handler = _Handler(stream)
    handler.setFormatter(_Json("%(message)s") if as_json else _Lines("%(message)s"))
    package = logging.getLogger("dagster_resil")
    package.handlers = [handler]
    package.setLevel(level)
    package.propagate = False
