"""The component that lets no failure stay silent, and clears what a killed run left."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import dagster as dg

from dagster_resil.alerts import Alert, NotSent, send
from dagster_resil.postgres.scratch import sweep

log = logging.getLogger(__name__)

_LATE_IDS = 200
"""On PostgreSQL an event's number can become visible after a higher one's; events of parallel
runs are never further apart than this."""
_EVENTS_AT_ONCE = 500
_EVENT_TYPES = {dg.DagsterEventType.ASSET_CHECK_EVALUATION, dg.DagsterEventType.RUN_FAILURE}


@dataclass
class Cursor:
    """How far the event log is read.

    :param highest: the highest number that was seen.
    :param floor: events up to this number were there before us, or are done for good.
    :param seen: the numbers between the floor and the highest that are done.
    """

    highest: int
    floor: int
    seen: set[int] = field(default_factory=set)

    @classmethod
    def load(cls, text: str | None, instance: dg.DagsterInstance) -> Cursor:
        """Read a cursor; without one, begin at the end of the log."""
        if text is None:
            newest = instance.event_log_storage.get_maximum_record_id() or 0
            return cls(newest, newest)
        document = json.loads(text)
        return cls(document["highest"], document["floor"], set(document["seen"]))

    def dump(self) -> str:
        """Write it down."""
        return json.dumps({"highest": self.highest, "floor": self.floor, "seen": sorted(self.seen)})

    def done(self, number: int) -> None:
        """Count an event as told."""
        self.seen.add(number)
        self.highest = max(self.highest, number)
        self.floor = max(self.floor, self.highest - _LATE_IDS)
        self.seen = {one for one in self.seen if one > self.floor}


def new_events(
    instance: dg.DagsterInstance, cursor: Cursor
) -> Iterator[tuple[int, dg.EventLogEntry]]:
    """Yield the events that were not told yet, in the order of their numbers.

    This is the one place that reads the log in a way that Dagster does not document: the public
    one can't follow check evaluations on SQLite.
    """
    found = instance.event_log_storage.get_logs_for_all_runs_by_log_id(
        after_cursor=cursor.floor,
        dagster_event_type=_EVENT_TYPES,
        limit=_EVENTS_AT_ONCE,
    )
    for number in sorted(found):
        if number not in cursor.seen:
            yield number, found[number]


def alert_of(entry: dg.EventLogEntry) -> Alert | None:
    """Return what an event has to tell; None for a check that passed."""
    event = entry.dagster_event
    if event is None:
        return None
    if event.event_type is dg.DagsterEventType.RUN_FAILURE:
        reason = event.message or "the run failed"
        failure = (
            event.job_failure_data.first_step_failure_event if event.job_failure_data else None
        )
        if failure is not None and failure.step_failure_data.user_failure_data is not None:
            reason = failure.step_failure_data.user_failure_data.description or reason
        return Alert(
            key=f"run-{entry.run_id}",
            title=f"run of {event.job_name} failed",
            body=f"{reason}\n\nrun: {entry.run_id}",
        )
    evaluation = event.asset_check_evaluation_data
    if evaluation.passed:
        return None
    asset = evaluation.asset_key.to_user_string()
    partition = f" of {evaluation.partition}" if evaluation.partition else ""
    verdict = evaluation.metadata.get("verdict")
    word = str(verdict.value) if verdict is not None else "failed"
    backup = evaluation.metadata.get("backup_id")
    return Alert(
        key=f"check-{asset}-{evaluation.check_name}-{evaluation.partition}-{entry.run_id}",
        title=f"{word}: {asset}{partition}, {evaluation.check_name}",
        body=f"{evaluation.description or 'the check failed'}\n"
        + (f"\nbackup: {backup.value}" if backup is not None else "")
        + f"\nrun: {entry.run_id}",
        severity=evaluation.severity.value,
    )


def tell_failures(instance: dg.DagsterInstance, text: str | None) -> tuple[str, int, str]:
    """Send an alert for each new failure.

    One that can't be sent stays new, and so does what comes after it: order is kept, and nothing
    is lost.

    :return: the next cursor, how many alerts were sent, and why it stopped early (or "").
    """
    cursor = Cursor.load(text, instance)
    sent = 0
    for number, entry in new_events(instance, cursor):
        alert = alert_of(entry)
        if alert is not None:
            try:
                send(alert)
            except NotSent as error:
                log.error("%s", error.message, extra={"hint": error.hint})
                return cursor.dump(), sent, error.message
            sent += 1
        cursor.done(number)
    return cursor.dump(), sent, ""


class FailureAlerts(dg.Component, dg.Model, dg.Resolvable):
    """Sends every failed check and every failed run to the URLs in RESIL_ALERT_URLS.

    One for a whole Dagster deployment: the sensor ``resil_failures`` sees all of it. Without URLs
    the alerts are logged. The sensor ``resil_janitor`` clears what killed runs left on this
    machine, and scratch servers whose time is over.
    """

    every_seconds: int = 15

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the two sensors."""

        @dg.sensor(
            name="resil_failures",
            minimum_interval_seconds=self.every_seconds,
            default_status=dg.DefaultSensorStatus.RUNNING,
            description="Tells every failed check and every failed run, once.",
        )
        def failures(context: dg.SensorEvaluationContext) -> dg.SkipReason:
            text, sent, trouble = tell_failures(context.instance, context.cursor)
            context.update_cursor(text)
            if trouble:
                return dg.SkipReason(f"{sent} alerts sent; the next is tried again: {trouble}")
            return dg.SkipReason(f"{sent} alerts sent")

        @dg.sensor(
            name="resil_janitor",
            minimum_interval_seconds=600,
            default_status=dg.DefaultSensorStatus.RUNNING,
            description="Clears what killed runs left, and scratch servers whose time is over.",
        )
        def janitor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
            return dg.SkipReason(f"{len(sweep())} folders cleared")

        return dg.Definitions(sensors=[failures, janitor])
