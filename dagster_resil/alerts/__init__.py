"""Telling people: messages, their way out, and the note of what has been told."""

from dagster_resil.alerts.deliver import Batch, Delivery, Pending, deliver
from dagster_resil.alerts.message import Alert, FailedCheck, failed_checks_alert, failed_run_alert
from dagster_resil.alerts.progress import Position, Positions
from dagster_resil.alerts.send import LOG, URLS_VARIABLE, NotSent, Place, places, send

__all__ = [
    "LOG",
    "URLS_VARIABLE",
    "Alert",
    "Batch",
    "Delivery",
    "FailedCheck",
    "NotSent",
    "Pending",
    "Place",
    "Position",
    "Positions",
    "deliver",
    "failed_checks_alert",
    "failed_run_alert",
    "places",
    "send",
]
