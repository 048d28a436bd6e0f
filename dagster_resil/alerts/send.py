"""The way out of alerts: apprise's services, and the log."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from dagster_resil import logs
from dagster_resil.alerts.message import Alert
from dagster_resil.errors import ConfigurationError, ResilError

URLS_VARIABLE = "RESIL_ALERT_URLS"
"""Where alerts go: apprise's URLs, separated by spaces, commas or lines."""

log = logging.getLogger(__name__)

# A comma may be a part of a URL (mailto://…?to=one,two): it separates only before a scheme.
_BETWEEN = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")


class NotSent(ResilError):
    """An alert was not accepted by the service that it had to go to."""

    code = "alert_not_sent"


@dataclass(frozen=True)
class Place:
    """Where alerts go: a service by its URL, which holds secrets, or the log.

    :param id: tells one place from another without its secrets.
    :param label: what it is called in messages.
    """

    id: str
    label: str
    url: str | None = field(default=None, repr=False)


LOG = Place("log", "the log")


def places(env: Mapping[str, str] | None = None) -> tuple[Place, ...]:
    """Return where alerts go: always the log, and every URL of RESIL_ALERT_URLS."""
    text = (os.environ if env is None else env).get(URLS_VARIABLE, "")
    found = {}
    for number, item in enumerate(_BETWEEN.split(text.strip(" \t\r\n,")), 1):
        url = item.strip(" \t\r\n,")
        if url:
            mark = hashlib.sha256(url.encode()).hexdigest()[:16]
            found[mark] = Place(mark, f"number {number} of the URLs in {URLS_VARIABLE}", url)
    return (LOG, *found.values())


def send(alert: Alert, place: Place) -> None:
    """Send an alert to one place.

    :raises ConfigurationError: the place's URL is none of apprise's.
    :raises NotSent: its service did not take the message; it may be tried again.
    """
    if place.url is None:
        log.log(
            logging.ERROR if alert.severity == "ERROR" else logging.WARNING,
            "alert: %s: %s",
            logs.redact(alert.title),
            logs.redact(alert.body).replace("\n", "; "),
            extra={"alert_key": alert.key},
        )
        return
    import apprise  # loading it is worth a second that only a sent alert has to pay

    service = apprise.Apprise()
    error = alert.severity == "ERROR"
    with _silent("apprise", "urllib3.connectionpool"):
        if not service.add(place.url):
            raise ConfigurationError(
                f"{place.label} is not a URL that apprise understands",
                hint="see apprise's list of services for the form of its URL",
            )
        sent = service.notify(
            title=logs.redact(alert.title),
            body=logs.redact(f"{alert.body}\nkey: {alert.key}"),
            notify_type=apprise.NotifyType.FAILURE if error else apprise.NotifyType.WARNING,
            body_format=apprise.NotifyFormat.TEXT,
        )
    if not sent:
        raise NotSent(
            f"the alert {alert.title!r} was not accepted by {place.label}",
            hint="look at the service's address and at the network; it is tried again",
        )


@contextmanager
def _silent(*names: str) -> Iterator[None]:
    """Keep loggers quiet that quote the services' URLs, tokens and all."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
