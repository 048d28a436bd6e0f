"""Alerts and their way out."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass

import apprise

from dagster_resil.errors import ResilError
from dagster_resil.logs import redact

URLS_VARIABLE = "RESIL_ALERT_URLS"
"""Where alerts go: apprise's URLs, separated by spaces, commas or lines."""

log = logging.getLogger(__name__)


class NotSent(ResilError):
    """An alert did not reach every place it has to go to."""

    code = "alert_not_sent"


@dataclass(frozen=True)
class Alert:
    """Something that somebody has to know.

    :param key: the same for the same event, so that a receiver can tell a repetition.
    :param severity: "ERROR" or "WARN".
    """

    key: str
    title: str
    body: str
    severity: str = "ERROR"


def send(alert: Alert) -> None:
    """Send an alert to every URL in RESIL_ALERT_URLS; log it when there is none.

    :raises NotSent: a URL is not understood, or its service did not take the message.
    """
    urls = [url for url in re.split(r"[\s,]+", os.environ.get(URLS_VARIABLE, "")) if url]
    log.log(
        logging.ERROR if alert.severity == "ERROR" else logging.WARNING,
        "%s: %s",
        alert.title,
        alert.body.split("\n", 1)[0],
        extra={"alert_key": alert.key},
    )
    if not urls:
        return
    places = apprise.Apprise()
    for number, url in enumerate(urls, 1):
        # A URL holds a token: it is named by its number only.
        if not places.add(url):
            raise NotSent(
                f"number {number} of the URLs in {URLS_VARIABLE} is not one of apprise's",
                hint="see apprise's list of services for the form of its URL",
            )
    kind = apprise.NotifyType.FAILURE if alert.severity == "ERROR" else apprise.NotifyType.WARNING
    sent = places.notify(
        title=redact(alert.title),
        body=redact(f"{alert.body}\n\nkey: {alert.key}"),
        notify_type=kind,
        body_format=apprise.NotifyFormat.TEXT,
    )
    if not sent:
        raise NotSent(
            f"the alert {alert.title!r} was not taken by every service in {URLS_VARIABLE}",
            hint="look at the services' addresses and at the network; it is tried again",
        )
