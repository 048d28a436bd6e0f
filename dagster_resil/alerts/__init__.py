"""Telling people: messages, and sending them by apprise."""

from dagster_resil.alerts.send import URLS_VARIABLE, Alert, NotSent, send

__all__ = ["URLS_VARIABLE", "Alert", "NotSent", "send"]
