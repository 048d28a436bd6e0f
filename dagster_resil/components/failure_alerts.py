"""One sensor that tells of every failure, and one that cleans up. Once for an instance."""

from __future__ import annotations

from typing import Literal

import dagster as dg
from pydantic import Field

from dagster_resil.alerts import URLS_VARIABLE, NotSent, Positions, deliver, places
from dagster_resil.components.event_log import newest_id, read_failures
from dagster_resil.components.running import explained

_SEND_WITHIN_S = 30.0
"""Dagster gives a tick 60 s by default; one slow service may need ten more of them."""
_JANITOR_INTERVAL_S = 600


class FailureAlerts(dg.Component, dg.Resolvable, dg.Model):
    """Tell of every failed check and every failed run; clear what killed work left behind.

    Declare it once for a Dagster instance: its sensor sees the runs of all code locations. Alerts
    go to the apprise URLs in RESIL_ALERT_URLS and, always, to the log.
    """

    every_seconds: int = Field(
        default=15, ge=15, description="How often to look for failures, in seconds."
    )
    sensors: Literal["running", "stopped"] = Field(
        default="running", description="Whether the sensors run without being switched on."
    )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the two sensors."""
        status = (
            dg.DefaultSensorStatus.RUNNING
            if self.sensors == "running"
            else dg.DefaultSensorStatus.STOPPED
        )
        return dg.Definitions(
            sensors=[build_alert_sensor(self.every_seconds, status), build_janitor(status)]
        )


def build_alert_sensor(
    interval_s: int, status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING
) -> dg.SensorDefinition:
    """Return the sensor that sends an alert for every failed check and every failed run."""

    @dg.sensor(
        name="resil_failures",
        minimum_interval_seconds=interval_s,
        default_status=status,
        description="Tells of every failed check and every failed run, each once, by apprise: see "
        f"{URLS_VARIABLE}. It ignores failures before its first tick.",
    )
    def resil_failures(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        instance = context.instance
        begun = Positions.from_cursor(context.cursor, newest_id(instance))
        with explained():
            delivery = deliver(
                begun,
                places(),
                lambda after: read_failures(instance, after),
                within_s=_SEND_WITHIN_S,
            )
            failures = "; ".join(delivery.failures)
            if failures and not delivery.sent:
                # A red tick. What was told before it is in the cursor already; that of a failed
                # tick is not stored, so a tick that has sent something must not fail.
                raise NotSent(failures, hint="each place is tried again at the next tick")
        context.update_cursor(delivery.told.to_cursor())
        return dg.SkipReason(
            failures or (f"sent {delivery.sent}" if delivery.sent else "nothing failed")
        )

    return resil_failures


def build_janitor(
    status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING,
) -> dg.SensorDefinition:
    """Return the sensor that clears what a killed process left, and expired scratch servers.

    It works inside its own tick, on the code server's machine: where runs have machines of their
    own, these go with what they hold, and every backup and proof sweeps its machine first.
    """

    @dg.sensor(
        name="resil_janitor",
        minimum_interval_seconds=_JANITOR_INTERVAL_S,
        default_status=status,
        description="Stops scratch servers whose time is over, and removes what killed runs left "
        "on this machine.",
    )
    def resil_janitor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        from dagster_resil.postgres.scratch import sweep

        with explained():
            removed = sweep()
        return dg.SkipReason(f"cleared {len(removed)} folders" if removed else "nothing to clear")

    return resil_janitor
