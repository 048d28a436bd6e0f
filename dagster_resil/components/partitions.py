"""Time partitions that mean what they say."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime, timedelta

import dagster as dg

from dagster_resil.records.base import format_time
from dagster_resil.records.manifest import Partition

CRONS = {"hourly": "0 * * * *", "daily": "0 0 * * *", "weekly": "0 0 * * 0"}
_FORMATS = {"hourly": "%Y-%m-%d-%H:%M", "daily": "%Y-%m-%d", "weekly": "%Y-%m-%d"}
_CRON_FORMAT = "%Y-%m-%d-%H:%M"


def build_partitions(
    cadence: str, cron: str, timezone: str, start: str
) -> dg.TimeWindowPartitionsDefinition:
    """Return the partitions of a cadence; the window that is open now has a key.

    :param cadence: "hourly", "daily", "weekly" or "cron".
    :param start: the day of the first window, ``YYYY-MM-DD``; fixed, so that keys stay.
    """
    return dg.TimeWindowPartitionsDefinition(
        cron_schedule=cron,
        start=datetime.fromisoformat(start),
        fmt=_FORMATS.get(cadence, _CRON_FORMAT),
        timezone=timezone,
        end_offset=1,
    )


def spread(cron: str, name: str) -> str:
    """Return when to back up: a window opens for all at once, and each database has a minute.

    A hundred databases that begin in the same second would wait for each other.
    """
    return f"{zlib.crc32(name.encode()) % 60} {cron.split(' ', 1)[1]}"


def open_key(partitions: dg.TimeWindowPartitionsDefinition, now: datetime | None = None) -> str:
    """Return the key of the window that is open."""
    moment = now or datetime.now(UTC)
    return partitions.get_partition_key_for_timestamp(moment.timestamp())


def partition_of(partitions: dg.TimeWindowPartitionsDefinition, key: str) -> Partition:
    """Return the window of a key."""
    window = partitions.time_window_for_partition_key(key)
    return Partition(key=key, start=window.start.astimezone(UTC), end=window.end.astimezone(UTC))


def past_partition(
    partitions: dg.TimeWindowPartitionsDefinition,
    key: str,
    *,
    grace_s: float,
    now: datetime | None = None,
) -> Partition | None:
    """Return the window of a key that a live backup can't belong to any more; None for another."""
    now = now or datetime.now(UTC)
    partition = partition_of(partitions, key)
    return None if now < partition.end + timedelta(seconds=grace_s) else partition


def live_partition(
    partitions: dg.TimeWindowPartitionsDefinition,
    key: str,
    *,
    grace_s: float,
    now: datetime | None = None,
) -> Partition:
    """Return the window of a key that a live backup may still belong to.

    :raises dagster.Failure: the window is past its grace, or has not begun: a backup of today
        never appears under another day's key.
    """
    now = now or datetime.now(UTC)
    partition = partition_of(partitions, key)
    start, end = partition.start, partition.end
    if now < start:
        raise dg.Failure(
            f"partition {key} begins at {format_time(start)}: nothing was taken\n"
            f"hint: the open partition is {open_key(partitions, now)}",
            allow_retries=False,
        )
    if now >= end + timedelta(seconds=grace_s):
        raise dg.Failure(
            f"partition {key} ended at {format_time(end)}: a backup taken now would show the "
            "database of now, not of then, so nothing was taken; a past window needs "
            "point-in-time recovery, which this source does not offer here\n"
            f"hint: materialize the open partition, {open_key(partitions, now)}",
            allow_retries=False,
        )
    return partition.model_copy(update={"late": now >= end})
